"""Live answers: on a clock of the test's own, so that slowness is exact; once at real speed, on real clips."""

import sys
import types
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import aver
from support.fake_extractor import Brightness
from support.media import tone, write_sound, write_video
from support.reencoded_media import CLIPS, joined, remake
from support.saved_models import BRIGHTNESS, OPENFACE, TABLES, saved

from modeling_aver.inference.faces import FacesOfExtractor
from modeling_aver.inference.predict import load_pipeline
from modeling_aver.io.media import MediaError
from modeling_aver.live.recognizer import OLDEST, LiveRecognizer, SoundRing, run_live
from modeling_aver.live.sources import BACKLOG, BLOCK, DeviceSource, FileSource, open_source

RATE = 16_000


@pytest.fixture(scope="module")
def recognize(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brightness")
    return load_pipeline(saved(folder, num_action_units=2, feature_identity=BRIGHTNESS))


class Clock:
    """Time that passes by waiting and by work."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Stream:
    """Sound in pieces of 50 ms and 30 pictures a second, for some seconds."""

    def __init__(self, seconds):
        self.seconds, self.heard, self.shown, self.closed = seconds, 0, 0, False

    @property
    def is_over(self):
        return self.heard * BLOCK >= self.seconds

    def until(self, now):
        sounds, pictures = [], []
        while not self.is_over and (self.heard + 1) * BLOCK <= now:
            self.heard += 1
            sounds.append((self.heard * BLOCK, np.full(round(BLOCK * RATE), 0.1, np.float32)))
        while self.shown / 30 <= min(now, self.seconds):
            pictures.append((self.shown / 30, np.full((4, 4, 3), 200, np.uint8)))
            self.shown += 1
        return sounds, pictures

    def close(self):
        self.closed = True


class BrightnessOfPictures(Brightness):
    """The same of pictures from anywhere, at a price in seconds."""

    price, spend = 0.0, staticmethod(lambda seconds: None)

    def frames(self, video):
        raise AssertionError("a live stream has no file")

    def frames_of(self, pictures):
        for seconds, pixels in pictures:
            self.spend(self.price)
            yield seconds, np.array([pixels.mean(), pixels[:4, :4].mean()], np.float32), bool(pixels.mean() > 20)


def play(recognize, clock, source, look=0.0, answer=0.0, **options):
    """(answers, statistics, recognizer) where a look and an answer take so many seconds."""

    def frames_of(pictures):
        for seconds, pixels in pictures:
            clock.sleep(look)
            yield seconds, np.array([pixels.mean(), pixels[:4, :4].mean()], np.float32), True

    live, answers = LiveRecognizer(recognize, frames_of, **options), []
    real = live.answer

    def slow(now):
        clock.sleep(answer)
        return real(now)

    live.answer = slow
    return answers, run_live(live, source, answers.append, clock, clock.sleep), live


@given(st.lists(st.integers(0, 700), min_size=1, max_size=12), st.integers(0, 999), st.integers(0, 999))
def test_the_ring_holds_the_last_seconds_of_the_sound(lengths, start, end):
    ring, whole = SoundRing(0.5, 1000), np.arange(1, sum(lengths) + 1, dtype=np.float32)
    for first, last in pairwise(np.cumsum([0, *lengths])):
        ring.add(whole[first:last], last / 1000)
    kept = whole.copy()
    kept[: max(len(whole) - 500, 0)] = 0
    expected = kept[start:end]
    np.testing.assert_array_equal(ring.between(start / 1000, end / 1000), expected[expected > 0])


def test_sound_that_was_lost_is_silence_so_that_both_streams_stay_on_one_clock():
    ring = SoundRing(2.0, 1000)
    ring.add(np.ones(500, np.float32), 0.5)
    ring.add(np.ones(500, np.float32), 1.5)  # half a second is missing
    assert ring.end == 1.5
    assert ring.between(0, 0.5).all() and not ring.between(0.5, 1.0).any() and ring.between(1.0, 1.5).all()


def test_an_answer_is_the_pipeline_s_for_the_last_seconds(recognize):
    source = FileSource(CLIPS[0], RATE)
    sounds, pictures = source.until(1.5)
    heard = np.concatenate([samples for _, samples in sounds])[: round(1.5 * RATE)]
    rows = list(BrightnessOfPictures("").frames_of(pictures))
    live = LiveRecognizer(recognize, BrightnessOfPictures("").frames_of, window=1.0)
    for sound in sounds:
        live.hear(*sound)
    for picture in pictures:
        live.see(*picture)
        live.look(picture[0])
    emotions, streams = live.answer(1.5)
    last = [row for row in rows if 0.5 <= row[0] < 1.5]
    seconds, units, success = zip(*last, strict=True)
    clip = {"audio": heard[round(0.5 * RATE) :], "action_units": np.array(units), "action_units_success": success}
    expected = recognize({**clip, "video_timestamps": np.array(seconds) - 0.5})
    assert streams == ["audio", "video"] and len(last) > 20
    assert {one["label"]: one["score"] for one in emotions} == pytest.approx(
        {one["label"]: one["score"] for one in expected["emotions"]}, abs=1e-5
    )


def test_with_time_enough_nothing_is_dropped_and_answers_come_on_time(recognize):
    answers, statistics, _ = play(recognize, Clock(), Stream(5.0), look=0.01, answer=0.05)
    assert [answer.seconds for answer in answers] == pytest.approx([0.5 * count for count in range(1, 11)], abs=0.05)
    assert statistics.dropped == statistics.skipped == 0 and statistics.seen >= 140
    assert all(0.049 < answer.lag < 0.061 for answer in answers)  # the answer, and at most one look before it
    assert "10 answers (2.0 a second)" in statistics.to_text()


def test_pictures_are_dropped_rather_than_looked_at_late(recognize):
    clock, source = Clock(), Stream(10.0)
    looks = []
    live = LiveRecognizer(recognize, lambda pictures: _watched(pictures, clock, looks))
    statistics = run_live(live, source, lambda answer: None, clock, clock.sleep)
    assert statistics.dropped > 100 and statistics.seen > 80
    assert statistics.seen + statistics.dropped + len(live.waiting) == source.shown
    assert max(looks) <= OLDEST + 0.1  # what it waited, and the look itself
    assert (
        f"{statistics.dropped} of {statistics.seen + statistics.dropped} pictures were dropped" in statistics.to_text()
    )


def _watched(pictures, clock, looks):
    """Three times slower than pictures come."""
    for seconds, _ in pictures:
        clock.sleep(0.1)
        looks.append(clock() - 100.0 - seconds)
        yield seconds, np.zeros(2, np.float32), True


def test_answers_whose_time_has_passed_are_left_out_and_the_next_is_about_now(recognize):
    answers, statistics, _ = play(recognize, Clock(), Stream(10.0), answer=1.3)
    assert {round(answer.lag, 6) for answer in answers} == {1.3}
    gaps = np.diff([answer.seconds for answer in answers])
    assert gaps == pytest.approx(np.full(len(gaps), 1.5), abs=0.02)  # the next due moment, again and again
    assert statistics.skipped == 2 * statistics.answers


def test_memory_is_that_of_a_window_however_long_it_runs(recognize):
    clock, source = Clock(), Stream(120.0)
    live = LiveRecognizer(recognize, BrightnessOfPictures("").frames_of, window=1.0)
    live.answer = lambda now: ([], [])
    run_live(live, source, lambda answer: None, clock, clock.sleep)
    assert len(live.sound.ring) == RATE and len(live.rows) <= 45 and len(live.waiting) <= 30 * OLDEST + 1
    assert live.statistics.seen == pytest.approx(3600, abs=5)


def test_faster_pictures_are_thinned_to_the_rate_of_training(recognize):
    live = LiveRecognizer(recognize, BrightnessOfPictures("").frames_of)
    for index in range(60):
        live.see(index / 60, np.zeros((4, 4, 3), np.uint8))
    assert len(live.waiting) == 30


def test_ctrl_c_ends_it_with_its_account_and_gives_the_devices_back(recognize):
    source, clock = Stream(60.0), Clock()
    live = LiveRecognizer(recognize)

    def interrupted(seconds):
        clock.sleep(seconds)
        if clock.now > 102.8:
            raise KeyboardInterrupt

    statistics = run_live(live, source, lambda answer: None, clock, interrupted)
    assert source.closed and statistics.answers == 5


def test_devices_are_given_back_after_an_error_too(recognize):
    source = Stream(60.0)
    with pytest.raises(ZeroDivisionError):
        run_live(LiveRecognizer(recognize), source, lambda answer: 1 / 0, clock := Clock(), clock.sleep)
    assert source.closed


def test_neither_sound_nor_face_is_said(recognize):
    live, answers = LiveRecognizer(recognize), []
    assert live.answer(1.0) == ([], [])
    run_live(live, Stream(0.55), answers.append, clock := Clock(), clock.sleep)
    assert answers[0].streams == ["audio"] and "heard" in answers[0].to_text()
    live.hear(0.001, np.zeros(16, np.float32))
    assert LiveRecognizer(recognize).answer(0.001) == ([], [])


def test_a_file_comes_as_its_clock_says(tmp_path):
    path = write_video(tmp_path / "a.mkv", range(0, 1000, 40), sound=tone(1.0))
    source = FileSource(path, RATE)
    first, second = source.until(0.5), source.until(2.0)
    assert [seconds for seconds, _ in first[1]] == pytest.approx(np.arange(0, 0.5, 0.04))
    assert first[0][-1][0] <= 0.5 < second[0][0][0] and source.is_over
    assert sum(len(samples) for part in (first, second) for _, samples in part[0]) == RATE


def test_a_stream_that_a_file_has_not_is_no_matter(tmp_path):
    sound = write_sound(tmp_path / "a.wav", tone(0.4))
    assert len(FileSource(sound, RATE).until(1.0)[0]) and not FileSource(sound, RATE).until(1.0)[1]
    with pytest.raises(MediaError, match=r"a.wav has nothing to play for `streams` 'video'"):
        FileSource(sound, RATE, "video")


def test_an_extractor_that_needs_whole_files_is_refused(recognize, tmp_path):
    faces = FacesOfExtractor(Brightness(tmp_path / "log"))
    with pytest.raises(ValueError, match="are made of whole files, not of live pictures.*--streams audio"):
        open_source(recognize, faces)


def test_without_the_libraries_of_the_devices_it_says_what_to_install(recognize, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"microphone needs sounddevice and PortAudio.*modeling-aver\[live\]"):
        open_source(recognize, None, streams="audio")
    with pytest.raises(ImportError, match=r"camera needs cv2.*Without it: --streams audio, or play a file"):
        DeviceSource(RATE, "video")


@pytest.fixture
def devices(monkeypatch):
    """A microphone and a camera, which nothing here has: the test gives what they hear and see."""
    opened = {}

    class InputStream:
        def __init__(self, callback, **options):
            opened["microphone"], opened["options"] = callback, options

        def start(self):
            pass

        def close(self):
            opened["closed"] = True

    class VideoCapture:
        def __init__(self, number):
            opened["shots"] = 0

        def isOpened(self):  # noqa: N802 (OpenCV's)
            return True

        def read(self):
            opened["shots"] += 1
            return opened["shots"] <= 2, np.array([[[1, 2, 3]]], np.uint8)

        def release(self):
            opened["released"] = True

    sounddevice = types.SimpleNamespace(InputStream=InputStream, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice)
    monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(VideoCapture=VideoCapture))
    return opened


def test_devices_give_what_came_on_the_loop_s_clock_and_no_more_than_they_may_keep(devices):
    source = DeviceSource(RATE)
    source.watcher.join(timeout=5)
    for index in range(round(BACKLOG / BLOCK) + 7):
        devices["microphone"](np.full((800, 1), index, np.float32), 800, None, None)
    sounds, pictures = source.until(50.0)
    assert [len(sounds), sounds[0][1][0], sounds[-1][1].shape] == [round(BACKLOG / BLOCK), 7, (800,)]
    assert all(49.0 < end <= 50.0 for end, _ in sounds)
    assert [pixels.tolist() for _, pixels in pictures] == [[[[3, 2, 1]]]] * 2  # RGB, as files are read
    assert source.until(51.0) == ([], [])
    source.close()
    assert devices["closed"] and devices["released"] and devices["options"]["samplerate"] == RATE


@pytest.mark.slow
def test_a_real_clip_at_real_speed_is_answered_twice_a_second(recognize, tmp_path):
    path = remake(tmp_path / "long.mp4", *joined(8.0))
    faces = FacesOfExtractor(BrightnessOfPictures(tmp_path / "log"))
    answers = []
    source, frames_of = open_source(recognize, faces, path)
    live = LiveRecognizer(recognize, frames_of)
    live.warm_up()
    statistics = run_live(live, source, answers.append)
    assert statistics.answers + statistics.skipped == pytest.approx(16, abs=1)
    assert statistics.answers >= 14 and np.median(statistics.lags) < 0.5
    assert statistics.seen + statistics.dropped + len(live.waiting) == pytest.approx(8 * 30, abs=5)
    assert all(answer.streams == ["audio", "video"] for answer in answers[1:])


@pytest.mark.slow
def test_the_command_plays_a_file_with_its_table(tmp_path):
    model = saved(tmp_path / "model", num_action_units=35, feature_identity=OPENFACE)
    output = aver("live", "--model", model, "--file", str(CLIPS[0]), "--action-units-folder", str(TABLES))
    assert "heard and seen" in output and "answers (" in output and "lag" in output


def test_a_sound_file_is_played_by_its_sound_though_both_streams_are_asked_for(tmp_path):
    model = saved(tmp_path / "model", num_action_units=35, feature_identity=OPENFACE)
    sound = write_sound(tmp_path / "sound.wav", tone(1.2))
    output = aver("live", "--model", model, "--file", str(sound), "--action-units-folder", str(TABLES))
    assert "s, heard\n" in output and "seen" not in output


def test_a_model_of_openface_names_options_that_live_has(tmp_path):
    model = saved(tmp_path / "model", num_action_units=35, feature_identity=OPENFACE)
    with pytest.raises(ValueError, match="made of whole files, not of live pictures. Use the sound alone") as caught:
        aver("live", "--model", model, "--file", str(CLIPS[0]))
    assert "--openface" not in str(caught.value) and "--streams audio" in str(caught.value)
    with pytest.raises(ValueError, match="Tables of features belong to a file: give --file too"):
        aver("live", "--model", model, "--action-units-folder", str(TABLES))
