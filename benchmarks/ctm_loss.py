"""
The cross-temporal matching loss against a loop over clips and against a plain InfoNCE of the same shape.

    python benchmarks/ctm_loss.py [--rounds 9] [--out benchmarks/results]

16 clips of 1, 3, 10 and 30 s, 50 audio and 30 video frames a second, embeddings of 128 channels, fp32; clips last
from all of it down to 60 % and are padded. Each call is forward and backward. The loop is what one writes from eq.
6-11, a clip at a time without its padding; its value is ours to 1e-5. InfoNCE has the same similarities and asks each
frame for the one frame nearest in time, by cross-entropy both ways; it knows no padding, no clock and no soft target,
so that it is the least that a contrastive loss of this shape does.

All is measured twice: with memory as the system's allocator gives it, and in a process whose allocator is told to
keep what it once had, as those of GPUs do (`KEPT`; glibc only). glibc gives blocks of over 32 MiB back at once, and
to fetch them again, page by page, takes as long as to compute what they hold.
"""

import argparse
import multiprocessing
import os
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from rich.progress import track
from side_by_side import RESULTS, Ratio, draw_ratios, interleave, markdown_table, peak_mebibytes, publish

from modeling_aver.losses import cross_temporal_matching_loss
from modeling_aver.positions import frame_timestamps

# Goal and floor of ours over the other's time, for clips as long as those of the corpora.
LIMITS = {"loop": (1.0, 1.0), "InfoNCE": (1.5, 2.0)}
HELD_SECONDS = 3
SECONDS = (1, 3, 10, 30)
KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}  # bytes; glibc reads them once
BATCH, AUDIO_RATE, VIDEO_RATE, WIDTH, SIGMA, TEMPERATURE = 16, 50, 30, 128, 0.5, 0.07


def clips(seconds, batch=BATCH):
    """Arguments of the loss: embeddings, times and masks of both streams."""
    generator = torch.Generator().manual_seed(0)
    lengths = AUDIO_RATE * seconds, VIDEO_RATE * seconds
    shares = torch.linspace(1.0, 0.6, batch)[:, None]
    embeds = [torch.randn(batch, length, WIDTH, generator=generator, requires_grad=True) for length in lengths]
    times = [frame_timestamps(length, rate) for length, rate in zip(lengths, (AUDIO_RATE, VIDEO_RATE), strict=True)]
    masks = [torch.arange(length) < shares * length for length in lengths]
    return *embeds, *times, *masks


def ours(*arguments):
    return cross_temporal_matching_loss(*arguments, sigma=SIGMA, temperature=TEMPERATURE)


def loop(audio, video, audio_times, video_times, audio_mask, video_mask):
    """Eq. 6-11, one clip after another."""
    total = 0.0
    for clip in range(len(audio)):
        audio_units = F.normalize(audio[clip][audio_mask[clip]], dim=-1)
        video_units = F.normalize(video[clip][video_mask[clip]], dim=-1)
        similarity = audio_units @ video_units.T
        gaps = audio_times[audio_mask[clip]][:, None] - video_times[video_mask[clip]][None, :]
        affinity = torch.exp(-(gaps**2) / (2 * SIGMA**2))  # eq. 6
        audio_targets = affinity / affinity.sum(dim=1, keepdim=True)  # eq. 7
        video_targets = affinity.T / affinity.T.sum(dim=1, keepdim=True)  # eq. 8
        audio_to_video = -(audio_targets * (similarity / TEMPERATURE).log_softmax(dim=1)).sum(dim=1).mean()
        video_to_audio = -(video_targets * (similarity.T / TEMPERATURE).log_softmax(dim=1)).sum(dim=1).mean()
        total = total + (audio_to_video + video_to_audio) / 2
    return total / len(audio)


def info_nce(audio, video, *_):
    """Each frame against the one nearest in time, both ways."""
    scores = torch.einsum("bid,bjd->bij", F.normalize(audio, dim=-1), F.normalize(video, dim=-1)) / TEMPERATURE
    num_audio, num_video = scores.shape[1:]
    nearest_video = torch.arange(num_audio) * num_video // num_audio
    nearest_audio = torch.arange(num_video) * num_audio // num_video
    audio_to_video = F.cross_entropy(scores.mT, nearest_video.expand(len(scores), -1))
    video_to_audio = F.cross_entropy(scores, nearest_audio.expand(len(scores), -1))
    return (audio_to_video + video_to_audio) / 2


