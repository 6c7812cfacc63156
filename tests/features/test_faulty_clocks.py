"""Media whose clocks are wrong: the right moments come out, or one line that says what is wrong."""

import json
import re
from fractions import Fraction

import av
import numpy as np
import pytest
from support.fake_extractor import Brightness
from support.fake_openface import write_openface
from support.media import MILLISECOND, tone, write_sound, write_video
from support.media_signals import first_sound
from support.models import aver_config, aver_model
from support.saved_models import BRIGHTNESS, OPENFACE, saved
from typer.main import get_command
from typer.testing import CliRunner

from datasets_scripts import load_clips
from modeling_aver import AverProcessor
from modeling_aver.cli.main import app
from modeling_aver.features.base import FeatureIdentity
from modeling_aver.features.clips import find_clips
from modeling_aver.features.clock import calibration_note
from modeling_aver.features.openface_csv import ACTION_UNITS
from modeling_aver.features.tables import read_features
from modeling_aver.features.track_folder import TrackFolder
from modeling_aver.inference.faces import FacesOfExtractor, FacesOfTables
from modeling_aver.inference.predict import load_pipeline, predict_clips
from modeling_aver.io.media import MediaError, read_audio, read_sound, read_timestamps

KEPT = {"avoid_negative_ts": "disabled"}
RATE = 16_000


def mux(path, pictures=(), sounds=(), rate=25):
    """
    A file whose packets carry any timestamps, as broken cameras and cut recordings write them.

    Args:
        path (`Path`)
        pictures (iterable of `int`): Milliseconds of each frame.
        sounds (iterable of `float`): Seconds at which each tenth of a second of a tone begins.
        rate (`int`, *optional*, defaults to 25): What the header says of the picture, in Hz.
    """
    with av.open(str(path), "w") as container:
        screen = container.add_stream("mpeg4", rate=rate)
        screen.width, screen.height, screen.pix_fmt = 64, 48, "yuv420p"
        screen.codec_context.time_base = MILLISECOND
        speaker = container.add_stream("pcm_s16le", rate=RATE)
        speaker.codec_context.layout = "mono"
        container.start_encoding()
        for index, (packet, pts) in enumerate(zip(_encoded(screen, len(pictures)), pictures, strict=True)):
            packet.dts, packet.pts, packet.duration = index, pts, 40
            container.mux(packet)
        for index, start in enumerate(sounds):
            piece = tone(0.1)
            piece.pts, piece.time_base = index * 1600, Fraction(1, RATE)
            for packet in speaker.encode(piece):
                packet.dts, packet.pts = index, round(start * RATE)
                container.mux(packet)
    return path


def _encoded(stream, count):
    packets = []
    for index in range(count):
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 + index, np.uint8), format="rgb24")
        frame.pts, frame.time_base = 40 * index, MILLISECOND
        packets.extend(stream.encode(frame))
    return packets + stream.encode(None)


EVEN = [0, 40, 80, 120, 160, 200]
TENTHS = [0.0, 0.1, 0.2, 0.3]


def test_sound_that_starts_two_seconds_after_the_picture_starts_there(tmp_path):
    video = write_video(tmp_path / "clip.mkv", sound=tone(), sound_start=2)
    assert first_sound(read_audio(video)) == pytest.approx(2, abs=2e-3) and read_timestamps(video)[0] == 0


def test_a_clock_that_starts_before_zero_keeps_the_streams_together(tmp_path):
    video = write_video(tmp_path / "clip.mkv", range(-2000, 400, 40), sound=tone(), sound_start=0.5, **KEPT)
    assert read_timestamps(video)[0] == pytest.approx(0, abs=1e-3)
    assert first_sound(read_audio(video)) == pytest.approx(2.5, abs=2e-3)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "nut"])
@pytest.mark.parametrize(
    "pictures, reason",
    [
        ([5, 40, 80, 60, 100, 140], r"runs backwards in time: frame 3 is at 0\.055 s, after 0\.075 s"),
        ([5, 40, 80, 5_000, 120, 160], r"runs backwards in time: frame 4"),
        ([5, 40, 80, 36_000_000, 36_000_040], r"leaps to 36000 s at frame 3"),
    ],
    ids=["steps back", "leaps and comes back", "10 h"],
)
def test_pictures_whose_clock_steps_back_or_leaps_are_refused_with_frame_and_moment(
    tmp_path, suffix, pictures, reason
):
    with pytest.raises(MediaError, match=rf"clip\.{suffix} {reason}"):
        read_timestamps(mux(tmp_path / f"clip.{suffix}", pictures))


