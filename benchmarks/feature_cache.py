"""
How much faster an epoch is that reads a frozen encoder's frames from the cache, with the same losses.

    python benchmarks/feature_cache.py [--rounds 3] [--out benchmarks/results/feature_cache.json]

The paper's model (an encoder of xlsr's shape, 315 M parameters, random weights; two MSA blocks) trains on CREMA-D's
six clips in batches of 4, an epoch from the sound and one from the cache in turn, each from the same weights. Batches
are made, losses computed, gradients taken and AdamW steps made as in training. `ratio` is sound / cache.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from side_by_side import machine
from torch.utils.data import DataLoader

from datasets_scripts import load_crema_d
from modeling_aver import AverConfig, AverForEmotionClassification, AverProcessor
from modeling_aver.training.collation import AverDataCollator
from modeling_aver.training.encoding import fill_cache
from modeling_aver.training.feature_cache import FeatureCache

MODELS = {
    "paper (MSA + MSA, 50 tokens a second)": {},
    "pooled to 12.5 tokens a second": {"audio_pooling_stride": 4},
    "128 wide, as in recipes/ravdess_cached.yaml": {
        "hidden_size": 128,
        "num_attention_heads": 4,
        "intermediate_size": 256,
    },
    "Concat": {"fusion_layers": []},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/feature_cache.json"))
    arguments = parser.parse_args()
    clips = load_crema_d(split="train")
    rows = {name: compare(values, clips, arguments.rounds) for name, values in MODELS.items()}
    results = {
        "command": "python benchmarks/feature_cache.py",
        "machine": machine(),
        "clips": len(clips),
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    arguments.out.with_suffix(".md").write_text(table(results), encoding="utf-8")
    print(table(results))  # noqa: T201


def compare(values, clips, rounds):
    torch.manual_seed(0)
    model = AverForEmotionClassification(AverConfig(dropout=0.0, **values))
    model.freeze_audio_encoder()
    processor = AverProcessor.from_config(model.config)
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(folder, model.aver, processor.feature_extractor)
        start = time.perf_counter()
        fill_cache(cache, model.aver, processor, [clips], batch_size=2)
        filling = time.perf_counter() - start
        collators = {"sound": AverDataCollator(processor), "cache": AverDataCollator(processor, cache)}
        begin = {name: value.clone() for name, value in model.state_dict().items() if "audio_encoder" not in name}
        seconds, losses = {"sound": [], "cache": []}, {}
        for _ in range(rounds):
            for name, collator in collators.items():
                model.load_state_dict(begin, strict=False)
                start = time.perf_counter()
                losses[name] = epoch(model, DataLoader(clips, batch_size=4, collate_fn=collator))
                seconds[name].append(time.perf_counter() - start)
    ratios = np.array(seconds["sound"]) / np.array(seconds["cache"])
    return {
        "seconds": seconds,
        "filling_seconds": filling,
        "ratio": float(np.median(ratios)),
        "ratio_range": [float(ratios.min()), float(ratios.max())],
        "largest_difference_of_losses": max(abs(a - b) for a, b in zip(*losses.values(), strict=True)),
    }


def epoch(model, batches):
    """Losses of the steps of one epoch."""
    model.train()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=5e-5)
    losses = []
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def table(results):
    lines = [
        "| model | epoch from sound, s | from the cache, s | ratio | losses differ by | filling, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in results["rows"].items():
        medians = [f"{np.median(row['seconds'][kind]):.2f}" for kind in ("sound", "cache")]
        low, high = row["ratio_range"]
        lines.append(
            f"| {name} | {medians[0]} | {medians[1]} | {row['ratio']:.1f} ({low:.1f} to {high:.1f}) | "
            f"{row['largest_difference_of_losses']:.1e} | {row['filling_seconds']:.1f} |"
        )
    facts = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    return "\n".join([*lines, "", f"`{results['command']}`, {results['clips']} clips, {facts}.", ""])


if __name__ == "__main__":
    main()
