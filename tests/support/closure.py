"""The files that travel with a checkpoint."""

FLOORS = {
    "modeling_aver/positions.py": 0,
    "modeling_aver/losses.py": 0,
    "modeling_aver/windows.py": 0,
    "modeling_aver/pipeline_aver.py": 1,
    "modeling_aver/features": 0,
    "modeling_aver/configuration_aver.py": 1,
    "modeling_aver/audio_encoders.py": 0,
    "modeling_aver/encoder.py": 2,
    "modeling_aver/modeling_aver.py": 3,
    "modeling_aver/processing_aver.py": 3,
    "modeling_aver/features/speaker_profile.py": 3.25,  # the processor reads what it holds, and does not know it
    "modeling_aver/training": 4,
    "modeling_aver/cards/scored_data.py": 4.5,  # reads what is known of the corpora
    "modeling_aver/cards/model_card.py": 5,
    "modeling_aver/cards/experiment_card.py": 5.5,
    "modeling_aver/cards/push.py": 5.5,
    "datasets_scripts": 4,
    "modeling_aver/paper/tables.py": 5,
    "modeling_aver/paper/runner.py": 6.25,  # rows run train_hf.py
    "modeling_aver/paper/figure3.py": 6.5,
    "modeling_aver/paper/command.py": 6.75,
    "modeling_aver/analysis/dynamics.py": 5,
    "modeling_aver/inference": 5.25,  # draws what the analysis finds
    "modeling_aver/cli/data.py": 6,
    "modeling_aver/cli/main.py": 7,
    "modeling_aver/__main__.py": 8,
    "train_hf.py": 6,
    "modeling_aver/__init__.py": 3.5,
}


CLOSURE = {path.split("/")[1] for path, floor in FLOORS.items() if floor <= 3 and path.endswith(".py")}
