"""Contenders measured side by side in one process, and what each benchmark leaves: JSON, Markdown, a picture."""

import gc
import json
import multiprocessing
import platform
import random
import time
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Ratio:
    """Median over rounds of one contender's seconds (bytes, …) over another's, and the middle half of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values, against):
        """Of two arrays of shape `(rounds,)`, measured in turn: each round has a ratio of its own."""
        low, median, high = np.percentile(np.asarray(values) / np.asarray(against), [25, 50, 75])
        return cls(float(median), float(low), float(high))

    def __str__(self):
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def interleave(contenders, rounds, *, seconds=0.0):
    """
    Seconds of each contender in each round. A round calls each once, in an order drawn anew, so that whatever else the
    machine does meets all alike; a first round that does not count warms them up.

    Args:
        contenders (`dict[str, Callable[[], object]]`): By name.
        rounds (`int`): At least 1.
        seconds (`float`, *optional*, defaults to 0.0): Each measurement repeats its call until that much has passed
            in the warm-up's reckoning, for calls too short for the clock.

    Returns:
        `dict[str, np.ndarray]` of shape `(rounds,)`: Seconds a call.
    """
    repeats = {name: max(1, round(seconds / _timed(call, 1))) if seconds else 1 for name, call in contenders.items()}
    for name, call in contenders.items():
        _timed(call, repeats[name])
    times, order = {name: [] for name in contenders}, random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(contenders), len(contenders)):
            times[name].append(_timed(contenders[name], repeats[name]))
    return {name: np.array(values) for name, values in times.items()}


def _timed(call, repeats):
    """Seconds a call; a GPU's work is waited for."""
    gc.collect()
    _synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    _synchronize()
    return (time.perf_counter() - start) / repeats


def _synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_mebibytes(build, *arguments):
    """
    The most memory that a call takes beyond what was held before it, in MiB, in a process of its own. Linux only.

    Args:
        build (`Callable`): A function of a module; called with `arguments` it returns the call to measure.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (build, arguments, torch.get_num_threads()))


def _peak(build, arguments, threads):
    torch.set_num_threads(threads)
    call = build(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins at what is held now
    before = _resident("VmRSS")
    call()
    return (_resident("VmHWM") - before) / 2**10


def _resident(name):
    """A line of `/proc/self/status`, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def machine():
    """`dict[str, str]`: where and with what something was measured."""
    return {
        "processor": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_model(),
        "threads": str(torch.get_num_threads()),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers")},
        "date": date.today().isoformat(),
    }


def cpu_model():
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.processor()


def markdown_table(rows):
    """Rows of one shape, as Markdown; keys are the heads of the columns."""
    lines = [
        list(rows[0]),
        ["---"] + ["---:"] * (len(rows[0]) - 1),
        *([str(cell) for cell in row.values()] for row in rows),
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def publish(name, title, *, command, sections, numbers, draw, out=RESULTS):
    """
    Writes `NAME.json`, `NAME.md` and `NAME.png`, and prints the Markdown.

    Args:
        name (`str`): Of the benchmark and its files.
        title (`str`): Heading of the Markdown.
        command (`str`): What measured it.
        sections (`list[str]`): Tables and sentences of the Markdown.
        numbers (`dict`): All that was measured; the JSON has `command` and `machine` beside it.
        draw (`Callable[[matplotlib.figure.Figure], None]`): Draws the picture.
        out (`Path`, *optional*): A folder.
    """
    from matplotlib.figure import Figure  # here, so that measuring needs no `plot` extra

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    facts = machine()
    results = {"command": command, "machine": facts, **numbers}
    (out / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    figure = Figure(figsize=(9, 5), layout="constrained")
    draw(figure)
    figure.savefig(out / f"{name}.png", dpi=150)
    footer = ", ".join(f"{key} {value}" if key in ("torch", "transformers", "python", "threads") else value
                       for key, value in facts.items())  # fmt: skip
    parts = [
        f"# {title}",
        *sections,
        f"    {command}",
        f"{footer}. All numbers: `{name}.json`.",
        f"![{title}]({name}.png)",
    ]
    text = "\n\n".join(parts) + "\n"
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    Console().print(text, markup=False, highlight=False)


def draw_ratios(axes, ratios, *, goal, floor):
    """
    A dot a row with the middle half of its rounds, and lines at goal and floor.

    Args:
        ratios (`dict[str, Ratio]`): By the row's name.
        goal, floor (`float`): Ratios; the floor is what must hold.
    """
    values = list(ratios.values())
    places = range(len(values))
    axes.hlines(places, [value.low for value in values], [value.high for value in values], color="#1f6f8b", alpha=0.5)
    axes.plot([value.median for value in values], places, "o", color="#1f6f8b")
    axes.axvline(goal, color="black", linewidth=0.8, label=f"goal {goal:.2f}")
    axes.axvline(floor, color="#e07a2f", linewidth=0.8, linestyle="--", label=f"floor {floor:.2f}")
    axes.set_yticks(places, list(ratios))
    axes.invert_yaxis()
    axes.set_xlabel("ratio; lower is better")
    axes.legend()
    axes.grid(alpha=0.25)