CONTENDERS = {"ours": ours, "loop": loop, "InfoNCE": info_nce}


def build(name, seconds):
    """A call of forward and backward, which returns the loss."""
    arguments = clips(seconds)

    def step():
        arguments[0].grad = arguments[1].grad = None
        loss = CONTENDERS[name](*arguments)
        loss.backward()
        return loss.detach()

    return step


def measure(rounds, lengths=SECONDS):
    rows = []
    for seconds in track(lengths, "losses"):
        rows.append(
            {
                "seconds": seconds,
                "value": {name: float(build(name, seconds)()) for name in CONTENDERS},
                "seconds_a_call": times_of(seconds, rounds),
                "seconds_a_call_memory_kept": times_where_memory_is_kept(seconds, rounds),
                "peak_mebibytes": {name: peak_mebibytes(build, name, seconds) for name in CONTENDERS},
            }
        )
    limits = {name: {"goal": goal, "floor": floor} for name, (goal, floor) in LIMITS.items()}
    return {"limits": limits, "batch": BATCH, "rows": rows}


def times_of(seconds, rounds, threads=None):
    """`dict[str, list[float]]`: seconds of each contender's calls."""
    torch.set_num_threads(threads or torch.get_num_threads())
    steps = {name: build(name, seconds) for name in CONTENDERS}
    times = interleave(steps, max(2, round(rounds * (0.5 if seconds == 30 else 1))), seconds=0.1)
    return {name: values.tolist() for name, values in times.items()}


def times_where_memory_is_kept(seconds, rounds):
    """[`times_of`] in a process that begins with `KEPT`."""
    with mock.patch.dict(os.environ, KEPT), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(times_of, (seconds, rounds, torch.get_num_threads()))


def time_table(rows, column):
    lines = []
    for row in rows:
        times = row[column]
        milliseconds = {f"{name}, ms": f"{1e3 * sorted(times[name])[len(times[name]) // 2]:.3g}" for name in times}
        against = {f"ours / {name}": Ratio.of(times["ours"], times[name]) for name in LIMITS}
        lines.append({"clips": f"{BATCH} × {row['seconds']} s", **milliseconds, **against})
    return markdown_table(lines)


def memory_table(rows):
    return markdown_table(
        [
            {
                "clips": f"{BATCH} × {row['seconds']} s",
                **{f"{name}, MiB": f"{peak:.0f}" for name, peak in row["peak_mebibytes"].items()},
            }
            for row in rows
        ]
    )


def draw(figure, rows):
    for axes, (name, (goal, floor)) in zip(figure.subplots(1, 2), LIMITS.items(), strict=True):
        ratios = {
            f"{row['seconds']} s": Ratio.of(row["seconds_a_call"]["ours"], row["seconds_a_call"][name]) for row in rows
        }
        draw_ratios(axes, ratios, goal=goal, floor=floor)
        axes.set_title(f"time of ours / {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results = measure(arguments.rounds)
    publish(
        "ctm_loss",
        "The cross-temporal matching loss beside a loop and beside InfoNCE",
        command=" ".join(["python benchmarks/ctm_loss.py", *sys.argv[1:]]),
        sections=[
            "Forward and backward; ratios are medians over rounds, middle half in brackets. Goal and floor are "
            f"{LIMITS['loop']} against the loop and {LIMITS['InfoNCE']} against InfoNCE, for clips of up to "
            f"{HELD_SECONDS} s, as the corpora have. With memory as the system's allocator gives it:",
            time_table(results["rows"], "seconds_a_call"),
            f"With memory that is kept ({' '.join('='.join(pair) for pair in KEPT.items())}), as on GPUs:",
            time_table(results["rows"], "seconds_a_call_memory_kept"),
            "On long clips the loop gains by its smaller matrices: those of one clip lie below the 32 MiB from which "
            "on glibc gives memory back and fetches it again at every call. What remains where memory is kept is the "
            "padding, a third of these batches' pairs, which the loop skips.",
            "The most memory that a call takes beyond its inputs, in a process of its own:",
            memory_table(results["rows"]),
        ],
        numbers=results,
        draw=partial(draw, rows=results["rows"]),
        out=arguments.out,
    )


if __name__ == "__main__":
    main()
