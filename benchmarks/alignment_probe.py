"""
The alignment probe: how many training steps does each kind of position need before attention can tell whether two
streams at different frame rates agree in *time*?

**The task.** A clip is 2 s of "audio" at 50 Hz (100 frames) and "video" at 30 Hz (60 frames), four channels each: one
with events, three with noise alone. Each stream has three events, 0.6 s apart, from a random moment on. In class 1 the
events of both streams coincide; in class 0 the nearest are about 0.2 to 0.3 s apart.

Nothing but the *positions* of both streams together tells the classes apart:

- each stream alone has the same distribution in both classes, because the events move round a circle, and a uniform
  moment plus anything is uniform;
- so have the counts, and no event is cut off, because all events keep 0.1 s away from the ends of the clip;
- how an event falls between two frames says nothing either, because also in class 1 the video is moved by up to half a
  video frame, which makes its place within the frame uniform and independent of the audio.

Hence a model without positions must stay at chance. RoPE and sinusoids by index can solve the task, since frame m of
the video belongs with frame 5m/3 of the audio, but have to learn that; on one clock there is nothing to learn but
"together". Three events rather than one, because one in 160 frames leaves all kinds on a longer plateau.

**What is equal.** Size, first weights, data, order of the data, optimizer, learning rate and budget. Per seed, all
kinds begin from one set of weights (a learnable table comes on top). The encoder's weights begin with deviation 1/√64,
which keeps the size of what passes through a layer of 64 channels; 0.02, meant for wider models, would begin with
uniform attention.

**What is not equal by itself.** A learnable table begins with the deviation of all weights, 0.125, a sixth of the root
mean square of sinusoids, √½. As a weak beginning would say little about the kind, it runs twice: as the package begins
it, and begun with a deviation of √½.

**What is measured.** Every 25 steps, accuracy on 256 held-out clips that no training step sees. A kind has solved the
task at the first of two evaluations in a row with at least 99 %; its training then ends.

    python benchmarks/alignment_probe.py
"""

import json
import math
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import transformers
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table
from side_by_side import cpu_model
from torch import nn

from modeling_aver.configuration_aver import AverConfig
from modeling_aver.encoder import FusionEncoder, masked_mean
from modeling_aver.positions import frame_timestamps


class Kind(NamedTuple):
    """What a row of the table compares, and how its line is drawn."""

    title: str
    position_embedding_type: str
    color: str
    linestyle: str | tuple
    table_deviation: float | None = None  # of a learnable table's first values, where not the config's


KINDS = {
    "tarope": Kind("TaRoPE (seconds)", "tarope", "#0072B2", "-"),
    "rope": Kind("RoPE (index)", "rope", "#D55E00", "--"),
    "sinusoidal": Kind("sinusoidal (index)", "sinusoidal", "#009E73", "-."),
    "learnable": Kind("learnable (index)", "learnable", "#CC79A7", ":"),
    "learnable_large": Kind("learnable, begun large", "learnable", "#882255", (0, (5, 1, 1, 1, 1, 1)), 0.5**0.5),
    "none": Kind("none", "none", "#555555", (0, (1, 3))),
}

CLIP_SECONDS = 2.0
AUDIO_RATE, VIDEO_RATE = 50.0, 30.0  # Hz
NUM_CHANNELS = 4  # the first carries the events
MARGIN = 0.1  # s without events at either end: three deviations of an event
NUM_EVENTS = 3
SPACING = (CLIP_SECONDS - 2 * MARGIN) / NUM_EVENTS  # s between the events of a stream
MIN_SHIFT = 0.2  # s between events that do not coincide, at least
EVENT_DEVIATION = 0.033  # s: an event is a bump about 0.1 s wide, three video frames
EVENT_HEIGHT, NOISE_DEVIATION = 3.0, 0.3

HIDDEN_SIZE, NUM_HEADS, INTERMEDIATE_SIZE = 64, 4, 64
BATCH_SIZE, NUM_HELD_OUT = 32, 256
HELD_OUT_SEED = 1_000_000  # far from the seeds of training
EVALUATE_EVERY = 25  # steps
SOLVED = 0.99

AUDIO_CLOCK = frame_timestamps(round(CLIP_SECONDS * AUDIO_RATE), AUDIO_RATE)
VIDEO_CLOCK = frame_timestamps(round(CLIP_SECONDS * VIDEO_RATE), VIDEO_RATE)


