"""A finished run's folder without the training: a tiny model, and answers to made-up clips."""

import json
from types import SimpleNamespace

import pandas as pd
from support.models import aver_config, aver_model
from transformers import TrainerState

from modeling_aver import AverProcessor
from modeling_aver.evaluation.results import write_results

EMOTIONS = ("anger", "disgust", "fear", "happy", "neutral", "sad")
IDENTITY = {
    "name": "openface",
    "version": None,
    "settings": {"static": False},
    "columns": [f"AU0{i}" for i in range(7)],
}
LOG = [
    {"step": 1, "epoch": 0.5, "loss": 2.5, "classification_loss": 1.75, "ctm_loss": 1.5, "learning_rate": 0.1},
    {"step": 2, "epoch": 1.0, "loss": 2.25, "classification_loss": 1.5, "ctm_loss": 1.5, "learning_rate": 0.05},
    {"step": 2, "epoch": 1.0, "eval_loss": 2.0, "eval_runtime": 0.1, "eval_samples_per_second": 60.0},
    {"step": 2, "epoch": 1.0, "train_runtime": 9.0, "train_loss": 2.375, "total_flos": 1.0},
]


def made_up_predictions(labels=EMOTIONS):
    """Fourteen clips of two speakers, of which ten are right; the last emotion is in none."""
    truth = [*labels[:5], *labels[:5], *labels[:4]]
    answers = [*labels[:5], *labels[:5], *(labels[-1],) * 4]
    table = {
        "utterance_id": [f"clip{number}" for number in range(len(truth))],
        "speaker_id": ["1001"] * 7 + ["1002"] * 7,
        "label": truth,
        "prediction": answers,
    }
    probabilities = {f"p_{label}": [float(answer == label) for answer in answers] for label in labels}
    return pd.DataFrame({**table, **probabilities})


def made_up_run(folder, *, scored=True, log=True, config=None, without_action_units=None, **dataset):
    """
    Writes a run as `train_hf.py` leaves it.

    Args:
        folder (`Path`)
        scored (`bool`, *optional*, defaults to `True`): Whether clips were scored.
        log (`bool`, *optional*, defaults to `True`): Whether the log was kept.
        config (`dict`, *optional*): Values of `aver_config`.
        without_action_units (`dict`, *optional*): Of each split, `count` clips of `total`.
        dataset: Values of `DataArguments`; CREMA-D's speaker_holdout, scored on test, if not given.
    """
    config = aver_config(**{"feature_identity": IDENTITY, **(config or {})})
    model = aver_model(config)
    model.save_pretrained(folder)
    AverProcessor.from_config(config, action_unit_mean=[0.5] * 7, action_unit_std=[1.0] * 7).save_pretrained(folder)
    given = {"dataset_name": "crema_d", "dataset_config_name": "speaker_holdout", "train_split": "train"}
    given |= {"eval_split": "test" if scored else None, **dataset}
    scores = {"eval_war": 10 / 14, "eval_uar": 11 / 15, "eval_macro_f1": 0.8} if scored else {}
    write_results(
        folder,
        metrics={"train_loss": 2.375, "train_runtime": 9.0, "epoch": 1.0, **scores},
        model=model,
        training_args=SimpleNamespace(seed=3, world_size=2),
        data_args=SimpleNamespace(**given),
        predictions=made_up_predictions(tuple(config.id2label.values())) if scored else None,
        seen_in_training=given["eval_split"] == given["train_split"],
        without_action_units=without_action_units,
    )
    change_json(folder / "results.json", command="train_hf.py a.yaml --data_dir /home/anna/CREMA-D --bf16")
    if log:
        TrainerState(log_history=LOG).save_to_json(str(folder / "trainer_state.json"))
    return folder


def change_json(path, **values):
    """Sets values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
