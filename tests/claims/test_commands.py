"""
Every shell block of the documentation is run, literally, as its reader would: in a fresh clone whose `.venv` is
activated, with the files that the lines name.

A stand-in replaces only what cannot run here: pip, which needs the network, is replaced by a check of the requirement
against pyproject.toml; OpenFace by `made_up_openface.py`; the Hub by one on loopback, with tiny encoders of random
weights under the names of the real ones. `reader.OFFLINE` and `reader.THREADS` are all that is set and not printed.
"""

import pytest

from .cases import cases, needs_trained_model, run_block
from .documented import README, blocks_of, shell_blocks

BLOCKS = [block for block in shell_blocks() if not needs_trained_model(block)]
OF_THE_HUB = [block for block in blocks_of(README) if block.language == "python" and "facebook/" in block.text]


@pytest.mark.parametrize("block", cases(BLOCKS))
def test_a_shell_block_runs_as_printed(block, reader, tmp_path):
    run_block(block, reader, tmp_path / "clone")


@pytest.mark.parametrize("block", cases(OF_THE_HUB))
def test_a_python_block_that_needs_the_hub_runs(block, reader, tmp_path):
    reader.skip_unless_ready(block.text)
    clone = reader.clone(tmp_path / "clone")
    (clone / "block.py").write_text(block.text)
    reader.run("python block.py\n", clone)