def test_two_pictures_at_one_moment_are_kept(tmp_path):
    timestamps = read_timestamps(mux(tmp_path / "clip.mkv", [0, 40, 40, 40, 80]))
    np.testing.assert_allclose(timestamps, [0, 0.04, 0.04, 0.04, 0.08], atol=1e-6)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_header_that_claims_a_thousand_pictures_a_second_moves_none(tmp_path, suffix):
    timestamps = read_timestamps(mux(tmp_path / f"clip.{suffix}", [1, *EVEN[1:]], rate=1000))
    np.testing.assert_allclose(timestamps, np.array([0, 39, 79, 119, 159, 199]) / 1000, atol=1e-6)


def test_pictures_without_any_timestamps_go_by_the_frame_rate(tmp_path):
    path = tmp_path / "clip.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for packet in _encoded(stream, 5):
            container.mux(packet)
    np.testing.assert_allclose(read_timestamps(path), np.arange(5) / 25, atol=1e-6)


# A tenth of a second at each of these; where the sound is afterwards, to a tenth.
@pytest.mark.parametrize(
    "sounds, heard",
    [
        ([0.0, 0.1, 2.1, 2.2], [0, 1, 21, 22]),
        ([0.0, 0.13, 0.17, 0.3], [0, 1, 2, 3]),
        ([0.0, 1.0, 1.1, 3.0], [0, 10, 11, 30]),
        ([0.0, *(0.01 * number for number in range(1, 10))], list(range(10))),
    ],
    ids=["lost in the middle", "jitter", "lost twice", "a clock that is too slow"],
)
def test_sound_that_was_lost_leaves_silence_so_that_the_rest_stays_with_the_picture(tmp_path, sounds, heard):
    video = mux(tmp_path / "clip.nut", EVEN, sounds)
    waveform = read_audio(video)
    assert len(waveform) == pytest.approx((heard[-1] + 1) * RATE / 10, abs=2)
    loud = [
        number for number, tenth in enumerate(np.split(waveform, len(heard) and heard[-1] + 1)) if tenth.std() > 0.1
    ]
    assert loud == heard
    np.testing.assert_array_equal(np.concatenate(list(read_sound(video))), waveform)
    assert max(map(len, read_sound(video))) <= RATE


@pytest.mark.parametrize(
    "sounds, reason",
    [
        ([0.0, 36_000.0], "sound leaps from 0 to 36000 s. Its timestamps are damaged"),
        ([2.0, 2.1, 0.5, 0.6], r"runs backwards in time: sound of 0\.50 s comes after that of 2\.10 s"),
    ],
    ids=["10 h", "steps back"],
)
def test_sound_whose_clock_leaps_or_steps_back_is_refused(tmp_path, sounds, reason):
    with pytest.raises(MediaError, match=rf"clip\.nut:? {reason}"):
        read_audio(mux(tmp_path / "clip.nut", EVEN, sounds))


