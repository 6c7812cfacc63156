"""Progress on standard error: a bar on a terminal, and elsewhere a line of text now and then."""

import time
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

EVERY = 10.0  # seconds between two lines, where no step is reached
STEP = 0.05  # of the total, after which a line comes sooner
LEAST = 1.0  # seconds between two lines, however fast it goes


class ClipCounter:
    """
    How many clips are done, and how fast; those of an earlier run count as done, but not towards the rate.

    Args:
        total (`int`): Number of clips.
        clock (callable, *optional*): Seconds.
    """

    def __init__(self, total, clock=time.monotonic):
        self.total, self.clock = total, clock
        self.done = self.earlier = 0
        self.start = clock()

    def add(self, count=1, earlier=False):
        """Counts clips; `earlier` ones were done before this run."""
        self.done += count
        if earlier:
            self.earlier += count
            self.start = self.clock()

    @property
    def rate(self):
        """Clips per second of this run."""
        return (self.done - self.earlier) / max(self.clock() - self.start, 1e-3)

    @property
    def seconds_left(self):
        """Estimate from the rate; `None` before the first clip of this run is done."""
        return (self.total - self.done) / self.rate if self.done > self.earlier else None

    def to_text(self):
        """One phrase: how many were already done, the rate of this run, and the time left."""
        parts = [f"already done: {self.earlier}"] if self.earlier else []
        if self.seconds_left is not None:
            left = timedelta(seconds=round(self.seconds_left))
            parts += [f"{self.rate:.1f} clips/s", *([f"{left} left"] if self.done < self.total else [])]
        return ", ".join(parts)


class LineProgress:
    """
    Progress as lines of text, for logs: every `EVERY` seconds, or sooner after each `STEP` of the total.

    Args:
        title (`str`): Begins each line.
        counter ([`ClipCounter`])
        console (`rich.console.Console`): Where the lines go.
    """

    def __init__(self, title, counter, console):
        self.title, self.counter, self.console = title, counter, console
        self.last_time, self.last_done, self.text = counter.clock(), 0, ""

    def update(self, text=""):
        """Prints a line, with `text` at its end, if it is time for one."""
        self.text = text
        waited = self.counter.clock() - self.last_time
        step = self.counter.done - self.last_done >= STEP * self.counter.total
        if waited >= EVERY or (step and waited >= LEAST):
            self.print()

    def print(self):
        """Prints a line."""
        done, total = self.counter.done, self.counter.total
        share = done / total if total else 1.0
        facts = [f"{self.title}: {done} of {total} clips ({share:.0%})", self.counter.to_text(), self.text]
        self.console.print(", ".join(filter(None, facts)), markup=False, highlight=False, soft_wrap=True)
        self.last_time, self.last_done = self.counter.clock(), done

    def finish(self):
        """Prints the last line, unless it is the one that was printed last."""
        if self.counter.done != self.last_done:
            self.print()


class _Facts(ProgressColumn):
    """What the counter of a task says."""

    def render(self, task):
        return Text(task.fields["counter"].to_text())


class BarProgress:
    """The same as a bar on a terminal; see [`LineProgress`]."""

    def __init__(self, title, counter, console):
        self.counter = counter
        columns = [BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), _Facts()]
        self.bar = Progress(
            TextColumn(title), *columns, TextColumn("{task.fields[text]}", markup=False), console=console
        )
        self.task = self.bar.add_task(title, total=counter.total, text="", counter=counter)
        self.bar.start()

    def update(self, text=""):
        """Draws the bar."""
        self.bar.update(self.task, completed=self.counter.done, text=text)

    def finish(self):
        """Leaves the bar as it is."""
        self.bar.stop()


@contextmanager
def count_progress(title, total, disable=False):
    """
    Shows on standard error how many clips are done while the block runs.

    Args:
        title (`str`): What is done.
        total (`int`): Number of clips.
        disable (`bool`, *optional*, defaults to `False`): Show nothing.

    Yields:
        A function `advance(count=1, earlier=False, text="")`: `count` more clips are done, or were before this run
        (`earlier`); `text` is shown behind them.
    """
    counter, console = ClipCounter(total), Console(stderr=True, quiet=disable)
    shown = (BarProgress if console.is_terminal and not disable else LineProgress)(title, counter, console)

    def advance(count=1, earlier=False, text=""):
        counter.add(count, earlier)
        shown.update(text)

    try:
        yield advance
    finally:
        shown.finish()


@contextmanager
def clip_progress(total):
    """
    Shows the progress of an extraction while the block runs.

    Args:
        total (`int`): Number of clips.

    Yields:
        A function to call with each [`Outcome`].
    """
    bad = 0
    with count_progress("extract", total) as advance:

        def watch(outcome):
            nonlocal bad
            bad += outcome.is_missing
            advance(earlier=outcome.earlier, text=f"{bad} not done" if bad else "")

        yield watch
