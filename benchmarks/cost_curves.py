"""
How time and memory grow: over a clip's length, clips at a time, the number of clips, and a recording's length.

The paper's fusion over an audio encoder of whisper-tiny's size, random weights, noise of the wanted length:

- *clip length*, 1 to 30 s, and *batch size*, 1 to 32 clips of 2 s: a training step (forward, CTM, backward);
- *number of clips*, 8 to 64 clips of 2.5 s: rows of a dataset, by collator and `predict_logits`, 8 at a time;
- *recording length*, 1 to 8 minutes: sound and action units in pieces, by the pipeline in windows of 3 s, end to end;
  with a fusion 128 wide, as in recipes/ravdess_cached.yaml.

Values of a curve take turns. Memory is the most that the call takes beyond what was held before it, in a process of
its own. `exponent` is the slope of least squares through the logarithms: 1 is linear, 2 quadratic. The last doubling's
own exponent stands beside it, for a curve's small end is mostly fixed cost.

Floors: time over number of clips and over recording length within 0.9 to 1.1, for that is what lets long material be
planned; memory over recording length below 0.1, for windows are cut while the streams are read.

    python benchmarks/cost_curves.py        # about five minutes
"""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from side_by_side import RESULTS, interleave, markdown_table, peak_mebibytes, publish
from small_model import FRAME_RATE, SAMPLING_RATE, row, small_model, streams

from modeling_aver import EmotionPipeline
from modeling_aver.inference.evaluate import predict_logits
from modeling_aver.pipeline_aver import TASK
from modeling_aver.training.collation import AverDataCollator
from modeling_aver.windows import Recording

NAME = "cost_curves"
LINEAR, FLAT = (0.9, 1.1), 0.1
WINDOW, BATCH, PIECE = 3.0, 8, 1.0  # s, clips or windows at a time, s of sound that come at once


def clip_length(seconds):
    """A training step on one clip of `seconds`."""
    return _training_step([row(seconds)])


def batch_size(count):
    """A training step on `count` clips of 2 s."""
    return _training_step([row(2.0, seed) for seed in range(count)])


def _training_step(rows):
    model, processor = small_model(dropout=0.0)
    model.train()
    batch = AverDataCollator(processor)(rows)

    def step():
        model(**batch).loss.backward()
        model.zero_grad()

    return step


def number_of_clips(count):
    """Answers to `count` rows of a dataset."""
    model, processor = small_model()
    rows = [row(2.5, seed) for seed in range(count)]
    return lambda: predict_logits(model, processor, rows, BATCH)


def recording_length(minutes):
    """The emotions over time of a recording that comes in pieces."""
    model, processor = small_model(hidden_size=128, num_attention_heads=4, intermediate_size=256)
    recognize = EmotionPipeline(model=model, processor=processor, task=TASK, device=torch.device("cpu"))

    def answer():
        recording = Recording("noise", SAMPLING_RATE, _sound(60.0 * minutes), _faces(60.0 * minutes))
        return recognize(recording, window=WINDOW, hop=WINDOW, batch_size=BATCH)

    return answer


def _sound(seconds):
    piece, _ = streams(PIECE)
    return (piece for _ in range(round(seconds / PIECE)))


def _faces(seconds):
    _, units = streams(PIECE)
    return ((frame / FRAME_RATE, units[frame % len(units)], True) for frame in range(round(seconds * FRAME_RATE)))


CURVES = {
    "clip length": {"build": clip_length, "unit": "s", "values": [1, 2, 4, 8, 15, 30]},
    "batch size": {"build": batch_size, "unit": "clips", "values": [1, 2, 4, 8, 16, 32]},
    "number of clips": {"build": number_of_clips, "unit": "clips", "values": [8, 16, 32, 64]},
    "recording length": {"build": recording_length, "unit": "minutes", "values": [1, 2, 4, 8]},
}
READING = """p: exponent of a power of the value, by least squares in the logarithms. Linear by nature: the number of
clips, the batch, and a recording in windows, each of which costs what any other costs. Quadratic by nature: attention
within one clip, in the audio encoder and in the fusion, whose tokens are those of both streams (80 a second), and the
matching of all audio with all video frames (CTM). At a few seconds, what corpora hold, layers that are linear in the
tokens outweigh it; towards 30 s, the most that is heard at once, it counts. Longer recordings go in windows."""


