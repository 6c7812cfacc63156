"""
The fusion encoder against torch's own transformer encoder, and its rotation against two others.

    python benchmarks/fusion_encoder.py [--rounds 9] [--out benchmarks/results]

`FusionEncoder` (two MSA layers, 512 / 2048 wide, 8 heads, TaRoPE) and `torch.nn.TransformerEncoder` have the same
weights and the same padding mask; a clip has 50 audio and 30 video tokens a second, and the clips of a batch last
from all of it down to 60 %. Ours gets two streams with times, concatenates them and turns queries and keys; torch
gets tokens that are concatenated already, and has no positions. Inference is under `inference_mode` in evaluation
mode, where torch takes its fast path (fused layers, nested tensors); a training step is forward and backward, dropout
0.1, without an optimizer. Rotations turn one query and one key tensor, their angles or cache included, as a user
calls them.
"""

import argparse
import sys
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.progress import track
from side_by_side import RESULTS, Ratio, draw_ratios, interleave, markdown_table, publish
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from modeling_aver import AverConfig, FusionEncoder
from modeling_aver.positions import frame_timestamps, rotary_angles, rotate

GOAL, FLOOR = 1.00, 1.10
AUDIO_RATE, VIDEO_RATE = 50, 30  # Hz
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Cell:
    """A row of the table."""

    work: str  # inference or training
    batch: int
    seconds: int  # of the clips
    dtype: str = "fp32"
    compiled: bool = False
    rounds: float = 1.0  # share of `--rounds`

    def __str__(self):
        compiled = ", compiled" if self.compiled else ""
        return f"{self.work}, {self.dtype}{compiled}, {self.batch} × {self.seconds} s"


CELLS = [
    *(Cell("inference", batch, seconds) for batch in (1, 4) for seconds in (1, 3)),
    Cell("inference", 32, 1),
    Cell("inference", 32, 3, rounds=0.7),
    Cell("inference", 1, 30, rounds=0.7),
    Cell("inference", 4, 30, rounds=0.4),
    *(Cell("training", batch, seconds) for batch, seconds in ((1, 1), (4, 1), (4, 3))),
    Cell("training", 32, 1, rounds=0.7),
    Cell("training", 1, 30, rounds=0.4),
    *(Cell("inference", batch, seconds, "bf16") for batch, seconds in ((1, 1), (4, 3), (1, 30))),
    Cell("training", 4, 3, "bf16"),
    *(Cell("inference", batch, seconds, compiled=True) for batch, seconds in ((1, 1), (4, 3), (32, 1))),
]
LEFT_OUT = (
    "Left out for time: training of 1 × 3, 4 × 30 and 32 × 3 s; bf16 and compiled at the other shapes; compiled "
    "training. Left out for memory: 32 × 30 s, where torch's fast path holds 32 × 8 × 2400² attention weights, "
    "5.9 GB a layer, and training would hold them on both sides."
)


def config(**values):
    """The paper's fusion encoder, named in full so that a change of defaults cannot change the contest."""
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "layer_norm_eps": 1e-5}
    return AverConfig(**{**sizes, "fusion_layers": ["msa"] * 2, "dropout": 0.1, "hidden_act": "relu", **values})


def torch_encoder(ours):
    """`torch.nn.TransformerEncoder` with the weights of a [`FusionEncoder`] of msa blocks."""
    shape = ours.config
    layer = torch.nn.TransformerEncoderLayer(
        shape.hidden_size,
        shape.num_attention_heads,
        shape.intermediate_size,
        shape.dropout,
        layer_norm_eps=shape.layer_norm_eps,
        batch_first=True,
    )
    theirs = torch.nn.TransformerEncoder(layer, len(ours.blocks))
    for block, target in zip(ours.blocks, theirs.layers, strict=True):
        source, attention = block.layer, block.layer.attention
        target.self_attn.in_proj_weight.data = attention.qkv_proj.weight.data.clone()
        target.self_attn.in_proj_bias.data = attention.qkv_proj.bias.data.clone()
        target.self_attn.out_proj.load_state_dict(attention.out_proj.state_dict())
        target.norm1.load_state_dict(source.attention_norm.state_dict())
        target.norm2.load_state_dict(source.feed_forward_norm.state_dict())
        target.linear1.load_state_dict(source.feed_forward_in.state_dict())
        target.linear2.load_state_dict(source.feed_forward_out.state_dict())
    return theirs


def streams(batch, seconds, dtype=torch.float32, width=512):
    """Tokens, times and masks of both streams, as `FusionEncoder` takes them."""
    generator = torch.Generator().manual_seed(batch)
    shares = torch.linspace(1.0, 0.6, batch)[:, None]
    lengths = AUDIO_RATE * seconds, VIDEO_RATE * seconds
    tokens = [torch.randn(batch, length, width, generator=generator).to(dtype) for length in lengths]
    times = [frame_timestamps(length, rate) for length, rate in zip(lengths, (AUDIO_RATE, VIDEO_RATE), strict=True)]
    masks = [torch.arange(length) < shares * length for length in lengths]
    return *tokens, *times, *masks


