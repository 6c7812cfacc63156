"""
How much of a device's arithmetic training uses, with the sound and from cached frames, as it is and compiled.

A training step (forward, CTM and classification loss, backward, fused AdamW) of the paper's model on clips of one
length that lie on the device already, so that the device alone is measured:

- *fine-tuned*: the audio encoder trains, but for its convolutions, as in the recipes;
- *cached*: the encoder is frozen and its frames are given, as with `--feature_cache_dir`.

Each is measured eager and compiled; on a GPU cached steps, which are many small kernels, also as CUDA graphs
(`--torch_compile_mode reduce-overhead` of the Trainer). MFU is the step's multiply-adds and additions, counted by
torch's flop counter over the eager step, over what the device does in a large matrix product of the same type in the
same process. An epoch is CREMA-D's training part of the paper's split, 5,586 clips.

    python benchmarks/utilization.py                                       # xlsr's shape; bf16 on a GPU, fp32 on a CPU
    python benchmarks/utilization.py --batch 32 --out benchmarks/results/h200
"""

import logging
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from side_by_side import RESULTS, interleave, markdown_table, publish
from torch.utils.flop_counter import FlopCounterMode

from modeling_aver import AverConfig, AverForEmotionClassification

NAME = "utilization"
EPOCH_CLIPS = 5586
MODES = {"eager": None, "compiled": "default"}
SIZES = {
    "xlsr": {},
    "tiny": {"audio_config": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}},
}


class Step:
    """A training step of one variant of the model on one batch."""

    def __init__(self, size, cached, batch, seconds, device, dtype):
        torch.manual_seed(0)
        self.model = AverForEmotionClassification(AverConfig(**SIZES[size])).to(device).train()
        self.model.freeze_feature_encoder()
        self.autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
        self.inputs = synthetic_clips(self.model.config, batch, seconds, device)
        if cached:
            self.model.freeze_audio_encoder()
            with torch.no_grad(), self.autocast:
                frames, mask = self.model.aver.encode_audio(self.inputs.pop("input_values"))
            self.inputs |= {"audio_frames": frames.float(), "audio_frames_mask": mask}
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
        self.forward = self.model

    def compiled(self, mode):
        """The same step with the model compiled, or as it is for `None`."""
        torch.compiler.reset()
        self.forward = self.model if mode is None else torch.compile(self.model, mode=mode)
        return self

    def __call__(self):
        with self.autocast:
            loss = self.forward(**self.inputs).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def flop(self):
        """Floating-point operations of a step, a multiply-add as two."""
        with FlopCounterMode(display=False) as counter:
            self()
        return counter.get_total_flops()


def synthetic_clips(config, batch, seconds, device):
    """Sound and action units of one length, with labels."""
    generator = torch.Generator().manual_seed(0)
    units = (batch, round(seconds * config.video_frame_rate), config.num_action_units)
    clips = {
        "input_values": torch.randn(batch, round(seconds * config.sampling_rate), generator=generator),
        "action_units": torch.rand(units, generator=generator),
        "labels": torch.arange(batch) % config.num_labels,
    }
    return {name: value.to(device) for name, value in clips.items()}


def matmul_flops(device, dtype, rounds):
    """Operations a second of a large matrix product: what this device can do, rather than what its maker says."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    seconds = interleave({"matmul": lambda: left @ right}, rounds)["matmul"]
    return 2 * size**3 / float(min(seconds))


def measure(size, batch, seconds, device, dtype, rounds, console):
    """`dict` of rows by kind and mode, with raw seconds."""
    peak, rows = matmul_flops(device, dtype, rounds), []
    kinds = [(kind, mode) for kind in ("fine-tuned", "cached") for mode in modes_of(kind, device)]
    for kind, mode in track(kinds, "Measuring", console=console):
        step = Step(size, kind == "cached", batch, seconds, device, dtype)
        flop = step.flop()
        times = interleave({mode: step.compiled(MODES.get(mode, mode))}, rounds)[mode]
        rows.append({"clips": kind, "mode": mode, "flop": flop, "seconds": times.tolist()})
        del step
    return peak, rows


def modes_of(kind, device):
    """Names of the ways to run a kind of step."""
    graphs = ["reduce-overhead"] if kind == "cached" and device.type == "cuda" else []
    return [*MODES, *graphs]


def table_row(row, batch, peak):
    """A line of the table, from a row's raw seconds."""
    seconds = sorted(row["seconds"])[len(row["seconds"]) // 2]
    return {
        "clips": row["clips"],
        "mode": row["mode"],
        "ms a step": f"{1000 * seconds:.1f}",
        "clips/s": f"{batch / seconds:.1f}",
        "GFLOP a step": f"{row['flop'] / 1e9:.0f}",
        "MFU, %": f"{100 * row['flop'] / seconds / peak:.0f}",
        "epoch, minutes": f"{EPOCH_CLIPS / batch * seconds / 60:.1f}",
    }


def draw(figure, rows):
    """Clips a second of each variant."""
    axes = figure.subplots()
    names = [f"{row['clips']}, {row['mode']}" for row in rows]
    bars = axes.barh(names, [float(row["clips/s"]) for row in rows], color="#1f6f8b")
    axes.bar_label(bars, [f"{row['clips/s']} (MFU {row['MFU, %']} %)" for row in rows], padding=3)
    axes.set_xscale("log")
    axes.margins(x=0.35)
    axes.invert_yaxis()
    axes.set_xlabel("clips a second in training")


def main(
    size: Annotated[str, typer.Option(help=" or ".join(SIZES))] = "xlsr",
    batch: Annotated[int, typer.Option(min=1, help="Clips a step.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of a clip.")] = 2.5,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    out: Annotated[Path, typer.Option(help="Folder for table, picture and numbers.")] = RESULTS,
):
    """Measures training steps on this machine's GPU, or on its CPU where it has none."""
    if size not in SIZES:
        raise typer.BadParameter(f"{size} is none of {', '.join(SIZES)}.")
    torch._logging.set_logs(dynamo=logging.ERROR)  # SpecAugment breaks the graph, and dynamo says so at length
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    peak, rows = measure(size, batch, seconds, device, dtype, rounds, Console(stderr=True))
    lines = [table_row(row, batch, peak) for row in rows]
    publish(
        NAME,
        "Use of the device in training",
        command=f"python benchmarks/{NAME}.py {' '.join(sys.argv[1:])}".strip(),
        sections=[
            markdown_table(lines),
            f"Batches of {batch} clips of {seconds:g} s, {dtype}, encoder {size}. A matrix product reaches "
            f"{peak / 1e12:.2f} TFLOP/s here; MFU is measured against it. An epoch is {EPOCH_CLIPS} clips.",
        ],
        numbers={"device": device.type, "batch": batch, "seconds_of_clip": seconds, "peak_flops": peak, "rows": rows},
        draw=lambda figure: draw(figure, lines),
        out=out,
    )


if __name__ == "__main__":
    typer.run(main)
