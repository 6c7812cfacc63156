"""Intervals against plain loops, scipy and formulas; McNemar's test against sums of binomial coefficients."""

import time
from fractions import Fraction
from math import comb
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import recall_score

from modeling_aver.evaluation.bootstrap import (
    clustered_mean_interval,
    combine_p_values,
    difference_intervals,
    mcnemar,
    mean_difference_intervals,
    mean_intervals,
    score_intervals,
)

EMOTIONS = np.array(["anger", "fear", "happy", "sad"])


def made_up_run(num_speakers=10, clips_each=12, accuracy=0.7, spread=0.5, seed=0):
    """
    Truth, answers and speakers; a speaker's accuracy is `accuracy` on average over people, who differ by `spread`
    (the standard deviation of their ease, in units of the noise of a clip). Some emotions are rarer. The truth does
    not depend on `seed`.
    """
    generator = np.random.default_rng(seed)
    normal = NormalDist()
    ease = normal.inv_cdf(accuracy) * np.sqrt(1 + spread**2) + spread * generator.normal(size=num_speakers)
    truth = np.random.default_rng(99).choice(4, size=num_speakers * clips_each, p=[0.4, 0.3, 0.2, 0.1])
    right = generator.normal(size=len(truth)) < ease.repeat(clips_each)
    answers = np.where(right, truth, (truth + generator.integers(1, 4, len(truth))) % 4)
    return EMOTIONS[truth], EMOTIONS[answers], np.arange(num_speakers).repeat(clips_each)


def scores_by_loop(truth, answers, draws):
    """WAR and UAR of each list of clips in `draws`, one at a time, by scikit-learn: `(num_draws, 2)`."""
    return np.array(
        [
            (
                np.mean(truth[clips] == answers[clips]),
                recall_score(truth[clips], answers[clips], labels=np.unique(truth[clips]), average="macro"),
            )
            for clips in draws
        ]
    )


def percentiles(scores):
    return np.quantile(scores, [0.025, 0.975], axis=0).T


def ends(intervals):
    return np.array([intervals["war"], intervals["uar"]])


def width(interval):
    return interval[1] - interval[0]


def test_intervals_over_clips_are_those_of_a_plain_loop():
    truth, answers, speakers = made_up_run()
    generator = np.random.default_rng(1)
    draws = (generator.integers(0, 120, 120) for _ in range(600))
    found = score_intervals(truth, answers, speakers)["clips"]
    # 600 draws put an end of the interval within about 0.01 of where infinitely many would.
    np.testing.assert_allclose(ends(found), percentiles(scores_by_loop(truth, answers, draws)), atol=0.025)


def test_intervals_over_speakers_are_those_of_a_plain_loop():
    truth, answers, speakers = made_up_run(spread=1.0)
    generator = np.random.default_rng(1)
    clips_of = [np.flatnonzero(speakers == name) for name in range(10)]
    draws = (np.concatenate([clips_of[name] for name in generator.integers(0, 10, 10)]) for _ in range(600))
    found = score_intervals(truth, answers, speakers)["speakers"]
    np.testing.assert_allclose(ends(found), percentiles(scores_by_loop(truth, answers, draws)), atol=0.03)


def test_the_difference_over_speakers_is_that_of_a_plain_loop_on_the_same_draws():
    truth, answers_a, speakers = made_up_run(seed=0)
    answers_b = made_up_run(accuracy=0.85, seed=1)[1]
    generator = np.random.default_rng(1)
    clips_of = [np.flatnonzero(speakers == name) for name in range(10)]
    draws = [np.concatenate([clips_of[name] for name in generator.integers(0, 10, 10)]) for _ in range(500)]
    differences = scores_by_loop(truth, answers_b, draws) - scores_by_loop(truth, answers_a, draws)
    found = difference_intervals(truth, answers_a, answers_b, speakers)["speakers"]
    np.testing.assert_allclose(ends(found), percentiles(differences), atol=0.03)


def test_the_interval_of_war_over_clips_is_that_of_scipy():
    truth, answers, speakers = made_up_run(num_speakers=100)
    right = (truth == answers).astype(float)
    expected = bootstrap((right,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1))
    found = score_intervals(truth, answers, speakers, num_resamples=4000)["clips"]["war"]
    np.testing.assert_allclose(found, expected.confidence_interval, atol=0.003)


def test_the_interval_of_many_clips_is_the_normal_one():
    truth, answers, speakers = made_up_run(num_speakers=500, clips_each=16)
    accuracy = np.mean(truth == answers)
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 8000)
    found = score_intervals(truth, answers, speakers, num_resamples=10_000)["clips"]["war"]
    np.testing.assert_allclose(found, [accuracy - half, accuracy + half], atol=0.0006)


