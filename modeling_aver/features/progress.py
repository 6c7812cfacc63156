"""A bar on the terminal: clips, clips a second, time left, and how many are not done."""

from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Speed(ProgressColumn):
    def render(self, task):
        return Text(f"{task.finished_speed or task.speed or 0.0:.1f} clips/s")


@contextmanager
def clip_progress(total):
    """
    Shows a bar on standard error while the block runs.

    Args:
        total (`int`): Number of clips.

    Yields:
        A function to call with each [`Outcome`].
    """
    columns = [BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn(), TextColumn("{task.fields[bad]}")]
    with Progress(TextColumn("extract"), *columns, console=Console(stderr=True)) as bar:
        task, bad = bar.add_task("clips", total=total, bad=""), 0

        def watch(outcome):
            nonlocal bad
            bad += outcome.status != "done"
            bar.update(task, advance=1, bad=f"{bad} not done" if bad else "")

        yield watch
