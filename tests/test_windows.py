"""Recordings in windows, and answers as one track: on numbers, without model or media."""

import itertools
import math

import numpy as np
import pytest

from modeling_aver.windows import LEVELS, Recording, cut, merge, whole

RATE = 1000


def recording(seconds=10.0, frame_rate=20.0, piece=70, sound=True, picture=True, shift=0):
    """Each sample and each frame says when it is: thousandths of a second, from `shift` on."""
    samples = np.arange(shift, shift + round(seconds * RATE), dtype=np.float32)
    times = np.arange(round(seconds * frame_rate)) / frame_rate
    pieces = [samples[start : start + piece] for start in range(0, len(samples), piece)]
    frames = [
        (time, np.array([1000 * time + shift, 1.0], np.float32), index % 4 > 0) for index, time in enumerate(times)
    ]
    return Recording("r", RATE, iter(pieces if sound else []), iter(frames if picture else []))


def test_a_recording_no_longer_than_a_window_is_one_window_with_everything():
    for window in (10.0, 12.0):
        (one,) = cut(recording(), window, 1.0)
        assert (one.start, one.end, len(one.sound), len(one.features)) == (0.0, 10.0, 10_000, 200)
        assert len(one.steps) == 10 and one.success.sum() == 150
        np.testing.assert_array_equal(one.timestamps, np.arange(200) / 20)


def test_windows_are_cut_by_time_and_count_from_their_own_start():
    windows = list(cut(recording(), 3.0, 1.5))
    assert [(one.start, one.end) for one in windows] == [(k * 1.5, k * 1.5 + 3) for k in range(5)] + [(7.5, 10.0)]
    for one in windows:
        np.testing.assert_array_equal(one.sound, np.arange(one.start * RATE, one.end * RATE))
        np.testing.assert_allclose(one.timestamps, np.arange(len(one.timestamps)) / 20, atol=1e-9)
        np.testing.assert_allclose(one.features[:, 0], 1000 * (one.timestamps + one.start), atol=1e-3)


def test_steps_are_the_recording_once_without_gaps():
    steps = [step for one in cut(recording(), 3.0, 0.7) for step in one.steps]
    assert steps[0].start == 0 and steps[-1].end == 10.0
    for before, after in zip(steps, steps[1:], strict=False):
        assert before.end == pytest.approx(after.start)
    assert sum(step.num_frames for step in steps) == 200 and sum(step.num_faces for step in steps) == 150
    assert all(len(step.levels) == LEVELS for step in steps)
    assert steps[3].levels[-1] == pytest.approx(2799)  # the loudest sample of a ramp is its last


def test_only_the_window_at_work_and_a_piece_more_is_read():
    read = {"sound": 0.0, "frames": 0.0}
    source = recording(60.0)

    def told(items, name, seconds_of):
        for item in items:
            read[name] = seconds_of(item)
            yield item

    source.sound = told(source.sound, "sound", lambda piece: piece[-1] / RATE)
    source.faces = told(source.faces, "frames", lambda row: row[0])
    for one in cut(source, 3.0, 1.0):
        assert max(read.values()) <= one.end + 0.1
        assert len(one.sound) <= 3 * RATE and len(one.features) <= 61


def test_a_recording_split_at_a_window_s_start_has_the_same_windows_after_it():
    later = [one for one in cut(recording(10.0), 2.0, 0.5) if one.start >= 4.0]
    again = list(cut(recording(6.0, shift=4000), 2.0, 0.5))
    assert len(later) == len(again)
    for one, other in zip(later, again, strict=True):
        assert one.start == other.start + 4.0
        np.testing.assert_array_equal(one.sound, other.sound)
        np.testing.assert_allclose(one.timestamps, other.timestamps, atol=1e-9)
        np.testing.assert_allclose(one.features, other.features, atol=1e-3)


@pytest.mark.parametrize("missing", ["sound", "picture"])
def test_one_stream_alone_has_windows_too(missing):
    windows = list(cut(recording(**{missing: False}), 4.0, 2.0))
    assert windows[-1].end == pytest.approx(10.0)
    assert all((len(one.sound) == 0) == (missing == "sound") for one in windows)
    assert all((len(one.features) == 0) == (missing == "picture") for one in windows)


def test_nothing_at_all_is_one_empty_window():
    (one,) = cut(recording(sound=False, picture=False), 4.0, 2.0)
    assert one.start == one.end == 0 and len(one.steps) == 1


def test_a_stream_that_ends_early_leaves_the_other_alone():
    both = recording(4.0)
    both.faces = recording(10.0).faces
    windows = list(cut(both, 2.0, 2.0))
    assert [len(one.sound) for one in windows] == [2000, 2000, 0, 0, 0]
    assert [len(one.features) for one in windows] == [40] * 5


def test_a_clip_too_long_to_be_heard_at_once_is_refused_before_it_is_read():
    assert len(whole(recording(30.0)).sound) == 30_000
    endless = recording()
    endless.sound = itertools.repeat(np.zeros(1000, np.float32))
    with pytest.raises(ValueError, match="r is longer than 30 s, .*Pass `window=3.0`"):
        whole(endless)


@pytest.mark.parametrize(
    "window, hop, message",
    [
        (0.0, 1.0, r"`window` \(0.0 s\) must be positive, and 30 s at most"),
        (31.0, 1.0, r"`window` \(31.0 s\)"),
        (3.0, 0.0, r"`hop` \(0.0 s\) must be positive"),
        (3.0, 4.0, r"`hop` \(4.0 s\) must be positive, and no longer than `window` \(3.0 s\)"),
    ],
)
def test_windows_that_leave_gaps_are_refused(window, hop, message):
    with pytest.raises(ValueError, match=message):
        next(cut(recording(), window, hop))


def test_a_step_under_one_window_has_its_answer_exactly():
    windows = list(cut(recording(), 10.0, 3.0))
    answer = np.array([[0.1, 0.2, 0.7]])
    np.testing.assert_array_equal(merge(windows, answer), np.repeat(answer, 4, axis=0))


def test_a_step_is_the_mean_of_its_windows_weighted_by_sin_squared():
    windows = list(cut(recording(4.0), 3.0, 1.0))  # [0, 3) and [1, 4)
    answers = np.array([[1.0, 0.0], [0.0, 1.0]])
    track = merge(windows, answers)
    expected = [1.0]
    for middle in (1.5, 2.5):
        first, second = math.sin(math.pi * middle / 3) ** 2, math.sin(math.pi * (middle - 1) / 3) ** 2
        expected.append(first / (first + second))
    np.testing.assert_allclose(track[:, 0], [*expected, 0.0], atol=1e-12)
    np.testing.assert_allclose(track.sum(axis=1), 1.0)


def test_windows_without_an_answer_do_not_weigh_and_leave_gaps_where_they_are_alone():
    windows = list(cut(recording(4.0), 2.0, 1.0))
    answers = np.array([[1.0, 0.0], [1.0, 0.0], [np.nan, np.nan]])
    track = merge(windows, answers)
    np.testing.assert_array_equal(track[:3], [[1.0, 0.0]] * 3)
    assert np.isnan(track[3]).all()
