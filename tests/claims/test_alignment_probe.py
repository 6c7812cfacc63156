"""The probe's task is what it claims to be: decidable by time across the streams, and by nothing else."""

import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def probe():
    sys.path.insert(0, str(BENCHMARKS))
    yield pytest.importorskip("alignment_probe")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def times(probe):
    audio, video, labels = probe.make_event_times(torch.Generator().manual_seed(0), 40_000)
    return {"audio": audio, "video": video}, labels


@pytest.mark.parametrize("stream", ["audio", "video"])
def test_one_stream_alone_has_the_same_events_in_both_classes(stream, times):
    """A Kolmogorov-Smirnov distance of two samples of 60,000 stays below 0.01 with 99.5 % where they are alike."""
    events, labels = times
    together, apart = (events[stream][labels == label].flatten() for label in (1, 0))
    grid = torch.linspace(0, 2, 200)
    distance = (together[:, None] < grid).float().mean(0) - (apart[:, None] < grid).float().mean(0)
    assert distance.abs().max() < 0.01


def test_the_nearest_event_of_the_other_stream_tells_the_classes_apart(probe, times):
    events, labels = times
    circle = probe.NUM_EVENTS * probe.SPACING
    gaps = (events["audio"][:, :, None] - events["video"][:, None, :]).abs()
    nearest = torch.minimum(gaps, circle - gaps).amin(dim=2).mean(dim=1)
    assert nearest[labels == 1].max() < 0.02  # half a video frame
    assert nearest[labels == 0].min() > 0.15


def test_the_readme_says_what_was_measured():
    results = json.loads((BENCHMARKS / "results" / "alignment_probe.json").read_text())
    readme = (BENCHMARKS.parent / "README.md").read_text()
    starts = {
        "tarope": "TaRoPE",
        "rope": "RoPE",
        "sinusoidal": "sinusoidal",
        "learnable_large": "learnable, its table",
    }
    measured = {row["kind"]: row["steps_to_99"] for row in results["rows"]}
    for kind, start in starts.items():
        (line,) = [line for line in readme.splitlines() if line.startswith(f"| {start} ") and " to " in line]
        steps = measured[kind]
        assert line.endswith(f"| {steps['median']} | {steps['min']} to {steps['max']} |"), line
    assert measured["learnable"]["median"] is None and measured["none"]["median"] is None
