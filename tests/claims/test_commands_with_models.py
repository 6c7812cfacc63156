"""As `test_commands.py`, for the blocks that start from a trained model: `runs/demo`, `MODEL` and others."""

import pytest

from .cases import cases, needs_trained_model, run_block
from .documented import shell_blocks

BLOCKS = [block for block in shell_blocks() if needs_trained_model(block)]


@pytest.mark.parametrize("block", cases(BLOCKS))
def test_a_shell_block_runs_as_printed(block, reader, tmp_path):
    run_block(block, reader, tmp_path / "clone")