def fitted_exponent(values, costs):
    """`float`: slope of least squares through (log value, log cost): p of `cost = c · value^p`."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def last_exponent(values, costs):
    """`float`: the same through the last two points alone."""
    return fitted_exponent(values[-2:], costs[-2:])


def measure(name, rounds):
    """`dict`: values of a curve with raw seconds `(num_values, rounds)` and MiB `(num_values,)`."""
    build, values = CURVES[name]["build"], CURVES[name]["values"]
    Console(stderr=True).log(f"{name}: time")  # no bar: answering many clips shows its own
    times = interleave({value: build(value) for value in values}, rounds)
    memory = [peak_mebibytes(build, value) for value in track(values, f"{name}: memory")]
    return {"values": values, "seconds": [times[value].tolist() for value in values], "mebibytes": memory}


def summarize(curve):
    """`dict[str, float]`: exponents of time and memory of what [`measure`] gives."""
    values, seconds = curve["values"], np.median(curve["seconds"], axis=1)
    memory = np.maximum(curve["mebibytes"], 1.0)  # below a MiB, pages decide
    return {
        "time": fitted_exponent(values, seconds),
        "time, last doubling": last_exponent(values, seconds),
        "memory": fitted_exponent(values, memory),
        "memory, last doubling": last_exponent(values, memory),
    }


def table(curves):
    """Rows of Markdown: a curve each, from its smallest value to its largest."""
    rows = []
    for name, curve in curves.items():
        first, last = curve["values"][0], curve["values"][-1]
        seconds = np.median(curve["seconds"], axis=1)
        rows.append(
            {
                "over": f"{name}, {first} to {last} {CURVES[name]['unit']}",
                "seconds": f"{seconds[0]:.2f} to {seconds[-1]:.2f}",
                "MiB": f"{curve['mebibytes'][0]:.0f} to {curve['mebibytes'][-1]:.0f}",
                **{f"p, {what}": f"{value:.2f}" for what, value in summarize(curve).items()},
            }
        )
    return rows


def draw(figure, curves):
    """Seconds and MiB over each value, on logarithmic axes, with lines of exponent 1 and 2."""
    for column, (axes, (name, curve)) in enumerate(
        zip(figure.subplots(2, len(curves)).T, curves.items(), strict=True)
    ):
        values = np.array(curve["values"], float)
        costs = {"seconds": np.median(curve["seconds"], axis=1), "MiB": np.array(curve["mebibytes"])}
        for panel, (unit, cost) in zip(axes, costs.items(), strict=True):
            panel.loglog(values, cost, "o-", color="#1f6f8b")
            for power, style in ((1, ":"), (2, "--")):
                line = cost[-1] * (values / values[-1]) ** power
                panel.loglog(values, line, style, color="black", linewidth=0.8, label=f"exponent {power}")
            panel.set_ylim(min(cost) / 2, max(cost) * 2)
            panel.set_xticks(values, [f"{value:g}" for value in values])
            panel.minorticks_off()
            panel.grid(alpha=0.25)
            if column == 0:
                panel.set_ylabel(unit)
        axes[0].set_title(name)
        axes[1].set_xlabel(CURVES[name]["unit"])
    axes[0].legend(fontsize="small")


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    out: Annotated[Path, typer.Option(help="Folder for table, picture and numbers.")] = RESULTS,
):
    """Measures the curves on this machine's CPU."""
    curves = {name: measure(name, rounds) for name in CURVES}
    publish(
        NAME,
        "How time and memory grow",
        command=f"python benchmarks/{NAME}.py {' '.join(sys.argv[1:])}".strip(),
        sections=[markdown_table(table(curves)), " ".join(READING.split())],
        numbers={"curves": curves},
        draw=lambda figure: draw(figure, curves),
        out=out,
    )


if __name__ == "__main__":
    typer.run(main)
