"""Features of a folder: every clip accounted for, none twice, whatever dies on the way."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
from support.extraction import alive, by_name, tables
from support.fake_extractor import Brightness, calls
from support.fake_openface import write_openface
from support.media import cut, flip, tone, write_sound, write_video
from typer.testing import CliRunner

from datasets_scripts import SAMPLE_DIR
from modeling_aver.cli.main import app
from modeling_aver.features.base import ExtractorUnavailableError, FaceTrack
from modeling_aver.features.child import clear_stale_folders, work_folder
from modeling_aver.features.clips import find_clips, this_share
from modeling_aver.features.extraction import BEFORE, extract_clips, find_extractor
from modeling_aver.features.tables import read_features, write_features
from modeling_aver.features.workers import in_processes
from modeling_aver.io.media import LFS_POINTER, MediaError, read_timestamps

VIDEOS = SAMPLE_DIR / "VideoFlash"


@pytest.fixture
def extractor(tmp_path):
    return Brightness(tmp_path / "log.txt")


@pytest.fixture
def folder(tmp_path):
    """Six small clips, two of them in a folder of their own."""
    for index, name in enumerate(["a", "b", "c", "d", "more/e", "more/f"]):
        path = tmp_path / "clips" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, range(0, 40 * (index + 2), 40))
    return tmp_path / "clips"


def no_picture(path):
    """A video stream in the header, and not one frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def dark(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        container.mux(stream.encode(None))


# name: (how to make it, status, part of the reason)
BAD = {
    "cut.mp4": (lambda path: cut(write_video(path)), "corrupt", "cut short"),
    "flipped.mkv": (lambda path: flip(write_video(path)), "corrupt", "damaged"),
    "empty.mp4": (lambda path: path.touch(), "corrupt", "0 bytes"),
    "text.mp4": (lambda path: path.write_text("hello" * 99), "corrupt", "cannot be decoded"),
    "sound.mp4": (lambda path: write_sound(path.with_suffix(".wav"), tone()).rename(path), "corrupt", "no picture"),
    "header.avi": (no_picture, "corrupt", "header.avi"),
    "dark.mp4": (dark, "no_face", "no face in 5 frames"),
    "pointer.flv": (lambda path: path.write_bytes(LFS_POINTER + b"v1\n"), "corrupt", "git lfs pull"),
    "itself.mp4": (lambda path: path.symlink_to(path), "corrupt", "Too many levels of symbolic links"),
    "gone.mp4": (lambda path: path.symlink_to("nowhere.mp4"), "corrupt", "No such file"),
    "pipe.mp4": (lambda path: os.mkfifo(path), "corrupt", "is not a file"),
    "odd.mp4": (write_video, "failed", "ZeroDivisionError: a decoder's mood"),
    "fails.mp4": (write_video, "failed", "the program crashed"),
    "loop": (lambda path: path.symlink_to(path.parent), "ignored", "is looked at already"),
}
GOOD = {
    "a.ts": write_video,
    "one.mp4": lambda path: write_video(path, [0]),
    "short.mp4": lambda path: write_video(path, range(0, 200, 40)),
    "uneven.mkv": lambda path: write_video(path, [0, 10, 50, 200, 210, 390]),
    "early.mkv": lambda path: write_video(path, range(-200, 200, 40), avoid_negative_ts="disabled"),
    "surround.mkv": lambda path: write_video(path, sound=tone(rate=8_000, layout="5.1")),
    "silent.mp4": write_video,
    "Übung 'x' $(y).MP4": write_video,
}


def add_bad_and_good(folder):
    for name, (make, *_) in BAD.items():
        make(folder / name)
    for name, make in GOOD.items():
        make(folder / name)
    (folder / "notes.txt").write_text("not a video, and not looked at")


def test_each_bad_clip_is_told_by_name_and_reason_and_the_rest_goes_on(folder, extractor, tmp_path):
    add_bad_and_good(folder)
    report = extract_clips(extractor, find_clips([folder]), tmp_path / "out")
    found = by_name(report)
    assert len(found) == len(report.outcomes) == 6 + len(BAD) + len(GOOD)
    for name, (_, status, reason) in BAD.items():
        assert (found[name].status, reason in found[name].reason) == (status, True), found[name]
    done = {name for name, outcome in found.items() if outcome.status == "done"}
    assert done == {"a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4", "f.mp4", *GOOD}
    assert len(tables(tmp_path / "out")) == len(done) + 1  # and that of the clip without a face
    assert {"a.mp4.npz", "a.ts.npz", "b.npz"} <= set(tables(tmp_path / "out"))


def test_the_report_says_the_same_as_text_and_as_json(folder, extractor, tmp_path):
    add_bad_and_good(folder)
    report = extract_clips(extractor, find_clips([folder]), tmp_path / "out")
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert values["counts"] == report.counts and sum(values["counts"].values()) == len(report.outcomes)
    assert values["identity"] == extractor.identity.to_dict()
    text = (tmp_path / "out" / "report.txt").read_text()
    for clip in values["clips"]:
        assert (f"{clip['clip']}: {clip['reason']}" in text) == (clip["status"] != "done")
    assert f"{report.counts['done']:6d} done" in text


@pytest.mark.parametrize("format", ["npz", "parquet"])
def test_a_table_lies_where_its_clip_lay_and_holds_its_features(folder, extractor, tmp_path, format):
    extract_clips(extractor, find_clips([folder]), tmp_path / "out", format=format)
    for name in ("a", "more/f"):
        expected = extractor.extract(folder / f"{name}.mp4")
        track = read_features(tmp_path / "out" / f"{name}.{format}")
        for mine, theirs in zip(track, expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert track.identity == extractor.identity


def stop_after(count):
    """Control-C after so many clips."""
    seen = []

    def watch(outcome):
        seen.append(outcome)
        if len(seen) == count:
            raise KeyboardInterrupt

    return watch


def test_a_stopped_run_goes_on_where_it_was_and_ends_with_the_same_bytes(folder, extractor, tmp_path):
    extract_clips(extractor, find_clips([folder]), tmp_path / "whole")
    extractor.log.unlink()
    with pytest.raises(KeyboardInterrupt):
        extract_clips(extractor, find_clips([folder]), tmp_path / "out", watch=stop_after(3))
    assert json.loads((tmp_path / "out" / "report.json").read_text())["counts"]["done"] == 3
    report = extract_clips(extractor, find_clips([folder]), tmp_path / "out")
    assert sorted(calls(extractor)) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4", "f.mp4"]  # each once
    assert [outcome.reason for outcome in report.outcomes] == [BEFORE] * 3 + [""] * 3
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")


def test_a_half_written_table_is_not_taken_for_finished(folder, extractor, tmp_path):
    extract_clips(extractor, find_clips([folder]), tmp_path / "out")
    whole = tables(tmp_path / "out")
    extractor.log.unlink()
    cut(tmp_path / "out" / "b.npz")
    (tmp_path / "out" / ".c.npz.1.part").write_bytes(whole["c.npz"][:100])
    extract_clips(extractor, find_clips([folder]), tmp_path / "out")
    assert calls(extractor) == ["b.mp4"] and tables(tmp_path / "out") == whole


def test_a_clip_that_has_changed_since_is_extracted_again(folder, extractor, tmp_path):
    extract_clips(extractor, find_clips([folder]), tmp_path / "out")
    extractor.log.unlink()
    write_video(folder / "d.mp4", range(0, 800, 40))
    extract_clips(extractor, find_clips([folder]), tmp_path / "out")
    assert calls(extractor) == ["d.mp4"]
    assert len(read_features(tmp_path / "out" / "d.npz").timestamps) == 20


def test_a_clip_without_a_face_is_not_looked_at_twice(extractor, tmp_path):
    dark(tmp_path / "dark.mp4")
    reports = [extract_clips(extractor, find_clips([tmp_path]), tmp_path / "out") for _ in range(2)]
    assert calls(extractor) == ["dark.mp4"] and reports[0] == reports[1]


def test_features_of_another_extractor_are_never_mixed_in(folder, extractor, tmp_path):
    extract_clips(extractor, find_clips([folder]), tmp_path / "out")
    with pytest.raises(MediaError, match="holds features of brightness 1 .*, not of brightness 2 .*--out"):
        extract_clips(Brightness(extractor.log, version="2"), find_clips([folder]), tmp_path / "out")


def test_strict_stops_at_the_first_bad_clip_and_keeps_what_was_done(folder, extractor, tmp_path):
    (folder / "b.mp4").write_bytes(b"")
    with pytest.raises(MediaError, match=r"b.mp4 is corrupt: b.mp4 is empty"):
        extract_clips(extractor, find_clips([folder]), tmp_path / "out", strict=True)
    assert list(tables(tmp_path / "out")) == ["a.npz"]
    assert "b.mp4 is empty" in (tmp_path / "out" / "report.txt").read_text()


def test_an_extractor_that_is_not_there_ends_the_run_at_once(folder, extractor, tmp_path):
    write_video(folder / "absent.mp4")
    with pytest.raises(ExtractorUnavailableError, match="not installed"):
        extract_clips(extractor, find_clips([folder]), tmp_path / "out")
    assert len(calls(extractor)) == 2  # a, absent; not b to f


def test_a_full_disk_ends_the_run_and_is_no_clips_fault(folder, extractor, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("modeling_aver.features.extraction.write_features", full)
    with pytest.raises(OSError, match="No space left"):
        extract_clips(extractor, find_clips([folder]), tmp_path / "out")


@pytest.mark.slow
def test_processes_give_what_one_gives_and_outlive_a_clip_that_kills_them(folder, extractor, tmp_path):
    extract_clips(extractor, find_clips([folder]), tmp_path / "one")
    for name in ("kills_1.mp4", "kills_2.mp4", "odd.mp4"):
        write_video(folder / name)
    report = extract_clips(extractor, find_clips([folder]), tmp_path / "two", workers=2)
    assert tables(tmp_path / "one") == tables(tmp_path / "two")
    bad = {name: outcome for name, outcome in by_name(report).items() if outcome.status != "done"}
    assert {name: outcome.status for name, outcome in bad.items()} == dict.fromkeys(
        ["kills_1.mp4", "kills_2.mp4", "odd.mp4"], "failed"
    )
    assert "died" in bad["kills_1.mp4"].reason and "died" in bad["kills_2.mp4"].reason


def test_single_files_are_taken_whatever_they_are_called(folder, extractor, tmp_path):
    (folder / "a.mp4").rename(folder / "a.dat")
    report = extract_clips(extractor, find_clips([folder / "a.dat", folder / "b.mp4"]), tmp_path / "out")
    assert report.counts["done"] == 2 and set(tables(tmp_path / "out")) == {"a.npz", "b.npz"}


def test_the_same_file_given_twice_is_one_clip(folder):
    clips, skipped = find_clips([folder / "a.mp4", folder / "a.mp4"])
    assert len(clips) == 1 and skipped == []


def test_clips_of_one_name_are_all_extracted_each_to_a_table_of_its_own(extractor, tmp_path):
    places = ["x/clips/a.mp4", "x/clips/a.mkv", "y/clips/a.mp4", "y/clips/b.mp4", "z/clips/b.mp4"]
    for index, place in enumerate(places):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / place, range(0, 40 * (index + 2), 40))
    sources = [tmp_path / "x", tmp_path / "y" / "clips", tmp_path / "z" / "clips" / "b.mp4"]
    report = extract_clips(extractor, find_clips(sources), tmp_path / "out")
    assert report.counts["done"] == len(report.outcomes) == 5
    names = {"clips/a.mp4", "clips/a.mkv", "a", "y/clips/b.mp4", "z/clips/b.mp4"}
    assert set(tables(tmp_path / "out")) == {f"{name}.npz" for name in names}
    lengths = {len(read_features(tmp_path / "out" / f"{name}.npz").timestamps) for name in names}
    assert lengths == {2, 3, 4, 5, 6}


@pytest.mark.parametrize(
    "files, expected",
    [
        (["a.mp4", "a.mkv", "b.mp4"], ["a.mkv", "a.mp4", "b"]),
        (["first/a.mp4", "second/a.mp4"], ["first/a.mp4", "second/a.mp4"]),
        (["first/a.mp4", "second/a.mkv"], ["a.mkv", "a.mp4"]),
        (["x/first/a.mp4", "y/first/a.mp4"], ["x/first/a.mp4", "y/first/a.mp4"]),
        (["x/a.mp4", "x/a.mkv", "x/a.mp4.avi"], ["a.mkv", "a.mp4.avi", "x/a.mp4"]),
    ],
)
def test_names_of_clips_grow_until_each_has_its_own(tmp_path, files, expected):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    clips, skipped = find_clips([tmp_path / name for name in files])
    assert sorted(clip.name for clip in clips) == expected and skipped == []


def test_a_folder_without_videos_is_told(tmp_path):
    with pytest.raises(MediaError, match=f"No video under {tmp_path}. Looked for files in .*\\.mp4"):
        find_clips([tmp_path])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_of_several_processes_are_disjoint_and_whole(folder, monkeypatch, count):
    class State:
        num_processes = count

        def __init__(self, cpu):
            self.process_index = int(os.environ["RANK"])

        def destroy_process_group(self):
            pass

    monkeypatch.setattr("accelerate.PartialState", State)
    monkeypatch.setenv("WORLD_SIZE", str(count))
    shares, names = [], set()
    for rank in range(count):
        monkeypatch.setenv("RANK", str(rank))
        (clips, _), name = this_share(find_clips([folder]))
        shares.extend(clips)
        names.add(name)
    assert sorted(shares, key=lambda clip: clip.name) == find_clips([folder])[0]
    assert len(shares) == 6 and len(names) == count


def test_unknown_words_are_refused_with_the_known_ones(folder, extractor, tmp_path):
    with pytest.raises(ValueError, match="`backend` may be mediapipe, openface; got openpose"):
        find_extractor("openpose")
    with pytest.raises(ValueError, match="`timeout` .3.0. is no option of the backend mediapipe"):
        find_extractor("mediapipe", timeout=3.0)
    with pytest.raises(ValueError, match="`timeout` .0.0. must be a positive number of seconds"):
        find_extractor("openface", timeout=0.0)
    with pytest.raises(ValueError, match="`format` may be npz, parquet; got csv"):
        extract_clips(extractor, find_clips([folder]), tmp_path, format="csv")
    with pytest.raises(ValueError, match="must end in .npz or .parquet"):
        write_features(tmp_path / "clip.csv", FaceTrack(np.zeros(1), np.zeros((1, 1)), np.ones(1), extractor.identity))


def aver(*arguments):
    return CliRunner().invoke(app, ["extract", *map(str, arguments)])


def test_the_command_extracts_by_the_openface_stand_in(folder, tmp_path):
    program = write_openface(tmp_path / "OpenFace")
    for name in ("crash", "no_face"):
        write_video(folder / f"{name}.mp4")
    options = ["--backend", "openface", "--openface", program, "--workers", 0, "--format", "parquet"]
    result = aver(folder, "--out", tmp_path / "out", *options)
    assert result.exit_code == 3, result.output
    assert "6 done" in result.output and "crash.mp4: OpenFace ended with SIGSEGV" in result.output
    track = read_features(tmp_path / "out" / "more" / "f.parquet")
    assert track.features.shape == (7, 35) and track.identity.settings == {"calibration": "dynamic"}
    np.testing.assert_array_equal(track.timestamps, read_timestamps(folder / "more" / "f.mp4"))


def test_the_command_fails_where_nothing_could_be_done(tmp_path):
    program = write_openface(tmp_path / "OpenFace")
    (tmp_path / "a.mp4").touch()
    result = aver(
        tmp_path / "a.mp4", "--out", tmp_path / "out", "--backend", "openface", "--openface", program, "--workers", 0
    )
    assert result.exit_code == 1 and "a.mp4 is empty" in result.output


def test_a_second_run_says_what_was_already_done_and_counts_no_rate_for_it(folder, tmp_path):
    program = write_openface(tmp_path / "OpenFace")
    options = ["--out", tmp_path / "out", "--backend", "openface", "--openface", program, "--workers", 0]
    first = aver(folder, *options)
    assert first.exit_code == 0 and "already done" not in first.output
    write_video(folder / "later.mp4")
    for new, expected in ((1, r"extract: 7 of 7 clips \(100%\), already done: 6, \d\.\d clips/s"), (0, None)):
        again = aver(folder, *options)
        assert again.exit_code == 0 and f"already done: {7 - new} of 7, in an earlier run" in again.stdout
        assert re.search(expected, again.stderr) if expected else "clips/s" not in again.stderr


def test_the_landmarker_s_file_has_its_own_option_and_model_is_its_old_name(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.8.7")
    write_video(tmp_path / "clip.mp4")
    for option in ("--face-landmarker", "--model"):
        result = aver(tmp_path / "clip.mp4", "--out", tmp_path / "out", option, tmp_path / "none.task")
        assert "none.task cannot be read: No such file or directory" in str(result.exception)
        assert "--face-landmarker FILE" in str(result.exception) and "--model" not in str(result.exception)
        assert ("--model of `aver extract` is deprecated: use --face-landmarker" in result.stderr) == (
            option == "--model"
        )
    assert "--face-landmarker" in aver("--help").output and "--model" not in aver("--help").output
    result = aver(tmp_path, "--out", tmp_path / "out", "--backend", "openface", "--face-landmarker", "x.task")
    assert "`face_landmarker` (x.task) is no option of the backend openface" in str(result.exception)


def test_a_table_that_is_short_is_never_done(tmp_path):
    program = write_openface(tmp_path / "OpenFace")
    # the trial clip of ten frames alone comes out whole
    program.write_text(program.read_text().replace('if "short" in asked:', "if len(pictures) != 10:"))
    video = write_video(tmp_path / "a.mp4", range(0, 240, 40))
    result = aver(video, "--out", tmp_path / "out", "--backend", "openface", "--openface", program, "--workers", 0)
    assert result.exit_code == 1 and tables(tmp_path / "out") == {}
    assert "a.mp4: OpenFace wrote 3 rows for the 6 frames of a.mp4" in result.output


@pytest.mark.parametrize("models", [{"units": False}, {"landmarks": False}])
def test_a_broken_installation_ends_the_run_before_any_clip(folder, tmp_path, models):
    program = write_openface(tmp_path / "OpenFace", **models)
    options = ["--backend", "openface", "--openface", program, "--workers", 0]
    result = aver(folder, "--out", tmp_path / "out", *options)
    assert isinstance(result.exception, ExtractorUnavailableError) and "lacks model files" in str(result.exception)
    assert len((program.parent / "calls.txt").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_broken_installation_is_one_line_over_processes_too(folder, tmp_path):
    program = write_openface(tmp_path / "OpenFace", units=False)
    with start(folder, "--out", tmp_path / "out", "--backend", "openface", "--openface", program) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and output.count("lacks model files") == 1 and "Traceback" not in output
    assert len((program.parent / "calls.txt").read_text().splitlines()) == 1


def test_a_clip_with_a_cut_is_doubtful_also_in_a_later_run(tmp_path):
    program, rows = write_openface(tmp_path / "OpenFace"), []
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(20):
            pixels = np.full((48, 64, 3), 60, np.uint8)
            pixels[:, 32:] = 200 if index < 10 else 90
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    command = [tmp_path / "a.mkv", "--out", tmp_path / "out", "--backend", "openface", "--openface", program]
    for _ in range(2):
        result = aver(*command, "--workers", 0, "--strict")
        rows.append([line for line in result.output.splitlines() if "doubtful" in line])
        assert result.exit_code == 0
    assert rows[0] == rows[1] and "1 doubtful" in rows[0][0]
    assert "a.mkv: The picture has a cut at 0.40 s. If it is another person" in rows[0][1]
    assert read_features(tmp_path / "out" / "a.npz").doubts[0].startswith("The picture has a cut at 0.40 s")
    (tmp_path / "empty.mp4").touch()
    assert aver(tmp_path / "empty.mp4", *command, "--workers", 0).exit_code == 3


@pytest.mark.slow
def test_a_run_that_stops_early_leaves_no_process_and_no_thread():
    begin, before = time.monotonic(), threading.active_count()
    stream = in_processes(time.sleep, [0, *[30] * 5], 2, lambda item: item)
    next(stream)
    children = multiprocessing.active_children()
    stream.close()
    assert time.monotonic() - begin < 20 and threading.active_count() == before
    assert children and not any(child.is_alive() for child in children)


@pytest.mark.slow
def test_a_strict_run_over_processes_ends_in_one_line(folder, tmp_path):
    program = write_openface(tmp_path / "OpenFace")
    write_video(folder / "crash.mp4")
    options = ["--backend", "openface", "--openface", program, "--workers", 2, "--strict"]
    for attempt in range(4):
        with start(folder, "--out", tmp_path / f"{attempt}", *options) as process:
            output, _ = process.communicate(timeout=120)
        assert process.returncode == 1 and "Traceback" not in output and "descriptor" not in output, output
        assert "crash.mp4 is failed: OpenFace ended with SIGSEGV" in output.splitlines()[-1]


def start(*arguments, **variables):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "modeling_aver.cli.main", "extract", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env={**os.environ, **variables}, **pipes)


@pytest.fixture
def blendshapes(shared):
    """Variables with which the command finds MediaPipe's model."""
    pytest.importorskip("mediapipe", reason='waits for pip install "modeling-aver[mediapipe]"', exc_type=ImportError)
    return {"AVER_FACE_LANDMARKER": str(shared / "models" / "face_landmarker.task")}


@pytest.mark.slow
def test_killed_halfway_and_started_again_it_gives_what_one_run_gives(blendshapes, tmp_path):
    with start(VIDEOS, "--out", tmp_path / "whole", "--workers", 1, **blendshapes) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "6 done" in output
    with start(VIDEOS, "--out", tmp_path / "out", "--workers", 2, **blendshapes) as process:
        while len(tables(tmp_path / "out")) < 2:
            time.sleep(0.01)
        workers = descendants(process.pid)
        os.kill(process.pid, signal.SIGKILL)
    assert 2 <= len(tables(tmp_path / "out")) < 6 and workers
    assert not any(alive(pid, 5.0) for pid in workers)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npz")}
    with start(VIDEOS, "--out", tmp_path / "out", "--workers", 2, **blendshapes) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "6 done" in output
    assert tables(tmp_path / "out") == tables(tmp_path / "whole") and len(tables(tmp_path / "out")) == 6
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    for name, clip in ((path.stem, path) for path in VIDEOS.glob("*.flv")):
        track = read_features(tmp_path / "out" / f"{name}.npz")
        assert track.success.all()
        np.testing.assert_array_equal(track.timestamps, read_timestamps(clip))


def descendants(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children] + [one for child in children for one in descendants(int(child))]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_openface_and_its_folder_end_with_the_command(tmp_path, short_folder, number, workers):
    program, work = write_openface(tmp_path / "OpenFace"), short_folder
    write_video(tmp_path / "hang.mp4")
    options = ["--out", tmp_path / "out", "--backend", "openface", "--openface", program, "--workers", workers]
    with start(tmp_path / "hang.mp4", *options, TMPDIR=str(work)) as process:
        child = program.parent / "child.txt"
        until = time.monotonic() + 120
        while not (child.exists() and child.read_text()) and time.monotonic() < until:
            time.sleep(0.02)
        pids = [int(word) for word in child.read_text().split()]
        assert len(list(work.glob("aver-openface-*"))) == 1
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and not any(alive(pid, 5.0) for pid in pids)
    until = time.monotonic() + 10
    while list(work.glob("aver-openface-*")) and time.monotonic() < until:
        time.sleep(0.05)
    assert list(work.glob("aver-openface-*")) == []
    assert "descriptor" not in output


def test_a_folder_that_a_live_run_uses_is_never_cleared(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with work_folder("aver-openface-") as live:
        os.utime(live, (0, 0))
        dead = shutil.copytree(live, tmp_path / "aver-openface-dead")  # a lock that no process holds
        os.utime(dead, (0, 0))
        clear_stale_folders("aver-openface-", 3600)
        assert live.exists() and not dead.exists()
    assert not live.exists()


@pytest.mark.slow
def test_processes_of_a_launcher_share_the_clips(blendshapes, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "modeling_aver.cli.main", "extract", str(VIDEOS), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env={**os.environ, **blendshapes}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("report-*.json"))]
    names = [Path(clip["clip"]).stem for report in reports for clip in report["clips"]]
    assert sorted(names) == sorted(path.stem for path in VIDEOS.glob("*.flv"))
    assert [report["counts"]["done"] for report in reports] == [3, 3]


@pytest.mark.slow
def test_a_folder_of_ten_thousand_with_fifty_bad_ones_finishes_and_keeps_the_rest(extractor, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    good = write_video(tmp_path / "good.mp4", [0, 40])
    for index in range(9_950):
        os.link(good, folder / f"good_{index:05d}.mp4")
    makers = [(name, make) for name, (make, *_) in BAD.items() if name not in ("loop",)]
    for index in range(50):
        name, make = makers[index % len(makers)]
        (folder / f"{index}").mkdir()
        make(folder / f"{index}" / name)
    report = extract_clips(extractor, find_clips([folder]), tmp_path / "out", workers=2)
    assert report.counts["done"] == 9_950 and len(report.outcomes) == 10_000
    assert len(tables(tmp_path / "out")) == 9_950 + report.counts["no_face"]
    bad = [outcome for outcome in report.outcomes if outcome.status != "done"]
    assert len(bad) == 50 and all(outcome.reason for outcome in bad)
    shutil.rmtree(tmp_path / "out")
