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
from support.closure import CLOSURE, FLOORS
from transformers.dynamic_module_utils import get_relative_import_files

ROOT = Path(__file__).resolve().parents[1]
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
