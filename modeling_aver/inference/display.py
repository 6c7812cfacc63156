"""Answers on the terminal: a table of clips, what is to be known of them, and a bar while they are read."""

import os
import sys
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table


def print_predictions(predictions):
    """
    Prints a row a clip, its notes, and every clip that has no answer with the reason.

    Args:
        predictions ([`Predictions`])
    """
    console = Console(soft_wrap=True)
    columns = [Column(escape(name), no_wrap=True) for name in ("clip", "answer", *predictions.labels)]
    table = Table(*columns, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for name, one in sorted(predictions.done.items()):
        scores = [f"{one['probabilities'][label]:.2f}" for label in predictions.labels]
        table.add_row(escape(name), escape(one["label"]), *scores)
    if predictions.done:
        console.print(table)
    for name, one in sorted(predictions.done.items()):
        for note in one["notes"]:
            console.print(f"{name}: {note}", markup=False, highlight=False)
    for name, reason in sorted(predictions.failed.items()):
        console.print(f"no answer for {name}: {reason}", markup=False, highlight=False)


@contextmanager
def prediction_progress(total, title="predict"):
    """
    Shows a bar on standard error while the block runs.

    Args:
        total (`int`): Number of clips.
        title (`str`, *optional*, defaults to `"predict"`): Before the bar.

    Yields:
        A function to call with a clip's name and the seconds read of it, or with its name and `None` when it is over.
    """
    columns = [BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[at]}", markup=False)]
    with Progress(TextColumn(title), *columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("clips", total=total, at="")

        def watch(name, seconds):
            if seconds is None:
                bar.update(task, advance=1, at="")
            else:
                bar.update(task, at=f"{name} {int(seconds) // 60}:{int(seconds) % 60:02d}")

        yield watch


@contextmanager
def quiet_natives():
    """While the block runs, native libraries keep their chatter to themselves; `sys.stderr` still writes."""
    python, kept = sys.stderr, os.dup(2)
    with os.fdopen(kept, "w", buffering=1, errors="backslashreplace") as own, open(os.devnull, "w") as silence:
        if python is sys.__stderr__:
            sys.stderr = own
        os.dup2(silence.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            sys.stderr = python
