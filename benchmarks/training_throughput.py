"""
What a training step does not waste: padding in random and in length-grouped batches, the encoder with and without the
feature cache, one process and two.

- *Padding*: the share of a batch's audio samples that are padding, over ten epochs of all 7,442 clips of CREMA-D, by
  the sampler of `--train_sampling_strategy group_by_length` and by a random one. Exact; no model runs.
- *Batches*: clips a second of training steps (forward, CTM, backward, AdamW) on batches of 8 drawn evenly from such
  an epoch, the same number by either sampler; noise of those lengths, encoder of whisper-tiny's size.
- *Cache*: epochs over CREMA-D's six clips with the same small encoder frozen, from sound and from the cache; larger
  encoders are in `feature_cache.py`.
- *Processes*: `AverTrainer` under torchrun with one process and with two (gloo), one thread each, 4 clips a process
  and step: what the second core brings.

    python benchmarks/training_throughput.py        # about four minutes
    python benchmarks/training_throughput.py --durations manifest.csv    # a CSV of path,size of 16 kHz mono WAV files

Without `--durations` the lengths are those of `crema_d_durations.json`, which says where they come from.
"""

import csv
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import small_model
import torch
import typer
from feature_cache import compare
from rich.progress import track
from side_by_side import RESULTS, Ratio, draw_ratios, interleave, markdown_table, publish
from transformers.trainer_pt_utils import LengthGroupedSampler

from datasets_scripts import load_crema_d
from modeling_aver.training.arguments import AverTrainingArguments
from modeling_aver.training.collation import AverDataCollator
from modeling_aver.training.samplers import EpochSampler
from modeling_aver.training.trainer import AverTrainer

NAME = "training_throughput"
DURATIONS = Path(__file__).with_name("crema_d_durations.json")
BATCH_SIZES, BATCH_SIZE, EPOCHS = (4, 8, 16, 32), 8, 10
STEPS, CLIPS_A_PROCESS, CACHED = 12, 4, 6  # CACHED: clips of CREMA-D that are carried
STRATEGIES = ("random", "grouped")
WAV_HEADER, BYTES_A_SAMPLE = 44, 2


def read_lengths(durations=None):
    """
    Samples of each clip at 16 kHz, `(num_clips,)`.

    Args:
        durations (`Path`, *optional*): A CSV with `path` and `size` (bytes) of files; of those in AudioWAV/ the 16-bit
            mono WAV files are taken. Defaults to the histogram beside this file.
    """
    if durations is None:
        counts = json.loads(DURATIONS.read_text())["clips_by_samples"]
        return np.repeat([int(samples) for samples in counts], list(counts.values()))
    with open(durations, newline="", encoding="utf-8") as file:
        sizes = [int(row["size"]) for row in csv.DictReader(file) if row["path"].startswith("AudioWAV/")]
    return (np.array(sizes) - WAV_HEADER) // BYTES_A_SAMPLE


def epoch_batches(lengths, batch_size, strategy, epoch=0):
    """`list[np.ndarray]`: clips of each batch of an epoch, by the samplers that training uses."""
    if strategy == "random":
        order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(epoch)).numpy()
    else:
        sampler = EpochSampler(LengthGroupedSampler(batch_size, lengths=lengths.tolist()), seed=0)
        sampler.set_epoch(epoch)
        order = np.array(list(sampler))
    return np.split(order, range(batch_size, len(order), batch_size))


def padding_share(lengths, batches):
    """Share of all samples of padded batches that belong to no clip."""
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1 - sum(int(lengths[batch].sum()) for batch in batches) / padded


def padding(lengths):
    """`list[dict]`: padding share by batch size, `(EPOCHS,)` for each strategy."""
    lengths = np.random.default_rng(0).permutation(lengths)
    return [
        {"batch_size": size}
        | {
            strategy: [
                padding_share(lengths, epoch_batches(lengths, size, strategy, epoch)) for epoch in range(EPOCHS)
            ]
            for strategy in STRATEGIES
        }
        for size in BATCH_SIZES
    ]


