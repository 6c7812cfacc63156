"""Answers on the terminal: a table of clips, their notes, and progress while they are read."""

import os
import sys
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ..io.progress import count_progress

WIDEST = 10_000  # columns of a table that goes to a file


def print_table(names, rows):
    """
    Prints one row per clip, whose first column wraps where a terminal is too narrow. Elsewhere each row is one line.

    Args:
        names (`list[str]`): Of the columns.
        rows (iterable of `list[str]`)
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDEST)
    first, *others = map(escape, names)
    columns = [Column(first, overflow="fold"), *(Column(name, no_wrap=True) for name in others)]
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def print_predictions(predictions):
    """
    Prints a row a clip, its notes, and every clip that has no answer with the reason.

    Args:
        predictions ([`Predictions`])
    """
    console = Console(soft_wrap=True)
    if predictions.done:
        print_table(("clip", "answer", *predictions.labels), _scores_of(predictions))
    for name, one in sorted(predictions.done.items()):
        for note in one["notes"]:
            console.print(f"{name}: {note}", markup=False, highlight=False)
    for name, reason in sorted(predictions.failed.items()):
        console.print(f"no answer for {name}: {reason}", markup=False, highlight=False)


def _scores_of(predictions):
    """A row of texts for each clip."""
    for name, one in sorted(predictions.done.items()):
        yield [name, one["label"], *(f"{one['probabilities'][label]:.2f}" for label in predictions.labels)]


@contextmanager
def prediction_progress(total, title="predict"):
    """
    Shows progress on standard error while the block runs.

    Args:
        total (`int`): Number of clips.
        title (`str`, *optional*, defaults to `"predict"`): What is done.

    Yields:
        A function to call with a clip's name and the seconds read of it, or with its name and `None` when it is over;
        with `earlier=True` for a clip that was over before this run.
    """
    with count_progress(title, total) as advance:

        def watch(name, seconds, earlier=False):
            if seconds is None:
                advance(earlier=earlier)
            else:
                advance(0, text=f"{name} {int(seconds) // 60}:{int(seconds) % 60:02d}")

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
