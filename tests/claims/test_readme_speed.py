"""The ratios in README's table of speed are those of the results beside it, computed again from the raw seconds."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from side_by_side import Ratio  # noqa: E402


def results(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def span(rows, other, chosen=lambda name: True):
    """Lowest and highest median over the rows whose name is chosen."""
    ratios = [ratio(row["seconds_a_call"], "ours", other) for row in rows if chosen(row["name"])]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def ratio(seconds, ours, other):
    return Ratio.of(seconds[ours], seconds[other]).median


def written():
    """`dict`: first words of each line of the table to its ratios, as README and the results say them."""
    fusion, whole = results("fusion_encoder"), results("whole_model")["seconds_a_call"]
    matching = {row["seconds"]: row for row in results("ctm_loss")["rows"]}
    path = {row["what"]: row for row in results("data_path")["rows"]}
    batches = {name: row["seconds"] for name, row in results("training_throughput")["batches"].items()}
    cells, turned = fusion["encoders"], fusion["rotations"]
    in_fp32 = span(cells, "torch", lambda name: "inference, fp32" in name and "compiled" not in name)
    in_bf16, compiled = (span(cells, "torch", lambda name, word=word: word in name) for word in ("bf16", "compiled"))
    rotations = [span(turned, other) for other in ("transformers' Llama", "rotary-embedding-torch")]
    wholes = {
        work: "; ".join(f"{ratio(whole[work], 'ours', other):.2f}" for other in ("audio encoder", "audio classifier"))
        for work in whole
    }
    memory = {"given": "seconds_a_call", "kept": "seconds_a_call_memory_kept"}
    losses = {
        (other, kind): "; ".join(f"{ratio(matching[seconds][column], 'ours', other):.2f}" for seconds in (3, 30))
        for other in ("loop", "InfoNCE")
        for kind, column in memory.items()
    }
    media = [f"{ratio(path[what], 'ours', 'bare'):.2f}" for what in ("video's sound", "frames of video")]
    return {
        "| fusion encoder, inference, fp32": in_fp32,
        "| the same in bf16; compiled": f"{in_bf16}; {compiled}",
        "| the same in training | | 1": span(cells, "torch", lambda name: "training, fp32" in name),
        "| its rotation": "; ".join(rotations),
        "| whole model of xlsr's size, inference": wholes["inference"],
        "| the same in training | | ": wholes["training"],
        "| CTM loss": losses["loop", "given"],
        "| the same where memory is kept | |": losses["loop", "kept"],
        "| | InfoNCE": losses["InfoNCE", "given"],
        "| rows of a dataset to batches": f"{ratio(path['training: rows to batches'], 'ours', 'bare'):.2f}",
        "| sound of videos; their frames": "; ".join(media),
        "| batches of 8 by length": f"{ratio(batches, 'grouped', 'random'):.2f}",
        "| `import modeling_aver`": f"{ratio(results('import_time')['seconds'], 'modeling_aver', 'any model'):.2f}",
    }


@pytest.mark.parametrize("begin, ratios", written().items())
def test_readme_says_what_was_measured(begin, ratios):
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(begin)]
    assert any(f"| {ratios} |" in line for line in lines), (lines, ratios)
