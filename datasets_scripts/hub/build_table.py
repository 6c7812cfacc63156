"""What a build did, as a table for people."""

import sys

from rich.console import Console
from rich.table import Table

WIDTH = 140  # characters, where the output is no terminal and the table would be cut


def print_build(build, console=None):
    """
    Prints the clips of each part of each configuration, all and by emotion, then what was left out and why.

    Args:
        build ([`built.Build`]): See [`build.build_corpus`].
        console (`rich.console.Console`, *optional*): Defaults to the terminal.
    """
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH)
    parts = [(name, part, counts) for name, found in build.counts.items() for part, counts in found.items()]
    emotions = list(dict.fromkeys(emotion for _, _, counts in parts for emotion in counts["emotions"]))
    table = Table(title=build.corpus)
    table.add_column("configuration", no_wrap=True)
    table.add_column("part", no_wrap=True)
    for column in ("clips", "speakers", *emotions):
        table.add_column(column, justify="right")
    for name, part, counts in parts:
        numbers = [counts["clips"], counts["speakers"], *(counts["emotions"].get(emotion, 0) for emotion in emotions)]
        table.add_row(name, part, *(f"{number:,}" for number in numbers))
    console.print(table)
    for utterance_id, reason in sorted(build.left_out.items()):
        console.print(f"left out: {utterance_id}: {reason}", markup=False, highlight=False, soft_wrap=True)