def make_event_times(generator, batch_size):
    """
    Times of the events in both streams, and whether they coincide.

    Returns:
        `tuple`: audio times and video times in seconds, each `(batch_size, NUM_EVENTS)` and unsorted, where event k of
        one stream belongs with event k of the other; labels `(batch_size,)`, 1 where they coincide.
    """
    labels = torch.randint(0, 2, (batch_size,), generator=generator)
    start, shift, jitter = torch.rand(3, batch_size, generator=generator)
    shift = MIN_SHIFT + shift * (SPACING - 2 * MIN_SHIFT)
    jitter = (jitter - 0.5) / VIDEO_RATE
    circle = NUM_EVENTS * SPACING
    audio_times = start[:, None] * circle + torch.arange(NUM_EVENTS) * SPACING
    video_times = audio_times + (jitter + shift * (1 - labels))[:, None]
    return MARGIN + audio_times % circle, MARGIN + video_times % circle, labels


def make_batch(generator, batch_size):
    """
    Clips of the task.

    Returns:
        `tuple`: audio `(batch_size, 100, NUM_CHANNELS)`, video `(batch_size, 60, NUM_CHANNELS)`, labels
        `(batch_size,)`, 1 where the events of both streams coincide.
    """
    audio_times, video_times, labels = make_event_times(generator, batch_size)
    return (
        _frames_with_events(generator, audio_times, AUDIO_CLOCK),
        _frames_with_events(generator, video_times, VIDEO_CLOCK),
        labels,
    )


def _frames_with_events(generator, times, clock):
    frames = NOISE_DEVIATION * torch.randn(len(times), len(clock), NUM_CHANNELS, generator=generator)
    bumps = torch.exp(-((clock - times[..., None]) ** 2) / (2 * EVENT_DEVIATION**2))  # (B, events, T)
    frames[..., 0] += EVENT_HEIGHT * bumps.sum(dim=1)
    return frames


class Probe(nn.Module):
    """Linear projections, two msa blocks, the mean over all tokens, a linear head: the paper's model in small."""

    def __init__(self, position_embedding_type):
        super().__init__()
        config = AverConfig(
            hidden_size=HIDDEN_SIZE,
            num_attention_heads=NUM_HEADS,
            intermediate_size=INTERMEDIATE_SIZE,
            dropout=0.0,
            initializer_range=HIDDEN_SIZE**-0.5,
            fusion_layers=["msa", "msa"],
            position_embedding_type=position_embedding_type,
            max_position_embeddings=len(AUDIO_CLOCK),
        )
        self.audio_projection = nn.Linear(NUM_CHANNELS, HIDDEN_SIZE)
        self.video_projection = nn.Linear(NUM_CHANNELS, HIDDEN_SIZE)
        self.fusion_encoder = FusionEncoder(config)
        self.classifier = nn.Linear(HIDDEN_SIZE, 2)

    def forward(self, audio, video):
        """Logits `(batch_size, 2)` of the classes apart and together."""
        fused = self.fusion_encoder(
            self.audio_projection(audio), self.video_projection(video), AUDIO_CLOCK, VIDEO_CLOCK
        )
        states = torch.cat([fused.audio_hidden_states, fused.video_hidden_states], dim=1)
        every_frame = torch.ones(states.shape[:2], dtype=torch.bool)
        return self.classifier(masked_mean(states, every_frame))


def make_probe(kind, seed):
    """A new probe of `KINDS[kind]`. For one seed all kinds have the same weights; a learnable table comes on top."""
    torch.manual_seed(seed)
    shared = Probe("none").state_dict()
    probe = Probe(KINDS[kind].position_embedding_type)
    probe.load_state_dict(shared, strict=False)
    if KINDS[kind].table_deviation is not None:
        nn.init.normal_(probe.fusion_encoder.position_embeddings.weight, std=KINDS[kind].table_deviation)
    return probe


@torch.no_grad()
def accuracy(probe, clips):
    audio, video, labels = clips
    return (probe(audio, video).argmax(dim=1) == labels).float().mean().item()


