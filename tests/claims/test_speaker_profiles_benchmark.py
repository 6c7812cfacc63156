"""The benchmark of few and unbalanced clips chooses the clips that it says, and counts what it says."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from support.calibration import recipe  # noqa: F401 (fixtures)
from support.training import own_clips  # noqa: F401 (fixtures)

import train_hf

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SPEAKERS = ["a"] * 40 + ["b"] * 38
LABELS = [index % 4 for index in range(40)] + [0] * 3 + [1 + index % 3 for index in range(35)]


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    import speaker_profiles

    yield speaker_profiles
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def sets(benchmark):
    return list(benchmark.choose_sets(SPEAKERS, LABELS, (1, 5, 60), 3))


def test_a_speaker_gets_only_clips_of_their_own_each_once(sets):
    for kind, _, _, chosen in sets:
        for name, clips in ({} if chosen is None else chosen).items():
            assert {SPEAKERS[clip] for clip in clips} == {name}
            assert len(set(clips)) == len(clips), kind


def test_larger_random_sets_contain_the_smaller_ones_and_draws_differ(sets):
    drawn = {(size, draw): chosen for kind, size, draw, chosen in sets if kind == "random"}
    assert sorted(drawn) == [(size, draw) for size in (1, 5) for draw in range(3)], "60 are more than anybody has"
    for draw in range(3):
        assert drawn[5, draw]["a"][:1] == drawn[1, draw]["a"]
    assert len({tuple(drawn[5, draw]["b"]) for draw in range(3)}) == 3


def test_unbalanced_sets_are_of_one_emotion_or_nearly(sets):
    pure = {draw: (size, chosen) for kind, size, draw, chosen in sets if kind == "one emotion"}
    mixed = {draw: chosen for kind, _, draw, chosen in sets if kind == "mostly one emotion"}
    assert sorted(pure) == sorted(mixed) == [0, 1, 2, 3]
    for emotion, (size, chosen) in pure.items():
        assert size == 8 and len(chosen["b"]) == (3 if emotion == 0 else 8), "as many as there are"
        assert {LABELS[clip] for clips in chosen.values() for clip in clips} == {emotion}
        others = [LABELS[clip] for clip in mixed[emotion]["a"] if LABELS[clip] != emotion]
        assert (len(mixed[emotion]["a"]), len(others)) == (10, 2)


def test_the_ratio_of_variances_is_that_of_the_signals(benchmark):
    generator = np.random.default_rng(0)
    people = np.repeat(generator.normal(scale=1.0, size=(400, 6)), 30, axis=0)
    values = people + generator.normal(scale=2.0, size=people.shape)
    names = np.repeat([f"{index:03}" for index in range(400)], 30).tolist()
    assert benchmark.ratio_of_variances(values, names) == pytest.approx(4.0, rel=0.1)
    assert benchmark.ratio_of_variances(values * [1, 10, 100, 1, 1, 1], names) == pytest.approx(4.0, rel=0.1)


def test_rows_are_means_of_folds_and_spread_over_draws(benchmark):
    def line(kind, draw, fold, accuracy, held_out):
        values = {"profile": kind, "clips": 3, "seed": 0, "draw": draw, "fold": fold}
        return {**values, "accuracy": accuracy, "held_out": held_out}

    lines = [
        *(line("random", 0, "x_1", 0.5, 0.4), line("random", 0, "x_2", 0.7, 0.6)),
        *(line("random", 1, "x_1", 0.7, 0.8), line("random", 1, "x_2", 0.9, 0.8)),
        *(line("all", 0, "x_1", 0.8, None), line("all", 0, "x_2", 0.9, None)),
    ]
    rows = {row["profile"]: row for row in benchmark.summarize(lines)}
    assert rows["random"]["accuracy"] == pytest.approx(0.7)
    assert rows["random"]["std"] == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert rows["random"]["held_out"] == pytest.approx((0.5 + 0.8) / 2)
    assert (rows["all"]["accuracy"], rows["all"]["std"], rows["all"]["held_out"]) == (pytest.approx(0.85), None, None)


def test_folders_without_a_run_are_named(benchmark, tmp_path):
    with pytest.raises(ValueError, match="holds no finished run"):
        benchmark.find_runs([tmp_path])


@pytest.mark.slow
def test_a_trained_run_is_scored_again_with_every_set(benchmark, recipe, tmp_path):
    train_hf.main([str(recipe)])
    benchmark.main([tmp_path / "run"], None, None, None, "1", 2, 4.0, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "speaker_profiles.json").read_text())
    found = {(line["profile"], line["clips"]): line["accuracy"] for line in results["lines"]}
    assert set(found) == {("none", 0), ("all", 2), ("random", 1), ("one emotion", 1), ("mostly one emotion", 2)}
    scored = json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]["eval_war"]
    assert found["all", 2] == pytest.approx(scored), "the profile of all clips is that of the run itself"
    assert "calibrated on each speaker's own" in (tmp_path / "out" / "speaker_profiles.md").read_text()
    assert (tmp_path / "out" / "speaker_profiles.png").read_bytes().startswith(b"\x89PNG")
