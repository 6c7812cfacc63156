"""OpenFace: the tables it writes, real ones among them, and its program and container, by stand-ins.

The program and the containers here are stand-ins that behave like the real ones (`made_up_openface`): no real OpenFace
has run in these tests.
"""

import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import pytest
from support.extraction import alive
from support.fake_openface import write_models, write_openface, write_runtime
from support.faults import full_disk
from support.media import MILLISECOND, cut, tone, write_video
from support.reencoded_media import CLIPS, remake
from support.reencoded_media import clip as remade_clip

from datasets_scripts import SAMPLE_DIR
from modeling_aver.features import openface_csv as openface
from modeling_aver.features.base import ExtractionError, ExtractorUnavailableError
from modeling_aver.features.extraction import find_extractor
from modeling_aver.features.face_jumps import find_jumps
from modeling_aver.features.openface_csv import ACTION_UNITS, read_openface
from modeling_aver.features.upright import picture_facts, upright_pieces
from modeling_aver.io.media import MediaError, read_frames, read_timestamps

REAL = SAMPLE_DIR / "OpenFace" / "1001_DFA_ANG_XX.csv"
HEADER = ["frame", "timestamp", "confidence", "success", *ACTION_UNITS]
UNEVEN = [0, 10, 50, 200, 210, 390]  # milliseconds


def table(rows, header=HEADER, separator=", ", face_ids=None):
    """Bytes of a table; a row is (timestamp, confidence, success, value of all action units)."""
    header = header if face_ids is None else [header[0], "face_id", *header[1:]]
    lines = [separator.join(header)]
    for index, (*start, value) in enumerate(rows):
        known = dict(zip(HEADER[1:4], start, strict=True)) | {"frame": index + 1}
        known["face_id"] = None if face_ids is None else face_ids[index]
        lines.append(separator.join(str(known.get(column, value)) for column in header))
    return ("\n".join(lines) + "\n").encode()


def test_a_real_table_gives_35_columns_in_order():
    track = read_openface(REAL)
    assert track.features.shape == (67, 35) and track.features.dtype == np.float32
    assert track.features[0, ACTION_UNITS.index("AU04_r")] == np.float32(0.66)
    assert track.features[0, ACTION_UNITS.index("AU04_c")] == 1
    assert track.identity.columns == ACTION_UNITS and track.identity.version is None
    assert 0 <= track.features.min() and track.features.max() <= 5 and track.success.all()


def test_a_real_table_of_431_columns_without_face_id_reads_the_same_way(shared):
    track = read_openface(shared / "data" / "openface_variant.csv")
    assert track.features.shape == (100, 35)
    lines = (shared / "data" / "openface_variant.csv").read_text().splitlines()
    column = [name.strip() for name in lines[0].split(",")].index("AU12_r")
    expected = [float(line.split(",")[column]) for line in lines[1:]]
    np.testing.assert_allclose(track.features[:, ACTION_UNITS.index("AU12_r")], expected, atol=1e-6)


def test_without_success_confidence_decides():
    header = [column for column in HEADER if column != "success"]
    rows = [(0.0, 0.98, None, 1.0), (0.1, 0.725, None, 1.0), (0.2, 0.03, None, 1.0)]
    track = read_openface(table(rows, header))
    assert track.success.tolist() == [True, False, False]
    assert track.features[:, 0].tolist() == [1.0, 0.0, 0.0]


def test_of_several_faces_the_one_with_the_largest_mean_confidence_wins():
    rows = [(0.0, 0.99, 1, 1.0), (0.0, 0.90, 1, 2.0), (0.1, 0.10, 1, 1.0), (0.1, 0.90, 1, 2.0)]
    track = read_openface(table(rows, face_ids=[0, 1, 0, 1]))
    assert track.timestamps.tolist() == [0.0, 0.1] and (track.features == 2.0).all()


def test_a_failed_frame_keeps_its_row_whatever_it_holds():
    track = read_openface(table([(0.0, 0.98, 1, 1.0), (0.1, 0.0, 0, "nan"), (0.2, 0.98, 1, 3.0)]))
    assert track.success.tolist() == [True, False, True] and track.features[:, 34].tolist() == [1.0, 0.0, 3.0]