def test_two_speakers_of_whom_one_is_always_right_are_resampled_whole():
    """Resamples have accuracies 0, 1/2, 1 with chances 1/4, 1/2, 1/4: the central 95 % is everything."""
    truth, answers, speakers = ["sad"] * 100, ["sad"] * 50 + ["fear"] * 50, ["ann"] * 50 + ["bob"] * 50
    found = score_intervals(truth, answers, speakers)
    assert found["speakers"]["war"] == [0, 1]
    assert 0.35 < found["clips"]["war"][0] < found["clips"]["war"][1] < 0.65


def test_speakers_with_one_clip_each_have_the_interval_of_the_clips():
    truth, answers, _ = made_up_run(num_speakers=50)
    found = score_intervals(truth, answers, np.arange(600), num_resamples=5000)
    np.testing.assert_allclose(ends(found["speakers"]), ends(found["clips"]), atol=0.006)


def test_speakers_who_are_all_alike_leave_no_doubt():
    truth, answers, speakers = ["sad", "fear"] * 5, ["sad", "sad"] * 5, np.arange(5).repeat(2)
    assert score_intervals(truth, answers, speakers)["speakers"]["uar"] == [0.5, 0.5]


def test_the_score_of_all_people_lies_in_the_intervals_over_speakers_but_often_outside_those_over_clips():
    """24 speakers with 60 clips each, as in RAVDESS; over all people the accuracy is exactly 0.8."""
    inside = {"clips": 0, "speakers": 0}
    for seed in range(150):
        run = made_up_run(num_speakers=24, clips_each=60, accuracy=0.8, spread=0.4, seed=seed)
        found = score_intervals(*run, num_resamples=500)
        for units in inside:
            low, high = found[units]["war"]
            inside[units] += low <= 0.8 <= high
    assert inside["speakers"] / 150 > 0.88
    assert inside["clips"] / 150 < 0.75


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others():
    first, again, other = (score_intervals(*made_up_run(), seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first["clips"]["uar"] != other["clips"]["uar"] and first["speakers"]["uar"] != other["speakers"]["uar"]


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(40)))
def test_the_order_of_the_clips_does_not_matter(order):
    truth, answers, speakers = made_up_run(num_speakers=5, clips_each=8)
    shuffled = score_intervals(truth[order], answers[order], speakers[order], num_resamples=50)
    assert shuffled == score_intervals(truth, answers, speakers, num_resamples=50)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=30
    )
)
def test_ends_are_in_order_and_in_range_for_any_runs(rows):
    truth, answers_a, answers_b, speakers = map(list, zip(*rows, strict=True))
    one = score_intervals(truth, answers_a, speakers, num_resamples=40)
    two = difference_intervals(truth, answers_a, answers_b, speakers, num_resamples=40)
    assert (one["speakers"] is None) == (len(set(speakers)) < 2) == (two["speakers"] is None)
    for found, lowest in ((one, 0), (two, -1)):
        for units in filter(None, (found["clips"], found["speakers"])):
            for low, high in ends(units):
                assert lowest <= low <= high <= 1


def test_a_run_does_not_differ_from_itself():
    truth, answers, speakers = made_up_run()
    found = difference_intervals(truth, answers, answers, speakers)
    assert (ends(found["clips"]) == 0).all() and (ends(found["speakers"]) == 0).all()


def test_swapped_runs_have_the_mirrored_interval():
    truth, answers_a, speakers = made_up_run(seed=0)
    answers_b = made_up_run(accuracy=0.85, seed=1)[1]
    forth = difference_intervals(truth, answers_a, answers_b, speakers)["speakers"]
    back = difference_intervals(truth, answers_b, answers_a, speakers)["speakers"]
    np.testing.assert_allclose(ends(forth), -ends(back)[:, ::-1], atol=1e-12)


def test_runs_that_fail_on_the_same_clips_differ_more_surely_than_runs_that_do_not():
    truth, answers_a, speakers = made_up_run(num_speakers=30)
    answers_b = answers_a.copy()
    mended = np.flatnonzero(answers_a != truth)[:20]
    answers_b[mended] = truth[mended]
    low, high = difference_intervals(truth, answers_a, answers_b, speakers)["clips"]["war"]
    alone = score_intervals(truth, answers_a, speakers)["clips"]["war"]
    assert low > 0
    assert high - low < 0.7 * width(alone)


def test_intervals_say_how_they_were_made():
    found = score_intervals(*made_up_run(), num_resamples=30, seed=5)
    assert {name: found[name] for name in ("level", "method", "num_resamples", "seed")} == {
        "level": 0.95,
        "method": "percentile bootstrap",
        "num_resamples": 30,
        "seed": 5,
    }
    assert found["clips"]["number"] == 120 and found["speakers"]["number"] == 10


def test_two_thousand_resamples_of_all_of_crema_d_take_under_two_seconds():
    truth, answers, speakers = (column[:7442] for column in made_up_run(num_speakers=91, clips_each=82))
    start = time.process_time()
    difference_intervals(truth, answers, answers[::-1], speakers, num_resamples=2000)
    assert time.process_time() - start < 2


