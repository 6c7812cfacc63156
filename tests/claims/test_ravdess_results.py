"""The committed numbers on RAVDESS are those of the committed answers, clip by clip."""

import json
from pathlib import Path

import pandas as pd
import pytest

from datasets_scripts import load_splits

ROOT = Path(__file__).resolve().parents[2]
CARD = ROOT / "model_cards" / "ravdess_whisper_tiny"
RESULTS = json.loads((CARD / "results.json").read_text())
ROWS = [(protocol, row) for protocol, rows in RESULTS.items() for row in rows]


def mean_of(protocol, row):
    folds = list(RESULTS[protocol][row]["folds"].values())
    return 100 * sum(sum(some) / len(some) for some in folds) / len(folds)


@pytest.mark.parametrize(("protocol", "row"), ROWS, ids=["-".join(row) for row in ROWS])
def test_accuracies_are_those_of_the_answers(protocol, row):
    answers = pd.read_csv(CARD / "predictions" / f"{protocol}_{row}.csv", dtype={"speaker_id": str})
    assert len(answers) == answers["utterance_id"].nunique() == 1440
    for seed, folds in RESULTS[protocol][row]["folds"].items():
        right = answers[f"seed_{seed}"] == answers["label"]
        assert right.groupby(answers["fold"]).mean().tolist() == pytest.approx(folds, abs=1e-9)
    title = {"msa+msa": "MSA + MSA", "ica+ica": "ICA + ICA", "concat": "Concat", "audio": "audio alone"}.get(row)
    if title is not None:
        table = (CARD / "README.md").read_text().split("## With speaker profiles")[protocol == "calibrated"]
        assert f"| {title} | **{mean_of(protocol, row):.2f}**" in table


@pytest.mark.parametrize(("protocol", "row"), ROWS, ids=["-".join(row) for row in ROWS])
def test_every_clip_was_scored_in_the_fold_of_its_actor(protocol, row):
    answers = pd.read_csv(CARD / "predictions" / f"{protocol}_{row}.csv", dtype={"speaker_id": str})
    splits = load_splits("ravdess")
    for clip, speaker, fold in zip(answers["utterance_id"], answers["speaker_id"], answers["fold"], strict=True):
        assert splits[f"luna_jimenez_5fold_{fold}"].part_of(clip, speaker) == "test"


def test_the_readme_says_what_was_measured():
    readme = (ROOT / "README.md").read_text()
    svm = json.loads((ROOT / "benchmarks" / "results" / "ravdess_svm.json").read_text())["rows"]
    best = {p: max(100 * row["mean"] for name, row in svm.items() if name.startswith(p)) for p in RESULTS}
    plain = [mean_of("plain", row) for row in ("audio", "video", "concat", "msa+msa", "msa+msa+ctm", "ica+isa")]
    calibrated = [mean_of("calibrated", row) for row in ("concat", "msa+msa", "ica+ica")]
    lines = {
        "plain": [*(f"{value:.2f}" for value in plain[:5]), f"{plain[5]:.2f} (ICA + ISA)"],
        "calibrated": [
            "—",
            "—",
            *(f"{value:.2f}" for value in calibrated[:2]),
            "—",
            f"{calibrated[2]:.2f} (ICA + ICA)",
        ],
    }
    for protocol, cells in lines.items():
        assert f"| {' | '.join(cells)} | {best[protocol]:.2f} |" in readme
