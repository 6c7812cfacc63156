"""
The house: a file imports only from lower floors, and the Hub closure is nine files.

Seven are the model; the audio encoders, with what keeps padding out of them, have a file of their own among these.
`pipeline_aver.py` is the door that transformers opens for strangers, who get raw arrays and sound files answered;
`windows.py`, which it needs, is the mathematics of answers over time. Both are free of the model and of media.
`modeling_aver.py` names the pipeline where it saves itself, so that the two travel with every checkpoint. Where the
package is installed the pipeline calls `modeling_aver.inference` for raw video: by name, at run time, because that
floor is above it and absent elsewhere.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_import_files

ROOT = Path(__file__).resolve().parents[1]
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
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("modeling_aver", "datasets_scripts")
    for path in (ROOT / folder).rglob("*.py")
) + ["train_hf.py"]


def home(path):
    """The entry of FLOORS that a file belongs to."""
    fitting = [entry for entry in FLOORS if path == entry or path.startswith(entry + "/")]
    assert fitting, f"{path} has no floor: add it to FLOORS, and to the map of the house"
    return max(fitting, key=len)


def imported_files(path):
    """Files of this project that a file imports, from anywhere within it."""
    tree = ast.parse((ROOT / path).read_text())
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.module == "__future__":
            continue
        base = Path(path).parents[node.level - 1].as_posix() + "/" if node.level else ""
        target = (base + (node.module or "").replace(".", "/")).rstrip("/")
        for candidate in (f"{target}.py", f"{target}/__init__.py"):
            if (ROOT / candidate).is_file():
                yield candidate


@pytest.mark.parametrize("path", SOURCES)
def test_a_file_imports_only_from_lower_floors(path):
    for imported in imported_files(path):
        if home(imported) != home(path):
            # `import modeling_aver` is the door for users; within the project, files name the file that they mean.
            assert FLOORS[home(imported)] < FLOORS[home(path)], f"{path} imports {imported}"


def test_the_hub_closure_is_the_nine_files():
    package = ROOT / "modeling_aver"
    for entry in ("modeling_aver.py", "processing_aver.py"):
        assert {Path(name).name for name in get_relative_import_files(package / entry)} <= CLOSURE
    assert {Path(name).name for name in get_relative_import_files(package / "modeling_aver.py")} == CLOSURE - {
        "modeling_aver.py",
        "processing_aver.py",
    }
    assert len(CLOSURE) == 9


@pytest.mark.slow
def test_importing_the_package_loads_neither_media_nor_training_nor_plots():
    heavy = ("av", "datasets", "evaluate", "matplotlib", "sklearn", "typer", "mediapipe")
    code = f"import sys, modeling_aver; print([name for name in {heavy} if name in sys.modules])"
    before = f"import sys, transformers.pipelines, torch; print([name for name in {heavy} if name in sys.modules])"
    run = [
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
        for text in (code, before)
    ]
    assert set(ast.literal_eval(run[0].stdout)) <= set(ast.literal_eval(run[1].stdout)) | {"sklearn"}, run[0].stdout


@pytest.mark.slow
def test_the_commands_help_loads_no_more_than_the_package():
    heavy = ("av", "datasets", "evaluate", "matplotlib", "mediapipe", "gradio", "cv2", "onnxruntime", "pandas")
    code = f"""
import sys, modeling_aver
before = set(sys.modules)
from modeling_aver.cli import app
app(["--help"], standalone_mode=False)
print([name for name in {heavy} if name in sys.modules and name not in before])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "predict" in run.stdout and run.stdout.splitlines()[-1] == "[]"