def train(kind, seed, max_steps, learning_rate):
    """
    Trains one probe until it has solved the task or its steps are spent.

    Returns:
        `dict`: `accuracies` on the held-out clips after each `EVALUATE_EVERY` steps; `steps_to_solve`, `None` where
        the task was not solved; `processor_s`, seconds of one core, whatever else the machine was doing.
    """
    begin = time.process_time()
    torch.set_num_threads(1)  # one run a core; the sums then have one order, so the numbers repeat
    probe = make_probe(kind, seed)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=learning_rate)
    clips = torch.Generator().manual_seed(seed)
    held_out = make_batch(torch.Generator().manual_seed(HELD_OUT_SEED), NUM_HELD_OUT)
    accuracies = []
    for step in range(1, max_steps + 1):
        audio, video, labels = make_batch(clips, BATCH_SIZE)
        loss = nn.functional.cross_entropy(probe(audio, video), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % EVALUATE_EVERY == 0:
            accuracies.append(accuracy(probe, held_out))
            if steps_to_reach(SOLVED, accuracies) is not None:
                break
    return {
        "kind": kind,
        "seed": seed,
        "steps_to_solve": steps_to_reach(SOLVED, accuracies),
        "processor_s": round(time.process_time() - begin, 1),
        "accuracies": accuracies,
    }


def steps_to_reach(threshold, accuracies):
    """The step of the first of two evaluations in a row with at least `threshold`; `None` if there are none."""
    for index in range(len(accuracies) - 1):
        if min(accuracies[index : index + 2]) >= threshold:
            return (index + 1) * EVALUATE_EVERY
    return None


def train_all(seeds, max_steps, learning_rate, console):
    """All kinds with all seeds, one process a core: a list of what [`train`] returns, in order of kind and seed."""
    jobs = [(kind, seed, max_steps, learning_rate) for kind in KINDS for seed in range(seeds)]
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    # Spawned, because a fork of a process in which torch has begun threads may hang.
    pool = ProcessPoolExecutor(max_workers=min(os.cpu_count(), len(jobs)), mp_context=get_context("spawn"))
    with pool, Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=len(jobs))
        futures = [pool.submit(train, *job) for job in jobs]
        for future in as_completed(futures):
            run = future.result()
            outcome = f"solved at step {run['steps_to_solve']}" if run["steps_to_solve"] else "not solved"
            progress.console.print(f"{run['kind']}, seed {run['seed']}: {outcome}")
            progress.advance(task)
    return [future.result() for future in futures]


def summarize(runs):
    """
    One row a kind: median and range of the steps to 99 % and to 90 % over seeds (`None` is "not within the budget"),
    how many seeds solved it, and the median over seeds of the best accuracy.
    """
    rows = []
    for kind in KINDS:
        own = [run["accuracies"] for run in runs if run["kind"] == kind]
        solved = [steps_to_reach(SOLVED, accuracies) for accuracies in own]
        rows.append(
            {
                "kind": kind,
                "steps_to_99": _spread(solved),
                "steps_to_90": _spread([steps_to_reach(0.9, accuracies) for accuracies in own]),
                "seeds_solved": sum(steps is not None for steps in solved),
                "seeds": len(own),
                "best_accuracy": statistics.median(max(accuracies) for accuracies in own),
            }
        )
    return rows


def _spread(steps):
    ordered = sorted(math.inf if value is None else value for value in steps)
    spread = {"median": statistics.median(ordered), "min": ordered[0], "max": ordered[-1]}
    return {name: None if math.isinf(value) else value for name, value in spread.items()}  # JSON has no infinity


def judge(rows, max_steps):
    """
    The expectation, measured: TaRoPE solves the task with every seed and needs at most half the steps of RoPE and of
    sinusoids, by medians over seeds; with a learnable table as the package begins it, or without positions, no seed
    solves it. Who never solved it counts as needing `max_steps`.
    """
    by_kind = {row["kind"]: row for row in rows}
    steps = {kind: row["steps_to_99"]["median"] or max_steps for kind, row in by_kind.items()}
    solves = by_kind["tarope"]["seeds_solved"] == by_kind["tarope"]["seeds"]
    halves = {
        f"tarope_in_half_the_steps_of_{kind}": solves and 2 * steps["tarope"] <= steps[kind]
        for kind in ("rope", "sinusoidal", "learnable_large")
    }
    fails = {f"{kind}_does_not_solve": by_kind[kind]["seeds_solved"] == 0 for kind in ("learnable", "none")}
    return {"tarope_solves_with_every_seed": solves, **halves, **fails}


HEADER = ("positions", "99 % at step", "range", "90 % at step", "solved", "best, %")


def table_cells(rows, max_steps):
    """The table as text, a row a kind."""

    def steps(value):
        return f"> {max_steps}" if value is None else f"{value:g}"

    def between(spread):
        return "" if spread["min"] is None else f"{steps(spread['min'])} to {steps(spread['max'])}"

    return [
        (
            KINDS[row["kind"]].title,
            steps(row["steps_to_99"]["median"]),
            between(row["steps_to_99"]),
            steps(row["steps_to_90"]["median"]),
            f"{row['seeds_solved']} of {row['seeds']}",
            f"{100 * row['best_accuracy']:.1f}",
        )
        for row in rows
    ]


def show_table(results, console):
    table = Table(*HEADER, title="Alignment probe: steps to a held-out accuracy")
    for cells in table_cells(results["rows"], results["max_steps"]):
        table.add_row(*cells)
    console.print(table)
    for claim, holds in results["goal"].items():
        console.print(f"{'yes' if holds else 'NO '}  {claim.replace('_', ' ')}")