class Steps:
    """Training steps of a small model on given clips."""

    def __init__(self, lengths, batches):
        self.model, processor = small_model.small_model(dropout=0.0)
        collate = AverDataCollator(processor)
        seconds = lengths / small_model.SAMPLING_RATE
        rows = [[small_model.row(float(seconds[clip]), int(clip)) for clip in batch] for batch in batches]
        self.batches = [collate(batch) for batch in rows]
        self.clips = sum(map(len, batches))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)

    def __call__(self):
        self.model.train()
        for batch in self.batches:
            self.model(**batch).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def batches_by_length(lengths, rounds):
    """`dict`: clips and raw seconds by strategy, of as many batches spread evenly over an epoch."""
    lengths = np.random.default_rng(0).permutation(lengths)
    steps = {}
    for strategy in STRATEGIES:
        batches = sorted(epoch_batches(lengths, BATCH_SIZE, strategy)[:-1], key=lambda batch: lengths[batch].max())
        steps[strategy] = Steps(lengths, batches[len(batches) // 12 :: len(batches) // 6])
    seconds = interleave(steps, rounds)
    heard = {name: float(sum(batch["attention_mask"].sum() for batch in one.batches)) for name, one in steps.items()}
    return {name: {"samples": heard[name], "seconds": seconds[name].tolist()} for name in steps}


def processes(rounds):
    """`dict[str, list[float]]`: clips a second of each round with one process and with two."""
    rates = {"1": [], "2": []}
    for _ in track(range(rounds), "one process and two"):
        for count, found in rates.items():
            found.append(launch(count))
    return rates


def launch(count):
    """Clips a second of `count` processes with one thread each, by torchrun on a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", count, "--master_port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *torchrun, __file__, "--worker", folder]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return json.loads((Path(folder) / "rate.json").read_text())


def work(folder):
    """One process of `processes`: trains, and the first writes its clips a second, of all processes together."""
    model, processor = small_model.small_model(dropout=0.0)
    quiet = {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    size = {"per_device_train_batch_size": CLIPS_A_PROCESS, "max_steps": STEPS}
    arguments = AverTrainingArguments(output_dir=str(folder), use_cpu=True, **size, **quiet)
    rows = [small_model.row(2.5, seed) for seed in range(2 * STEPS * CLIPS_A_PROCESS)]
    trainer = AverTrainer(model, arguments, AverDataCollator(processor), train_dataset=rows, processor=processor)
    seconds = trainer.train().metrics["train_runtime"]
    if arguments.process_index == 0:
        rate = STEPS * CLIPS_A_PROCESS * arguments.world_size / seconds
        (Path(folder) / "rate.json").write_text(json.dumps(rate))


def compared(numbers):
    """`dict[str, tuple]`: clips a second of both, and the [`Ratio`] of the first's time for a clip to the second's."""
    batches, cache, rates = numbers["batches"], numbers["cache"]["seconds"], numbers["processes"]
    pairs = {
        "grouped / random batches": [
            np.array(batches[name]["seconds"]) / numbers["clips"] for name in STRATEGIES[::-1]
        ],
        "cached / from sound": [np.array(cache[name]) / CACHED for name in ("cache", "sound")],
        "two processes / one": [1 / np.array(rates[count]) for count in ("2", "1")],
    }
    return {name: (*(1 / np.median(one) for one in pair), Ratio.of(*pair)) for name, pair in pairs.items()}


def tables(numbers):
    """Sections of the Markdown."""
    shares = [
        {"clips a batch": row["batch_size"]}
        | {f"padding, {strategy}": f"{np.mean(row[strategy]):.1%}" for strategy in STRATEGIES}
        | {"padded samples, grouped / random": f"{(1 - np.mean(row['random'])) / (1 - np.mean(row['grouped'])):.3f}"}
        for row in numbers["padding"]
    ]
    steps = [
        {"compared": name, "clips/s": f"{first:.1f} / {second:.1f}", "time of a clip": str(ratio)}
        for name, (first, second, ratio) in compared(numbers).items()
    ]
    lengths = numbers["lengths"]
    return [
        markdown_table(shares),
        markdown_table(steps),
        f"{lengths['clips']} clips of {lengths['shortest']:.2f} to {lengths['longest']:.2f} s. {os.cpu_count()} cores."
        " Processes have one thread each.",
    ]


def draw(figure, numbers):
    """Padding by size of the batch, and what a clip costs."""
    left, right = figure.subplots(1, 2)
    sizes = [row["batch_size"] for row in numbers["padding"]]
    for strategy, style in zip(STRATEGIES, ("o--", "o-"), strict=True):
        shares = [100 * np.mean(row[strategy]) for row in numbers["padding"]]
        left.plot(sizes, shares, style, color="#1f6f8b", label=strategy)
    left.set(xticks=sizes, ylim=(0, None), xlabel="clips a batch", ylabel="padding, %")
    left.legend()
    draw_ratios(right, {name: ratio for name, (_, _, ratio) in compared(numbers).items()}, goal=1.0, floor=1.0)


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option(help="Folder for table, picture and numbers.")] = RESULTS,
    durations: Annotated[Path | None, typer.Option(help="CSV of path,size of a corpus's WAV files.")] = None,
    worker: Annotated[Path | None, typer.Option(hidden=True)] = None,
):
    """Measures training steps on this machine's CPU."""
    if worker is not None:
        work(worker)
        return
    lengths = read_lengths(durations)
    seconds = lengths / small_model.SAMPLING_RATE
    numbers = {
        "lengths": {"clips": len(lengths), "shortest": float(seconds.min()), "longest": float(seconds.max())},
        "padding": padding(lengths),
        "clips": 6 * BATCH_SIZE,
        "batches": batches_by_length(lengths, rounds),
        "cache": compare({"audio_config": small_model.WHISPER_TINY}, load_crema_d(split="train"), rounds),
        "processes": processes(max(1, rounds // 2)),
    }
    publish(
        NAME,
        "What a training step does not waste",
        command=f"python benchmarks/{NAME}.py {' '.join(sys.argv[1:])}".strip(),
        sections=tables(numbers),
        numbers=numbers,
        draw=lambda figure: draw(figure, numbers),
        out=out,
    )


if __name__ == "__main__":
    typer.run(main)