def test_one_speaker_says_nothing_about_others():
    assert score_intervals([0, 1, 1], [0, 1, 0], ["ann"] * 3)["speakers"] is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([0, 1], [0], ["a", "b"]), "there are 2 references, 2 speakers, 1 predictions of run 1"),
        (([], [], []), "of at least one clip, but there are 0 references"),
    ],
)
def test_columns_that_do_not_fit_are_counted(columns, message):
    with pytest.raises(ValueError, match=message):
        score_intervals(*columns)


def test_no_resample_is_no_interval():
    with pytest.raises(ValueError, match=r"`num_resamples` \(0\) must be at least 1; 2000 is usual"):
        score_intervals([0, 1], [0, 1], [0, 1], num_resamples=0)


def right_or_wrong(both, only_a, only_b, neither):
    sizes = (both, only_a, only_b, neither)
    return np.repeat([True, True, False, False], sizes), np.repeat([True, False, True, False], sizes)


def test_mcnemar_by_hand():
    """Ten against two: 2 × (1 + 12 + 66) / 2^12."""
    test = mcnemar(*right_or_wrong(both=30, only_a=10, only_b=2, neither=5))
    assert (test.only_a, test.only_b) == (10, 2)
    assert test.p_value == pytest.approx(2 * 79 / 4096)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 9), st.integers(1, 9))
def test_mcnemar_is_the_two_sided_binomial_sum_and_sees_no_clip_that_both_have_alike(only_a, only_b, both, neither):
    discordant = only_a + only_b
    tail = sum(comb(discordant, k) for k in range(min(only_a, only_b) + 1))
    expected = min(Fraction(2 * tail, 2**discordant), 1)
    test = mcnemar(*right_or_wrong(both, only_a, only_b, neither))
    assert test.p_value == pytest.approx(float(expected))
    assert mcnemar(*right_or_wrong(both, only_b, only_a, neither)).p_value == pytest.approx(test.p_value)


def test_runs_that_are_right_on_the_same_clips_are_not_told_apart():
    assert mcnemar([True, False], [True, False]).p_value == 1


def test_mcnemar_refuses_runs_of_different_lengths():
    with pytest.raises(ValueError, match="there are 2 right_a, 1 right_b"):
        mcnemar([True, False], [True])


# ── several runs, such as seeds ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("unit", ["clips", "speakers"])
def test_a_mean_of_one_run_repeated_is_that_run(unit):
    truth, answers, speakers = made_up_run()
    repeated = mean_intervals(truth, [answers] * 3, speakers)[unit]
    assert repeated["war"] == pytest.approx(score_intervals(truth, answers, speakers)[unit]["war"])
    other = answers[::-1].copy()
    repeated = mean_difference_intervals(truth, [answers] * 2, [other], speakers)[unit]
    assert repeated["war"] == pytest.approx(difference_intervals(truth, answers, other, speakers)[unit]["war"])


def test_a_mean_of_runs_is_surer_than_each_of_them_where_their_mistakes_differ():
    truth, first, speakers = made_up_run(spread=0.0, seed=1)
    second = made_up_run(spread=0.0, seed=2)[1]
    width = lambda intervals: np.ptp(intervals["clips"]["war"])  # noqa: E731
    both = width(mean_intervals(truth, [first, second], speakers))
    assert both < 0.85 * min(width(score_intervals(truth, answers, speakers)) for answers in (first, second))


def test_several_p_values_become_twice_their_median():
    assert combine_p_values([0.03]) == 0.03
    assert combine_p_values([0.01, 0.2, 0.04]) == pytest.approx(0.08)
    assert combine_p_values([0.9, 0.8]) == 1


def test_twice_the_median_holds_its_level_for_tests_that_hang_together():
    """p-values of three seeds on the same clips, correlated by half: below 5 % in at most 5 % of 4,000 experiments."""
    generator = np.random.default_rng(0)
    shared, own = generator.normal(size=(4000, 1)), generator.normal(size=(4000, 3))
    p_values = np.vectorize(NormalDist().cdf)((shared + own) / np.sqrt(2))
    assert np.mean([combine_p_values(row) < 0.05 for row in p_values]) < 0.05


def test_an_interval_over_speakers_is_scipys_bootstrap_of_their_sums():
    generator = np.random.default_rng(3)
    speakers = np.repeat(np.arange(12), generator.integers(3, 9, size=12))
    values = generator.normal(size=12)[speakers] + generator.normal(size=len(speakers))
    groups = [values[speakers == speaker] for speaker in range(12)]
    sums, sizes = np.array([group.sum() for group in groups]), np.array([len(group) for group in groups])
    scipys = bootstrap(
        (sums, sizes),
        lambda sums, sizes, axis=-1: sums.sum(axis) / sizes.sum(axis),
        paired=True,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    ours = clustered_mean_interval(values, speakers, num_resamples=9999)
    assert ours == pytest.approx([scipys.low, scipys.high], abs=0.05)
    assert clustered_mean_interval([1.0, 2.0], ["ann", "ann"]) is None
