"""What the README shows, runs."""

import re
from pathlib import Path

import pytest
from support.models import aver_config, aver_model

from modeling_aver import AverProcessor

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
# Blocks that need the Hub run in tests/claims/test_commands.py.
OFFLINE = [block for block in BLOCKS if "facebook/" not in block]


@pytest.mark.parametrize("block", OFFLINE, ids=lambda block: block.strip().splitlines()[-1][:40])
def test_every_python_block_runs(block, tmp_path, monkeypatch):
    config = aver_config(num_action_units=35)
    monkeypatch.chdir(tmp_path)
    aver_model(config).save_pretrained("runs/demo")
    AverProcessor.from_config(config).save_pretrained("runs/demo")
    exec(compile(block, "README.md", "exec"), {})


def test_the_blocks_are_found():
    assert len(OFFLINE) == 5


@pytest.mark.parametrize(
    "path", re.findall(r"`((?:tests|datasets_scripts|benchmarks|modeling_aver)/[\w./-]+)`", README)
)
def test_every_file_it_names_is_there(path):
    assert (ROOT / path).exists()
