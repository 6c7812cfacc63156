"""
What travels with a checkpoint, and what an import loads. The layers of the package: import-linter, in pyproject.toml.

`modeling_aver.py` names the pipeline where it saves itself, so that the pipeline travels too. Where the package is
installed, the pipeline finds the readers of media in `inference/` and `features/` by name, at run time.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.closure import CLOSURE, PACKAGE
from support.models import aver_config, aver_model
from transformers.dynamic_module_utils import get_relative_import_files

from modeling_aver import AverProcessor

ROOT = Path(__file__).resolve().parents[1]


def test_the_travelling_files_import_each_other_and_nothing_else():
    reached = {"modeling_aver.py", "processing_aver.py"}
    for entry in sorted(reached):
        reached |= {Path(name).name for name in get_relative_import_files(PACKAGE / entry)}
    assert reached == CLOSURE


def test_a_saved_folder_holds_exactly_the_travelling_files(tmp_path):
    config = aver_config()
    aver_model(config).save_pretrained(tmp_path)
    AverProcessor.from_config(config).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.rglob("*.py")} == CLOSURE


def test_no_module_of_the_packages_imports_the_training_script():
    for folder in (PACKAGE, ROOT / "datasets_scripts"):
        for path in folder.rglob("*.py"):
            imported = {
                name
                for node in ast.walk(ast.parse(path.read_text()))
                for name in ([node.module] if isinstance(node, ast.ImportFrom) else [])
                + ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
            }
            assert "train_hf" not in imported, path


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
from modeling_aver.cli.main import app
app(["--help"], standalone_mode=False)
print([name for name in {heavy} if name in sys.modules and name not in before])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "predict" in run.stdout and run.stdout.splitlines()[-1] == "[]"