GOOD = [(0.0, 0.98, 1, 1.0), (0.1, 0.98, 1, 1.0)]
BROKEN = {
    "no units": (table(GOOD, HEADER[:4]), "lacks the OpenFace columns AU01_r, .* and 29 more. Was .* run with -aus"),
    "no AU28_c": (table(GOOD, [one for one in HEADER if one != "AU28_c"]), "lacks the OpenFace columns AU28_c"),
    "no time": (table(GOOD, [one for one in HEADER if one != "timestamp"]), "lacks the OpenFace columns timestamp"),
    "NaN": (table([GOOD[0], (0.1, 0.98, 1, "nan")]), "not finite numbers: features of frame 1"),
    "a word": (table([GOOD[0], (0.1, 0.98, 1, "n/a")]), "not finite numbers: features of frame 1"),
    "reversed": (table(GOOD[::-1]), "backwards in time: frame 1 is at 0.000 s, after 0.100 s"),
    "no frames": (table([]), "no frames"),
    "utf-16": (table(GOOD).decode().encode("utf-16"), "is not a table of OpenFace"),
    "latin-1": (b"Zeit\xe4," + table(GOOD), "is not a table of OpenFace"),
    "a row cut short": (table(GOOD) + b"3, 0.2, 0.9", "does not say whether frame 2 has a face: is it cut short"),
    "a row cut later": (table(GOOD) + b"3, 0.2, 0.98, 1, 0.5", "not finite numbers: features of frame 2"),
    "empty": (b"", "is empty"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_table_is_refused_by_name_and_reason(tmp_path, fault):
    content, reason = BROKEN[fault]
    (tmp_path / "clip.csv").write_bytes(content)
    with pytest.raises(MediaError, match=f"clip.csv .*{reason}"):
        read_openface(tmp_path / "clip.csv")


QUICK = {
    "real": (REAL.read_bytes(), True),
    "of one face": (table(GOOD, face_ids=[3, 3]), True),
    "of two faces": (table([*GOOD, *GOOD], face_ids=[0, 1, 1, 0]), False),
    "with a byte-order mark, as Windows ends lines": (b"\xef\xbb\xbf" + table(GOOD).replace(b"\n", b"\r\n"), True),
    "with a comment": (table(GOOD) + b"# done\n", False),
    "with a column twice": (table(GOOD, [*HEADER, "success"]), False),
    "with a cell too many": (table(GOOD).replace(b"0.98", b"0.98, 1"), False),
    "whose failed frame holds nothing": (table([GOOD[0], (0.1, 0.0, 0, "")]), False),
    **{name: (content, None) for name, (content, _) in BROKEN.items()},
}


@pytest.mark.parametrize("kind", QUICK)
def test_a_plain_table_is_read_quickly_and_as_pandas_reads_it(monkeypatch, kind):
    content, is_quick = QUICK[kind]
    assert is_quick is None or (openface._plain_columns(content) is not None) is is_quick
    quick = outcome(content)
    monkeypatch.setattr(openface, "_plain_columns", lambda content: None)
    assert outcome(content) == quick


def outcome(content):
    """What a table holds, or why it is refused."""
    try:
        return [values.tolist() for values in read_openface(content)]
    except MediaError as error:
        return str(error)


@pytest.fixture
def program(tmp_path):
    """The stand-in for FeatureExtraction."""
    return write_openface(tmp_path / "OpenFace")


EVEN = range(0, 240, 40)


def clip(tmp_path, name="clip.mp4", milliseconds=EVEN, **options):
    return write_video(tmp_path / name, milliseconds, **options)


def calls(program):
    """Arguments of each run of the stand-in."""
    log = program.parent / "calls.txt"
    return [line.split("\t") for line in log.read_text().splitlines()] if log.exists() else []


def column(track, name):
    return track.features[:, ACTION_UNITS.index(name)]


def test_features_come_with_the_streams_own_times_and_the_programs_digest(tmp_path, program):
    video = clip(tmp_path)
    extractor = find_extractor("openface", openface=program)
    timestamps, features, success = extractor.extract(video)
    np.testing.assert_array_equal(timestamps, read_timestamps(video))
    assert features.shape == (6, 35) and success.all()
    np.testing.assert_allclose(features[:, 0], 0.50 + np.arange(6) / 100, atol=1e-6)
    assert extractor.identity.version.startswith("sha256:") and extractor.identity.columns == ACTION_UNITS
    (call,) = calls(program)
    assert call[:2] == ["-f", str(video)] and "-aus" in call


def test_static_calibration_changes_values_and_identity(tmp_path, program):
    video = clip(tmp_path)
    dynamic, static = (find_extractor("openface", openface=program, static=flag) for flag in (False, True))
    assert static.extract(video).features[0, 0] - dynamic.extract(video).features[0, 0] == pytest.approx(0.2, abs=1e-6)
    assert (dynamic.identity.settings, static.identity.settings) == (
        {"calibration": "dynamic"},
        {"calibration": "static"},
    )


def test_names_are_arguments_and_never_a_shells_words(tmp_path, program):
    video = clip(tmp_path, "-a $(touch made); 'b',\"c\".mp4")
    assert len(find_extractor("openface", openface=program).extract(video).timestamps) == 6
    assert not (tmp_path / "made").exists() and not Path("made").exists()


# ── the pictures and the clock that OpenCV gets ─────────────────────────────────────────────────────────────────────

ONE = 1 << 16
MATRICES = {
    90: [0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30],
    180: [-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30],
    270: [0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30],
}


def turn(video, degrees):
    """Gives an MP4 a display matrix, as phones do, in the header of its track."""
    content = video.read_bytes()
    start = content.index(b"tkhd") + 44
    matrix = b"".join(number.to_bytes(4, "big", signed=True) for number in MATRICES[degrees])
    video.write_bytes(content[:start] + matrix + content[start + 36 :])
    return video


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
@pytest.mark.parametrize("degrees", MATRICES)
def test_openface_gets_a_rotated_video_upright(tmp_path, program, degrees, codec):
    video = turn(clip(tmp_path, codec=codec), degrees)
    track = find_extractor("openface", openface=program).extract(video)
    expected = [pixels[: len(pixels) // 2, : pixels.shape[1] // 2].mean() / 51 for _, pixels in read_frames(video)]
    np.testing.assert_allclose(column(track, "AU02_r"), expected, atol=0.02)
    np.testing.assert_array_equal(track.timestamps, read_timestamps(video))
    assert calls(program)[-1][1].endswith("copy.mkv")


@pytest.mark.parametrize("degrees", [None, 90, 180, 270])
def test_a_copy_holds_the_very_pixels_upright(tmp_path, degrees):
    video = clip(tmp_path, size=(96, 64), codec="libx264")
    if degrees is not None:
        turn(video, degrees)
    pictures = [pixels for _, pixels in read_frames(video)]
    pieces = upright_pieces(video, tmp_path, [2, 4])
    copied = [pixels for piece in pieces for _, pixels in read_frames(piece)]
    np.testing.assert_array_equal(copied, pictures)
    assert not list(tmp_path.glob("*.mkv"))


def test_opencv_reads_a_copy_as_it_reads_an_upright_video(tmp_path):
    cv2 = pytest.importorskip("cv2", reason="waits for OpenCV, by which OpenFace reads videos")
    video = next(iter(sorted((SAMPLE_DIR / "VideoFlash").glob("*.flv"))))

    def read(path):
        capture, pictures = cv2.VideoCapture(str(path)), []
        while (answer := capture.read())[0]:
            pictures.append(answer[1])
        return np.array(pictures)

    (copied,) = [read(piece) for piece in upright_pieces(video, tmp_path, [len(read_timestamps(video))])]
    np.testing.assert_array_equal(copied, read(video))


CLOCKS = {
    "variable rate": ("mkv", UNEVEN, {}),
    "late picture": ("mkv", range(1500, 1900, 40), {"sound": tone(2.0)}),
    "sound first": ("mp4", EVEN, {"sound_first": True}),
}


@pytest.mark.parametrize("kind", CLOCKS)
def test_rows_have_the_streams_timestamps_where_openface_would_be_wrong(tmp_path, program, kind):
    suffix, milliseconds, options = CLOCKS[kind]
    if options.pop("sound_first", False):
        video = sound_first(tmp_path / f"clip.{suffix}", milliseconds)
    else:
        video = clip(tmp_path, f"clip.{suffix}", milliseconds, **options)
    track = find_extractor("openface", openface=program).extract(video)
    np.testing.assert_allclose(track.timestamps, np.array(milliseconds) / 1000, atol=2e-3)
    assert len(calls(program)) == 1 and calls(program)[0][1].endswith("copy.mkv")


def sound_first(path, milliseconds):
    """A file whose first stream is sound, which the real OpenFace crashes on."""
    with av.open(str(path), "w") as container:
        speaker = container.add_stream("aac", rate=16_000, layout="mono")
        screen = container.add_stream("mpeg4", rate=25)
        screen.width, screen.height, screen.pix_fmt = 64, 48, "yuv420p"
        screen.codec_context.time_base = MILLISECOND
        for pts in milliseconds:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 99, np.uint8), format="rgb24")
            frame.pts, frame.time_base = pts, MILLISECOND
            container.mux(screen.encode(frame))
        container.mux(screen.encode(None))
        sound = tone(0.3)
        sound.pts = 0
        container.mux(speaker.encode(sound))
        container.mux(speaker.encode(None))
    return path


def test_an_even_clip_goes_to_openface_as_it_is(tmp_path, program):
    video = SAMPLE_DIR / "VideoFlash" / "1001_DFA_ANG_XX.flv"
    assert not picture_facts(video).needs_copy
    find_extractor("openface", openface=program).extract(video)
    assert calls(program)[0][1] == str(video)


# ── as many rows as frames ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["short", "off_by_one", "unreadable"])
def test_what_opencv_reads_otherwise_is_read_again_from_a_copy(tmp_path, program, name):
    video = clip(tmp_path, f"{name}.mp4")
    track = find_extractor("openface", openface=program).extract(video)
    np.testing.assert_array_equal(track.timestamps, read_timestamps(video))
    assert [call[1].rpartition("/")[2] for call in calls(program)] == [f"{name}.mp4", "copy.mkv"]


@pytest.mark.parametrize(
    "behaviour, reason",
    [
        ("short", "wrote 3 rows for the 6 frames of clip.mp4"),
        ("off_by_one", "wrote 5 rows for the 6 frames of clip.mp4"),
        ("unreadable", "wrote no table for clip.mp4. It printed last: Failed to open the video file at location"),
    ],
)
def test_a_table_that_is_short_of_a_row_is_refused(tmp_path, program, behaviour, reason):
    (program.parent / "behave.txt").write_text(behaviour)
    with pytest.raises(ExtractionError, match=reason):
        find_extractor("openface", openface=program).extract(clip(tmp_path))


def test_a_clip_without_a_face_is_a_track_of_failed_frames(tmp_path, program):
    track = find_extractor("openface", openface=program).extract(clip(tmp_path, "no_face.mp4"))
    assert not track.success.any() and not track.features.any() and len(track.success) == 6


# ── calibration ─────────────────────────────────────────────────────────────────────────────────────────────────────


def bright(path, levels, rate=10):
    """A video of grey pictures with one bright stripe, each half a second one level brighter or darker."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in levels:
            pixels = np.full((48, 64, 3), level, np.uint8)
            pixels[:, :8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.slow
def test_a_long_recording_is_calibrated_window_by_window_as_utterances_are(tmp_path, program):
    parts = [[40 + 2 * index for index in range(30)], [150 - index for index in range(30)]]
    alone = [bright(tmp_path / f"{index}.mkv", levels) for index, levels in enumerate(parts)]
    joined = bright(tmp_path / "joined.mkv", [*parts[0], *parts[1]])
    whole, windows = (
        find_extractor("openface", openface=program, calibration_window=seconds) for seconds in (None, 3.0)
    )
    expected = np.concatenate([column(whole.extract(video), "AU04_r") for video in alone])
    np.testing.assert_allclose(column(windows.extract(joined), "AU04_r"), expected, atol=0.02)
    assert np.abs(column(whole.extract(joined), "AU04_r") - expected).max() > 0.5
    assert windows.identity.settings == {"calibration": "dynamic", "calibration_window": 3.0}
    np.testing.assert_array_equal(windows.extract(joined).timestamps, read_timestamps(joined))
    assert windows.extract(alone[0]).features.shape == (30, 35)  # one window: the file itself


def test_static_features_need_no_windows(tmp_path, program):
    video = bright(tmp_path / "long.mkv", range(40, 130))
    extractor = find_extractor("openface", openface=program, static=True, calibration_window=3.0)
    extractor.extract(video)
    assert len(calls(program)) == 1 and extractor.identity.settings == {"calibration": "static"}


# ── one person ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_cut_to_another_scene_is_a_doubt_and_talking_is_none(tmp_path, program):
    frames, _ = remade_clip(0)
    others = [(second, np.ascontiguousarray(pixels[:, ::-1] // 2 + 60)) for second, pixels in remade_clip(3)[0]]
    step = frames[-1][0] + 1 / 30
    video = remake(tmp_path / "cut.mp4", [*frames, *((step + second, pixels) for second, pixels in others)], None)
    extractor = find_extractor("openface", openface=program)
    (doubt,) = extractor.extract(video).doubts
    assert float(re.search(r"The picture has a cut at (\S+) s\. If it is", doubt)[1]) == pytest.approx(step, abs=0.1)
    for path in CLIPS:
        assert extractor.extract(path).doubts == ()


def test_a_face_that_jumps_is_a_doubt(tmp_path, program):
    """Two people in one picture: the tracked head goes from the left to the right, with no cut of the scene."""
    video = tmp_path / "jump.mkv"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for index in range(20):
            pixels = np.full((240, 320, 3), 90, np.uint8)
            pixels[100:140, :40] = 120 - 10 * (index >= 10)
            pixels[100:140, -40:] = 110 + 10 * (index >= 10)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    (doubt,) = find_extractor("openface", openface=program).extract(video).doubts
    assert doubt.startswith("The tracked face jumps at 0.40 s. If it is another person")


def test_jumps_are_judged_by_the_time_between_frames():
    times, success = np.array([0.0, 0.04, 0.08, 1.0, 1.04]), np.ones(5, bool)
    poses = np.array([[0, 0, 600], [50, 0, 600], [250, 0, 600], [-400, 0, 600], [-400, 0, 400]], float)
    assert find_jumps(times, poses, success) == [0.08, 1.04]  # 200 mm in 40 ms; in 0.92 s it may; 1.5 times as near
    assert find_jumps(times, poses, success & (times != 0.04)) == [1.04]  # 250 mm in 80 ms: it may
    assert find_jumps(times, np.full((5, 3), np.nan), success) == []


# ── crashes, hangs and broken installations ─────────────────────────────────────────────────────────────────────────


def test_a_crash_names_clip_and_signal_and_the_last_line_that_was_printed(tmp_path, program):
    message = r"ended with SIGSEGV at crash.mp4. It printed last: INFO: this is the last line$"
    with pytest.raises(ExtractionError, match=message):
        find_extractor("openface", openface=program).extract(clip(tmp_path, "crash.mp4"))


def test_an_abort_shows_what_was_thrown(tmp_path, program):
    message = r"ended with SIGABRT at aborts.mp4. It printed last: terminate called .*std::length_error.*what\(\):"
    with pytest.raises(ExtractionError, match=message):
        find_extractor("openface", openface=program).extract(clip(tmp_path, "aborts.mp4"))


@pytest.mark.parametrize("size", [(32, 24), (64, 40), (40, 64)])
def test_pictures_that_are_too_small_for_openface_never_reach_it(tmp_path, program, size):
    video = clip(tmp_path, size=size)
    with pytest.raises(
        ExtractionError, match=f"pictures of {size[0]}x{size[1]} pixels, and OpenFace needs at least 41"
    ):
        find_extractor("openface", openface=program).extract(video)
    assert calls(program) == []


@pytest.mark.parametrize(
    "make, code",
    [
        (lambda path: write_video(path, EVEN, size=(32, 24)), signal.SIGABRT),
        (lambda path: sound_first(path, EVEN), signal.SIGSEGV),
        (lambda path: path.write_bytes(b"nothing"), 0),
    ],
    ids=["small", "sound first", "no video"],
)
def test_the_stand_in_fails_as_the_real_program_does(tmp_path, program, make, code):
    video = tmp_path / "clip.mp4"
    make(video)
    command = [program, "-f", video, "-out_dir", tmp_path, "-of", "clip", "-aus"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, text=True)
    assert done.returncode == -code and len(done.stdout) > 5_000  # its loading messages come before any cause


def test_a_hang_is_stopped_with_all_that_it_started(tmp_path, program, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(work))
    begin = time.monotonic()
    with pytest.raises(ExtractionError, match="still at hang.mp4 after 1 s and was stopped.*more than --timeout 1 "):
        find_extractor("openface", openface=program, timeout=1.0).extract(clip(tmp_path, "hang.mp4"))
    assert time.monotonic() - begin < 5
    assert not any(map(alive, pids(program))) and list(work.iterdir()) == []


def pids(program):
    """Of the stand-in that hangs, and of what it started."""
    return [int(word) for word in (program.parent / "child.txt").read_text().split()]


@pytest.mark.parametrize("seconds, limit", [(0.2, 2.0), (150.0, 5.0)])
def test_the_time_limit_grows_with_the_length_of_the_video(tmp_path, program, monkeypatch, seconds, limit):
    limits = []

    def run_child(command, folder, timeout):
        limits.append(timeout)
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr("modeling_aver.features.openface.run_child", run_child)
    video = clip(tmp_path, milliseconds=range(0, int(seconds * 1000) + 1, int(seconds * 200)))
    with pytest.raises(ExtractionError):
        find_extractor("openface", openface=program, timeout=2.0).extract(video)
    assert limits == [pytest.approx(limit)]


def test_a_damaged_video_never_reaches_openface(tmp_path, program):
    with pytest.raises(MediaError, match="clip.mp4"):
        find_extractor("openface", openface=program).extract(cut(clip(tmp_path)))
    assert calls(program) == []


def test_missing_action_unit_columns_are_named(tmp_path, program):
    with pytest.raises(MediaError, match="OpenFace's table of no_units.mp4 lacks the OpenFace columns AU01_r"):
        find_extractor("openface", openface=program).extract(clip(tmp_path, "no_units.mp4"))


@pytest.mark.parametrize("missing", ["landmarks", "units"])
def test_missing_model_files_are_the_installations_fault_not_the_clips(tmp_path, missing):
    program = write_openface(tmp_path / "OpenFace", **{missing: False})
    extractor = find_extractor("openface", openface=program)
    for attempt in (extractor.check_installation, lambda: extractor.extract(clip(tmp_path))):
        with pytest.raises(ExtractorUnavailableError, match="lacks model files. Fetch them.*--openface-models"):
            attempt()


def test_a_trial_run_finds_an_installation_that_works_and_one_that_does_not(tmp_path, program):
    extractor = find_extractor("openface", openface=program)
    extractor.check_installation()
    (program.parent / "behave.txt").write_text("crash")
    with pytest.raises(ExtractorUnavailableError, match="does not work here, as a trial run shows.*SIGSEGV"):
        extractor.check_installation()
    program.write_text("#!/no/such/interpreter")
    with pytest.raises(ExtractorUnavailableError, match="does not work here.*cannot be started"):
        extractor.check_installation()


def test_a_full_temporary_folder_is_named_as_such(tmp_path, program, monkeypatch):
    work = tmp_path / "work"
    with full_disk(work) as fill:
        monkeypatch.setattr(tempfile, "tempdir", str(work))
        extractor, video = find_extractor("openface", openface=program), clip(tmp_path)
        uneven = clip(tmp_path, "uneven.mkv", UNEVEN)
        fill()
        for attempt in (
            extractor.check_installation,
            *(lambda one=one: extractor.extract(one) for one in (video, uneven)),
        ):
            with pytest.raises(ExtractorUnavailableError, match=f"temporary folder {work} is full|No space left"):
                attempt()


def test_a_copy_that_is_too_large_for_the_temporary_folder_costs_that_clip(tmp_path, program, monkeypatch):
    work, generator = tmp_path / "work", np.random.default_rng(0)
    video = tmp_path / "noise.mkv"
    noise = (
        (second, generator.integers(0, 255, (240, 320, 3), np.uint8)) for second in (0.0, 0.1, 0.4, *range(1, 99))
    )
    remake(video, noise, None, codec="mpeg4")
    with full_disk(work, size=6 * 2**20):
        monkeypatch.setattr(tempfile, "tempdir", str(work))
        with pytest.raises(ExtractionError, match=f"noise.mkv needs an upright copy in {work}.*No space left.*TMPDIR"):
            find_extractor("openface", openface=program).extract(video)


# ── model files ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_models_of_the_current_folder_are_never_picked_up(tmp_path, program, monkeypatch):
    write_models(tmp_path / "here", number=0.45)
    monkeypatch.chdir(tmp_path / "here")
    track = find_extractor("openface", openface=program).extract(clip(tmp_path))
    assert not column(track, "AU06_r").any() and not column(track, "AU07_r").any()
    assert (program.parent / "folder.txt").read_text() != str(tmp_path / "here")


def test_models_that_are_named_are_used_and_enter_the_identity(tmp_path, program):
    mine, video = write_models(tmp_path / "mine", number=0.45), clip(tmp_path)
    extractor = find_extractor("openface", openface=program, openface_models=mine)
    track = extractor.extract(video)
    np.testing.assert_allclose(track.features[0, [4, 5]], 0.45, atol=1e-6)
    other = write_models(tmp_path / "other", number=0.46)
    plain, others = (find_extractor("openface", openface=program, openface_models=one) for one in (None, other))
    assert extractor.identity.settings["models"].startswith("sha256:") and "models" not in plain.identity.settings
    assert extractor.identity.settings != others.identity.settings


def test_a_landmark_model_is_given_as_mloc_with_the_predictors_beside_it(tmp_path):
    program = write_openface(tmp_path / "OpenFace", landmarks=False, units=False)
    landmarks = write_models(tmp_path / "elsewhere", number=0.45) / "model" / "main_clnf_general.txt"
    extractor = find_extractor("openface", openface=program, openface_models=landmarks)
    extractor.check_installation()
    assert extractor.extract(clip(tmp_path)).features[0, [4, 5]] == pytest.approx(0.45)
    assert calls(program)[-1][-2:] == ["-mloc", str(landmarks)]


def test_models_that_are_not_there_are_refused(tmp_path, program):
    with pytest.raises(
        ExtractorUnavailableError, match="models are not at .*nowhere. Give --openface-models a folder"
    ):
        find_extractor("openface", openface=program, openface_models=tmp_path / "nowhere")


def test_the_program_is_found_by_option_then_folder_then_path(tmp_path, program, monkeypatch):
    other = write_openface(tmp_path / "other")
    third = write_openface(tmp_path / "third")
    monkeypatch.setenv("PATH", str(third.parent))
    assert find_extractor("openface").program == str(third)
    monkeypatch.setenv("OPENFACE_DIR", str(tmp_path / "other"))
    assert find_extractor("openface").program == str(other)
    assert find_extractor("openface", openface=tmp_path / "OpenFace").program == str(program)


def test_where_there_is_no_openface_the_ways_to_get_features_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("OPENFACE_DIR", raising=False)
    with pytest.raises(ImportError, match="is not at PATH.*OPENFACE_DIR.*docker:.*--backend mediapipe"):
        find_extractor("openface")
    with pytest.raises(ImportError, match="docker is not on PATH"):
        find_extractor("openface", openface="docker:openface@sha256:" + "0" * 64)


DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    "name, image", [("docker", f"org/openface@{DIGEST}"), ("apptainer", f"docker://org/openface@{DIGEST}")]
)
@pytest.mark.parametrize("inside", ["", "#/opt/FeatureExtraction"])
def test_a_container_gives_what_the_program_gives(tmp_path, program, monkeypatch, name, image, inside):
    runtime = write_runtime(tmp_path / "bin", name, program)
    monkeypatch.setenv("PATH", str(runtime.parent), prepend=os.pathsep)
    video = clip(tmp_path, "a clip, with a comma.mp4")
    extractor = find_extractor("openface", openface=f"{name}:{image}{inside}")
    expected = find_extractor("openface", openface=program).extract(video)
    for mine, theirs in zip(extractor.extract(video), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert extractor.identity.version == DIGEST
    said = (runtime.parent / "runtime.txt").read_text().splitlines()
    assert image in said and (name != "docker" or said[said.index("--network") + 1] == "none")


def test_an_image_file_is_known_by_its_digest_and_a_tag_is_refused(tmp_path, program, monkeypatch):
    runtime = write_runtime(tmp_path / "bin", "apptainer", program)
    monkeypatch.setenv("PATH", str(runtime.parent), prepend=os.pathsep)
    (tmp_path / "openface.sif").write_bytes(b"image")
    version = find_extractor("openface", openface=f"apptainer:{tmp_path}/openface.sif").identity.version
    assert version == "sha256:6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"
    with pytest.raises(ExtractorUnavailableError, match="named by a tag.*Name it by digest: docker image inspect"):
        find_extractor("openface", openface="apptainer:docker://org/openface:latest")
