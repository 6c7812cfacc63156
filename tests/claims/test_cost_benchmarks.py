"""What the benchmarks of cost compute is right on cases that are known, and what they published holds its floors."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def on_the_path():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def published(name):
    path = BENCHMARKS / "results" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"waits for a run of benchmarks/{name}.py")
    return json.loads(path.read_text())


def median_ratio(above, below):
    return float(np.median(np.array(above) / np.array(below)))


# ── computing ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_of_a_known_curve_is_found_again(power):
    from cost_curves import fitted_exponent, last_exponent

    values = [1, 2, 4, 8]
    costs = [3.0 * value**power for value in values]
    assert fitted_exponent(values, costs) == pytest.approx(power, abs=1e-12)
    assert last_exponent(values, costs) == pytest.approx(power, abs=1e-12)


def test_a_fixed_cost_hides_growth_from_the_fit_more_than_from_the_last_doubling():
    from cost_curves import fitted_exponent, last_exponent

    costs = [10 + value**2 for value in (1, 2, 4, 8)]
    assert fitted_exponent([1, 2, 4, 8], costs) < last_exponent([1, 2, 4, 8], costs) < 2


def test_the_padding_of_known_lengths_is_counted():
    from training_throughput import padding_share

    lengths, batches = np.array([4, 2, 3, 3]), [np.array([0, 1]), np.array([2, 3])]
    assert padding_share(lengths, batches) == pytest.approx(2 / 14)  # of 4 + 4 + 3 + 3 samples 2 are padding
    assert padding_share(lengths, [np.array([clip]) for clip in range(4)]) == 0


@pytest.mark.parametrize("strategy", ["random", "grouped"])
def test_an_epoch_has_every_clip_once_and_the_next_another_order(strategy):
    from training_throughput import epoch_batches

    lengths = np.random.default_rng(0).integers(20_000, 80_000, 70)
    first, second = (np.concatenate(epoch_batches(lengths, 8, strategy, epoch)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(70)) and list(first) != list(second)


def test_the_histogram_holds_all_clips_of_crema_d():
    from training_throughput import read_lengths

    lengths = read_lengths()
    assert len(lengths) == 7442 and 1.2 * 16_000 < lengths.min() < lengths.max() < 5.1 * 16_000


def test_the_histogram_is_that_of_the_official_files(shared):
    from training_throughput import read_lengths

    official = read_lengths(shared / "data" / "crema_d_official" / "manifest.csv")
    np.testing.assert_array_equal(np.sort(official), np.sort(read_lengths()))


@pytest.mark.parametrize("what", ["training: rows to batches", "files to batches"])
def test_our_batch_and_that_of_the_bare_loop_are_the_same(what):
    from data_path import contenders, differences

    ours, bare = (call() for call in contenders()[what])
    assert differences(ours, bare) < 1e-5
    for name, values in bare.items():
        assert tuple(ours[name].shape) == tuple(values.shape), name


def test_a_clock_gives_a_stage_its_own_time_without_what_runs_within_it(monkeypatch):
    import predict_stages

    now = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0])
    monkeypatch.setattr(predict_stages.time, "perf_counter", lambda: next(now))
    with predict_stages.Clock() as clock:
        clock.timed("outer", clock.timed, "inner", lambda: None)
    assert clock.seconds == {"rest": 1 + 16, "outer": 2 + 8, "inner": 4}


def test_the_import_report_is_read_by_module():
    from import_time import own_milliseconds

    report = "import time: self [us] | cumulative | imported package\nimport time:  1500 |  2500 |   modeling_aver.x"
    assert own_milliseconds(report) == {"modeling_aver.x": 1.5}


# ── floors of what is published, from raw seconds ───────────────────────────────────────────────────────────────────


def test_published_costs_are_linear_in_clips_and_in_minutes_and_memory_is_flat():
    curves = published("cost_curves")["curves"]

    def exponent(curve, costs):
        return np.polyfit(np.log(curve["values"]), np.log(costs), 1)[0]

    for name in ("number of clips", "recording length"):
        assert 0.9 <= exponent(curves[name], np.median(curves[name]["seconds"], axis=1)) <= 1.1, name
    assert exponent(curves["recording length"], curves["recording length"]["mebibytes"]) < 0.1


def test_the_published_data_path_costs_no_more_than_a_bare_loop():
    rows = {row["what"]: row for row in published("data_path")["rows"]}
    assert len(rows) == 4
    for what in rows:
        assert median_ratio(rows[what]["bare"], rows[what]["ours"]) >= 0.9, what


def test_the_published_import_costs_what_any_model_costs():
    seconds = published("import_time")["seconds"]
    assert median_ratio(seconds["modeling_aver"], seconds["any model"]) <= 1.10


def test_published_grouped_batches_hold_less_padding_and_cached_epochs_are_faster():
    numbers = published("training_throughput")
    for row in numbers["padding"]:
        assert np.mean(row["grouped"]) < 0.2 * np.mean(row["random"]), row["batch_size"]
    assert median_ratio(numbers["batches"]["grouped"]["seconds"], numbers["batches"]["random"]["seconds"]) < 1
    assert median_ratio(numbers["cache"]["seconds"]["cache"], numbers["cache"]["seconds"]["sound"]) < 1
