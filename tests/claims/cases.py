"""Blocks of the documentation as cases of tests."""

import re

import pytest

# (document, words of a block): the change that it waits for.
WAITS_FOR = {}
# Blocks that name models which have to be trained first; `make slow` runs each file of tests in a process of its own.
TRAINED = r"(?<![\w/])(runs/demo|runs/calibrated|MODEL)\b"


def needs_trained_model(block):
    """Whether a block starts from a model that `Reader` trains first."""
    return bool(re.search(TRAINED, re.sub(r"--output_dir \S+", "", block.text))) and not block.is_not_run


def cases(blocks):
    found = []
    for block in blocks:
        marks = [] if block.language == "inline" or block.is_not_run else [pytest.mark.slow]
        for (source, words), reason in WAITS_FOR.items():
            if block.source == source and words in block.text:
                marks.append(pytest.mark.xfail(reason=reason, strict=False))
        found.append(pytest.param(block, marks=marks, id=block.name))
    return found


def run_block(block, reader, clone):
    """Runs a shell block in a new folder, or skips the test where it is not to be run, or not here."""
    if block.is_not_run:
        pytest.skip(f"not run: {block.reason}")
    reader.skip_unless_ready(block.text)
    reader.clone(clone, block.text)
    if block.runs_until_interrupted:
        reader.run_until_interrupted(block.text, clone)
    else:
        reader.run(block.text, clone)