@pytest.fixture(scope="module")
def recognize(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brightness")
    return load_pipeline(saved(folder, num_action_units=2, feature_identity=BRIGHTNESS))


def test_every_such_clip_has_an_answer_or_a_reason_and_none_stops_the_others(recognize, tmp_path):
    """A stream without a frame is as none; sound of ten times the picture's length answers."""
    videos = tmp_path / "videos"
    videos.mkdir()
    mux(videos / "no_sound.mkv", EVEN)
    mux(videos / "no_picture.mkv", (), TENTHS)
    mux(videos / "nothing.mkv")
    mux(videos / "thousand.mkv", [1, *EVEN[1:]], TENTHS, rate=1000)
    mux(videos / "backwards.nut", [5, 40, 80, 60], TENTHS)
    write_video(videos / "long_sound.mkv", sound=tone(4.0))
    write_video(videos / "late_sound.mkv", sound=tone(), sound_start=2)
    faces = FacesOfExtractor(Brightness(tmp_path / "log.txt"))
    (videos / "backwards.nut").rename(videos / "backwards.mkv")
    for timing in (None, {"window": 1.0, "hop": 0.5}):
        predictions = predict_clips(recognize, find_clips([videos]), faces, timing=timing)
        streams = {name: one["streams"] for name, one in predictions.done.items()}
        both = ["audio", "video"]
        assert streams.pop("no_sound") == ["video"] and streams.pop("no_picture") == ["audio"]
        assert all(streams[name] == both for name in ("thousand", "long_sound", "late_sound"))
        assert predictions.done["long_sound"]["duration"] == pytest.approx(4.0, abs=0.05)
        assert predictions.done["late_sound"]["duration"] == pytest.approx(2.4, abs=0.05)
        assert "nothing" not in predictions.done
        assert all("\n" not in reason for reason in predictions.failed.values())
    reasons = {path.rpartition("/")[2]: reason for path, reason in predictions.failed.items()}
    assert set(reasons) <= {"nothing.mkv", "backwards.mkv"} and reasons["nothing.mkv"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", ["npz", "csv", "parquet"])
def test_a_table_with_a_moment_that_is_none_names_the_row(tmp_path, suffix, value):
    import pandas as pd

    path, times = tmp_path / f"clip.{suffix}", np.array([0.0, value, 2.0])
    if suffix == "npz":
        np.savez(path, timestamps=times, features=np.ones((3, 2)))
    else:
        table = pd.DataFrame({"timestamp": times, "a": 1.0})
        table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    with pytest.raises(
        MediaError, match=rf"clip.{suffix} holds values that are not finite numbers: timestamp of fr.* 1"
    ):
        read_features(path)


# ── tables of OpenFace on the video's own clock ─────────────────────────────────────────────────────────────────────


def openface_table(path, count, faces=None):
    """A table as OpenFace writes it: at index / 25, the clock that is wrong."""
    header = ["frame", "face_id", "timestamp", "confidence", "success", *ACTION_UNITS]
    lines = [", ".join(header)]
    for index in range(count):
        for face in (faces or {0: range(count)}).items():
            if index in face[1]:
                row = [index + 1, face[0], f"{index / 25:.3f}", 0.98 - 0.1 * face[0], 1]
                lines.append(", ".join(map(str, [*row, *[index / 10] * len(ACTION_UNITS)])))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


CLOCKS = {
    "late": ("mkv", list(range(1500, 1900, 40)), tone(2.0)),
    "uneven": ("mkv", [0, 40, 80, 900, 940, 2500], None),
}


@pytest.mark.parametrize("kind", CLOCKS)
def test_a_table_made_elsewhere_takes_the_timestamps_of_the_video(tmp_path, kind):
    suffix, milliseconds, sound = CLOCKS[kind]
    video = write_video(tmp_path / f"clip.{suffix}", milliseconds, sound=sound)
    openface_table(tmp_path / "tables" / "clip.csv", len(milliseconds))
    faces = FacesOfTables(TrackFolder(tmp_path / "tables", name_of=str))
    seconds, features, _ = zip(*faces.frames(video, "clip"), strict=True)
    np.testing.assert_allclose(seconds, np.array(milliseconds) / 1000, atol=2e-3)
    np.testing.assert_allclose([row[0] for row in features], np.arange(len(milliseconds)) / 10, atol=1e-6)


def test_clips_of_one_s_own_are_built_on_the_timestamps_of_the_video(tmp_path):
    milliseconds = list(range(1500, 1900, 40))
    write_video(tmp_path / "clip.mkv", milliseconds, sound=tone(2.0))
    openface_table(tmp_path / "OpenFace" / "clip.csv", len(milliseconds))
    (tmp_path / "clips.csv").write_text("file,label,speaker\nclip.mkv,happy,anna\n")
    (row,) = load_clips(tmp_path / "clips.csv", split="train", cache_dir=str(tmp_path / "cache"))
    np.testing.assert_allclose(row["video_timestamps"], np.array(milliseconds) / 1000, atol=2e-3)


@pytest.mark.parametrize("count", [3, 9, 11, 40])
def test_a_table_of_more_or_fewer_rows_than_the_video_has_frames_is_refused(tmp_path, count):
    video = write_video(tmp_path / "clip.mkv")
    openface_table(tmp_path / "tables" / "clip.csv", count)
    faces = FacesOfTables(TrackFolder(tmp_path / "tables", name_of=str))
    reason = f"OpenFace's table clip reaches frame {count}, but clip.mkv has 10 frames. .*Run OpenFace again"
    if abs(count - 10) > 2:
        reason = f"clip.csv has {count} frames \\(.* s\\), but clip.mkv has 10 .*Is it the table of another clip"
    with pytest.raises(MediaError, match=reason):
        list(faces.frames(video, "clip"))


def test_one_face_of_several_keeps_the_frames_it_was_seen_in(tmp_path):
    video = write_video(tmp_path / "clip.mkv", [0, 40, 500, 540, 900])
    openface_table(tmp_path / "tables" / "clip.csv", 5, {0: [0, 2, 3], 1: range(5)})
    faces = FacesOfTables(TrackFolder(tmp_path / "tables", name_of=str))
    seconds, *_ = zip(*faces.frames(video, "clip"), strict=True)
    np.testing.assert_allclose(seconds, [0, 0.5, 0.54], atol=2e-3)


def test_a_sound_file_leaves_a_table_its_own_clock(tmp_path):
    sound = write_sound(tmp_path / "clip.wav", tone(1.0))
    openface_table(tmp_path / "tables" / "clip.csv", 10)
    faces = FacesOfTables(TrackFolder(tmp_path / "tables", name_of=str))
    seconds, *_ = zip(*faces.frames(sound, "clip"), strict=True)
    np.testing.assert_allclose(seconds, np.arange(10) / 25, atol=1e-6)


@pytest.mark.parametrize(
    "settings, seconds, note",
    [
        ({}, 29.0, None),
        ({}, 60.0, "may have been calibrated on the whole 60 s.*--calibration-window 3"),
        ({"calibration": "dynamic"}, 60.0, "may have been calibrated on the whole 60 s"),
        ({"calibration": "static"}, 60.0, None),
        ({"calibration": "dynamic", "calibration_window": 3.0}, 60.0, "calibrated on each stretch of about 3 s alone"),
        ({"calibration": "dynamic", "calibration_window": 3.0}, 4.0, None),
    ],
)
def test_what_calibration_means_for_a_long_recording_is_noted(settings, seconds, note):
    found = calibration_note(FeatureIdentity("openface", settings=settings), seconds)
    assert found is None if note is None else re.search(note, found)
    assert calibration_note(FeatureIdentity("mediapipe", settings=settings), seconds) is None


@pytest.fixture(scope="module")
def openface_model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("openface"), num_action_units=35, feature_identity=OPENFACE)


def aver(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.slow
def test_a_timeline_is_calibrated_window_by_window_and_says_so(openface_model, tmp_path):
    program = write_openface(tmp_path / "OpenFace")
    video = write_video(tmp_path / "clip.mkv", range(0, 6000, 100), sound=tone(6.0))
    command = ("predict", video, "--model", openface_model, "--openface", program, "--timeout", 60)
    result = aver(*command, "--timeline", "--window", 2, "--formats", "json", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert "calibration_window 2.0" in predictions["settings"]["features"]
    assert any("calibrated on each stretch of about 2 s" in note for note in predictions["clips"][0]["notes"])
    calls = (program.parent / "calls.txt").read_text().splitlines()
    assert len(calls) == 1 + 3  # the trial, and three windows
    (program.parent / "calls.txt").unlink()
    result = aver(*command)
    assert result.exit_code == 0 and len((program.parent / "calls.txt").read_text().splitlines()) == 1 + 1
    assert "stretch" not in result.output


def test_a_doubtful_clip_says_so_in_its_answer(openface_model, tmp_path):
    program = write_openface(tmp_path / "OpenFace")
    video = tmp_path / "clip.mkv"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(20):
            pixels = np.full((48, 64, 3), 60, np.uint8)
            pixels[:, 32:] = 200 if index < 10 else 90
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    result = aver("predict", video, "--model", openface_model, "--openface", program)
    assert "clip: The picture has a cut at 0.40 s. If it is another person" in result.output


@pytest.mark.parametrize("command", ["extract", "predict", "sync", "explain", "enroll", "app"])
def test_every_command_that_runs_openface_takes_its_timeout_and_models(command):
    names = {name for one in get_command(app).commands[command].params for name in one.opts}
    assert {"--openface", "--openface-models", "--timeout"} <= names


@pytest.mark.parametrize("command", ["predict", "sync", "explain", "enroll"])
def test_openface_options_reach_openface_before_any_clip_is_read(tmp_path, command):
    config = aver_config(num_action_units=35, feature_identity={"name": "openface"})
    aver_model(config).save_pretrained(tmp_path / "model")
    scale = {"action_unit_mean": [0.3] * 35, "action_unit_std": [0.5] * 35}
    AverProcessor.from_config(config, **scale).save_pretrained(tmp_path / "model")
    program = write_openface(tmp_path / "OpenFace")
    arguments = [command, write_video(tmp_path / "clip.mkv"), "--model", tmp_path / "model", "--openface", program]
    arguments += [] if command in ("predict", "sync") else ["--out", tmp_path / "out"]
    refusals = {
        ("--openface-models", "nowhere"): "models are not at .*nowhere",
        ("--timeout", "-1"): r"`timeout` \(-1.0\) must be a positive number",
        ("--face-landmarker", "x.task"): r"`face_landmarker` \(x.task\) is no option of the backend openface",
    }
    for option, reason in refusals.items():
        assert re.search(reason, str(aver(*arguments, *option).exception))
    assert not (program.parent / "calls.txt").exists()