def contenders(cell, **values):
    """The two calls of a cell; each returns the tokens that it fused, audio first."""
    torch.manual_seed(0)
    training, dtype = cell.work == "training", DTYPES[cell.dtype]
    model = FusionEncoder(config(**values)).to(dtype)
    models = {"ours": model, "torch": torch_encoder(model).to(dtype)}
    audio, video, *times_and_masks = streams(cell.batch, cell.seconds, dtype)
    for states in (audio, video, tokens := torch.cat([audio, video], dim=1)):
        states.requires_grad_(training)  # as the layers before would
    inputs = {
        "ours": partial(models["ours"].train(training), audio, video, *times_and_masks),
        "torch": partial(
            models["torch"].train(training), tokens, src_key_padding_mask=~torch.cat(times_and_masks[2:], dim=1)
        ),
    }
    if cell.compiled:
        inputs = {name: torch.compile(call) for name, call in inputs.items()}
    step = train if training else infer
    return {name: partial(step, models[name], inputs[name]) for name in models}


def fused_tokens(output):
    if isinstance(output, torch.Tensor):
        return output
    return torch.cat([output.audio_hidden_states, output.video_hidden_states], dim=1)


@torch.inference_mode()
def infer(model, forward):
    return fused_tokens(forward())


def train(model, forward):
    model.zero_grad()
    tokens = fused_tokens(forward())
    tokens.sum().backward()
    return tokens


def rotations(batch, num_frames):
    """Calls that turn a query and a key `(batch, 8, num_frames, 64)` by their index."""
    generator = torch.Generator().manual_seed(0)
    # In memory as a projection leaves them: (B, T, H, D_h), seen as (B, H, T, D_h).
    query, key = (torch.randn(batch, num_frames, 8, 64, generator=generator).transpose(1, 2) for _ in "qk")
    places = torch.arange(num_frames)
    shape = LlamaConfig(hidden_size=512, num_attention_heads=8, max_position_embeddings=num_frames)
    llama_angles = LlamaRotaryEmbedding(shape)

    def ours():
        angles = rotary_angles(places, 64)
        return rotate(query, angles), rotate(key, angles)

    def llama():
        return apply_rotary_pos_emb(query, key, *llama_angles(query, places[None]))

    calls = {"ours": ours, "transformers' Llama": llama}
    if find_spec("rotary_embedding_torch"):
        from rotary_embedding_torch import RotaryEmbedding

        turn = RotaryEmbedding(dim=64).rotate_queries_or_keys
        calls["rotary-embedding-torch"] = lambda: (turn(query), turn(key))
    return {name: torch.inference_mode()(call) for name, call in calls.items()}


def measure(cells, rounds):
    rows = []
    for cell in track(cells, "encoders"):
        torch.compiler.reset()
        times = interleave(contenders(cell), max(2, round(rounds * cell.rounds)), seconds=0.1)
        rows.append({"name": str(cell), **asdict(cell), "seconds_a_call": listed(times)})
    shapes = [(1, 80), (4, 240), (32, 240), (1, 2400)]
    rotary = []
    for batch, num_frames in track(shapes, "rotations"):
        times = interleave(rotations(batch, num_frames), rounds, seconds=0.05)
        rotary.append({"name": f"({batch}, 8, {num_frames}, 64)", "seconds_a_call": listed(times)})
    return {"goal": GOAL, "floor": FLOOR, "encoders": rows, "rotations": rotary}


def listed(times):
    return {name: values.tolist() for name, values in times.items()}


def table(rows):
    """Milliseconds of ours, and its ratio to each other contender."""
    lines = []
    for row in rows:
        times = row["seconds_a_call"]
        milliseconds = {f"{name}, ms": f"{1e3 * sorted(times[name])[len(times[name]) // 2]:.3g}" for name in times}
        against = {f"ours / {name}": Ratio.of(times["ours"], times[name]) for name in times if name != "ours"}
        lines.append({"": row["name"], **milliseconds, **against})
    return markdown_table(lines)


def draw(figure, results):
    encoders, rotary = figure.subplots(1, 2, width_ratios=[2, 1])
    rows = {row["name"]: row["seconds_a_call"] for row in results["encoders"]}
    ratios = {name: Ratio.of(times["ours"], times["torch"]) for name, times in rows.items()}
    draw_ratios(encoders, ratios, goal=GOAL, floor=FLOOR)
    encoders.set_title("encoder, ours / torch")
    rows = {row["name"]: row["seconds_a_call"] for row in results["rotations"]}
    ratios = {
        f"{name}\n{other}": Ratio.of(times["ours"], times[other])
        for name, times in rows.items()
        for other in times
        if other != "ours"
    }
    draw_ratios(rotary, ratios, goal=GOAL, floor=FLOOR)
    rotary.set_title("rotation, ours / other")
    for axes in (encoders, rotary):
        axes.tick_params(axis="y", labelsize=6)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results = measure(CELLS, arguments.rounds)
    missing = "" if find_spec("rotary_embedding_torch") else " `rotary-embedding-torch` was not installed."
    publish(
        "fusion_encoder",
        "The fusion encoder beside torch's",
        command=" ".join(["python benchmarks/fusion_encoder.py", *sys.argv[1:]]),
        sections=[
            f"Median over rounds, middle half in brackets; goal {GOAL:.2f}, floor {FLOOR:.2f}.",
            table(results["encoders"]),
            LEFT_OUT,
            f"Rotation of a query and a key tensor.{missing}",
            table(results["rotations"]),
        ],
        numbers=results,
        draw=partial(draw, results=results),
        out=arguments.out,
    )


if __name__ == "__main__":
    main()
