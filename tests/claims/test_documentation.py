"""Every block of the documentation is run or says why not, and what is not run names commands that exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import stand_in_pip
from .documented import ROOT, SHELLS, blocks_of, documents, inline_commands, shell_blocks
from .options import commands_in_help, find_problem

BLOCKS = [block for path in documents() for block in blocks_of(path)]
NOT_RUN = [block for block in BLOCKS if block.is_not_run]
LANGUAGES = {*SHELLS, "python", "python norun", "text", "bibtex", "csv", "yaml"}
PIP = Path(stand_in_pip.__file__)


def test_every_block_says_what_language_it_is_in():
    assert {block.name: block.language for block in BLOCKS if block.language not in LANGUAGES} == {}


def test_every_fence_is_found():
    fences = sum(len(re.findall(r"^```", path.read_text(), re.MULTILINE)) for path in documents())
    assert fences == 2 * len(BLOCKS)


def test_what_is_not_run_is_listed_with_its_reason(capsys):
    with capsys.disabled():
        print("\n\nBlocks of the documentation that are not run:")  # noqa: T201
        for block in NOT_RUN:
            print(f"  {block.name}\n    {block.reason}")  # noqa: T201
    assert [block.name for block in NOT_RUN if len(block.reason.split()) < 2] == []


@pytest.mark.parametrize(
    "block", [b for b in NOT_RUN if b.is_shell] + inline_commands() + commands_in_help(), ids=lambda block: block.name
)
def test_commands_that_are_not_run_exist_with_their_options(block):
    assert [problem for command in block.commands() if (problem := find_problem(command))] == []


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("aver predict clip.mp4 --mode MODEL", "aver predict --mode: no such option"),
        ("aver data built crema_d CREMA-D", "aver data built: no such command"),
        ("torchrun --nproc_per_node 2 train_hf.py RECIPE.yaml --output-dirs x", "train_hf.py --output-dirs: no such"),
        ("python train_hf.py modeling_aver/training/recipes/none.yaml", "no file modeling_aver/training/recipes/none"),
        ("python benchmarks/none.py", "no file benchmarks/none.py"),
        ("make demonstration", "make demonstration: no such target"),
    ],
)
def test_a_mistyped_command_is_found(command, problem):
    assert problem in find_problem(command)


@pytest.mark.parametrize(
    ("requirement", "error"),
    [
        (".", ""),
        (".[mediapipe,plot]", ""),
        ("modeling-aver[peft]", ""),
        (".[mediapip]", "no extra mediapip, only plot, peft"),
        ("transformers<5.24", ""),
        ("onnx>=1.23", ""),
        ("modelling-aver", "neither this project nor"),
        ("modeling-aver[peft", "Expected"),
    ],
)
def test_the_stand_in_pip_takes_what_pyproject_has(requirement, error):
    run = subprocess.run([sys.executable, PIP, "install", requirement], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode == 0, error in run.stderr) == (not error, True)


def test_the_extras_are_read_whole():
    known = stand_in_pip.extras((ROOT / "pyproject.toml").read_text())
    assert known["peft"] == ["peft>=0.20"]
    assert {"modeling-aver[onnx,peft,plot]", "scikit-learn>=1.5"} <= set(known["test"])


def test_a_comment_above_a_block_and_a_language_are_read(tmp_path, monkeypatch):
    text = (
        "# A\n\n<!-- not run: needs\ntwo GPUs -->\n```bash\nA=1\ntrain \\\n  x   # here\n```\n\n```text\ntree\n```\n"
    )
    (tmp_path / "a.md").write_text(text)
    monkeypatch.setattr("claims.documented.ROOT", tmp_path)
    shell, tree = blocks_of(tmp_path / "a.md")
    assert (shell.reason, shell.line, shell.is_shell, tree.is_shell) == ("needs two GPUs", 6, True, False)
    assert not tree.comment and [command.split() for command in shell.commands()] == [["train", "x", "#", "here"]]


def test_the_blocks_are_there():
    assert len([block for block in shell_blocks() if not block.is_not_run]) > 10