def write_markdown(results, path):
    """The table with its command beneath."""
    lines = ["# Alignment probe", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in (HEADER, ["---"] + ["---:"] * (len(HEADER) - 1))]
    lines += ["| " + " | ".join(cells) + " |" for cells in table_cells(results["rows"], results["max_steps"])]
    lines += ["", f"    {results['command']}", ""]
    lines += [
        f"{results['seeds']} seeds, at most {results['max_steps']} steps of {BATCH_SIZE} clips; accuracy on "
        f"{NUM_HELD_OUT} held-out clips every {EVALUATE_EVERY} steps. Steps are medians over seeds; the range belongs "
        "to 99 %. The last column is the median over seeds of each run's best accuracy, so chance shows as a little "
        "above 50 %.",
        "",
        f"The learnable table begins as the package begins it, with a deviation of {HIDDEN_SIZE**-0.5:g} at this "
        "size; *begun large* is the same table with the root mean square of sinusoids, √½. The task and what is held "
        "equal are described in `benchmarks/alignment_probe.py`; all numbers are in `alignment_probe.json`.",
        "",
        f"{results['date']}, torch {results['torch']}, transformers {results['transformers']}, {results['cpu']}, "
        f"{results['processor_s'] / 60:.1f} minutes of one core, spread over all cores.",
        "",
        "![Held-out accuracy over training steps](alignment_probe.png)",
    ]
    path.write_text("\n".join(lines) + "\n")


def median_and_range(curves):
    """
    Median, lowest and highest accuracy at each evaluation, as long as one seed still trains. A seed that has solved
    the task and ended earlier stays in the statistic with its last accuracy.
    """
    length = max(len(curve) for curve in curves)
    held = [curve + curve[-1:] * (length - len(curve)) for curve in curves]
    return [[pick(values) for values in zip(*held, strict=True)] for pick in (statistics.median, min, max)]


def draw(results, path):
    """Held-out accuracy over steps: a line for the median over seeds, a band for their range."""
    from matplotlib.figure import Figure  # here, so that the task can be imported without the `plot` extra

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for kind, style in KINDS.items():
        own = [run["accuracies"] for run in results["runs"] if run["kind"] == kind]
        median, lowest, highest = ([50.0, *(100 * value for value in line)] for line in median_and_range(own))
        steps = [index * EVALUATE_EVERY for index in range(len(median))]
        axes.fill_between(steps, lowest, highest, color=style.color, alpha=0.15, linewidth=0)
        axes.plot(steps, median, color=style.color, linestyle=style.linestyle, linewidth=2.2, label=style.title)
    axes.axhline(100 * SOLVED, color="black", linewidth=0.8)
    axes.annotate("99 %: solved", (results["max_steps"], 100 * SOLVED), (0, -4), textcoords="offset points",
                  ha="right", va="top", fontsize=11)  # fmt: skip
    axes.set_xlim(0, results["max_steps"])
    axes.set_ylim(40, 101)
    axes.set_xlabel("training steps", fontsize=13)
    axes.set_ylabel("held-out accuracy, %", fontsize=13)
    axes.tick_params(labelsize=12)
    axes.set_title(f"Do events at 50 Hz and 30 Hz coincide? Median and range of {results['seeds']} seeds", fontsize=14)
    axes.legend(fontsize=12, loc="center right")
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each kind; seeds are 0, 1, 2 …")] = 3,
    max_steps: Annotated[int, typer.Option(min=2 * EVALUATE_EVERY, help="Budget of a run.")] = 800,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW, constant, for all kinds.")] = 1e-3,
    out: Annotated[Path, typer.Option(help="Folder for table, picture and numbers.")] = Path("benchmarks/results"),
):
    """Compares kinds of positions on events at 50 Hz and 30 Hz that coincide or do not."""
    console = Console()
    runs = train_all(seeds, max_steps, learning_rate, console)
    rows = summarize(runs)
    results = {
        "command": f"python benchmarks/alignment_probe.py --seeds {seeds} --max-steps {max_steps} "
        f"--learning-rate {learning_rate:g}",
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu": cpu_model(),
        "processor_s": round(sum(run["processor_s"] for run in runs), 1),
        "seeds": seeds,
        "max_steps": max_steps,
        "learning_rate": learning_rate,
        "evaluate_every_steps": EVALUATE_EVERY,
        "goal": judge(rows, max_steps),
        "rows": rows,
        "runs": runs,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "alignment_probe.json").write_text(json.dumps(results, indent=1) + "\n")
    write_markdown(results, out / "alignment_probe.md")
    draw(results, out / "alignment_probe.png")
    show_table(results, console)


if __name__ == "__main__":
    typer.run(main)
