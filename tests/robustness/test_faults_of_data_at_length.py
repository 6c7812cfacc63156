"""Faults that take their time: processes killed at random moments, two at once, and thousands of reads for leaks."""

import contextlib
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from support.crema_d_tree import crema_d_tree
from support.extraction import tables
from support.fake_extractor import Brightness
from support.fake_openface import write_openface
from support.fault_checks import contents, done
from support.faults import full_disk, hidden_files, kill_at_random_moments, open_files, resident_bytes
from support.media import tone, write_video
from support.models import aver_config, aver_model

from datasets_scripts.hub.build import validate_build
from modeling_aver import AverProcessor
from modeling_aver.export.exporter import export_torch
from modeling_aver.features.base import FaceTrack, FeatureIdentity
from modeling_aver.features.clips import find_clips
from modeling_aver.features.extraction import extract_clips
from modeling_aver.features.tables import read_features, write_features
from modeling_aver.io.atomic import WriteError
from modeling_aver.io.media import read_audio, read_timestamps

pytestmark = pytest.mark.slow


def start(*arguments, **variables):
    """The command in a group of processes of its own."""
    command = [sys.executable, "-m", "modeling_aver", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen(command, env={**os.environ, **variables}, **pipes)


def finished(*processes):
    """Exit codes and what was said."""
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    return [process.returncode for process in processes], outputs


@pytest.fixture
def clips(tmp_path):
    """Ten small clips, and the command that extracts them by OpenFace's stand-in."""
    for index in range(10):
        path = tmp_path / "clips" / ("more" if index % 2 else "") / f"{index}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, range(0, 40 * (index + 2), 40))
    program = write_openface(tmp_path / "OpenFace")
    return "extract", tmp_path / "clips", "--backend", "openface", "--openface", program


def age(path, seconds=10_000):
    os.utime(path, (time.time() - seconds,) * 2)


def at_work(*paths):
    """Whether one of these files or folders has been touched in the last second: what killed runs left is older."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime < 1:
                return True
    return False


# ── killed, and two at once ─────────────────────────────────────────────────────────────────────────────────────────


def test_extract_killed_twice_then_started_twice_at_once_ends_as_undisturbed(clips, tmp_path, short_folder):
    done(*clips, "--out", tmp_path / "whole", "--workers", 0)
    whole, out, work = tables(tmp_path / "whole"), tmp_path / "out", short_folder
    workers = iter([1, 2])

    def begin():
        return start(*clips, "--out", out, "--workers", next(workers, 1), TMPDIR=str(work))

    def begun():
        return at_work(*work.glob("aver-openface-*"))

    for _ in kill_at_random_moments(begin, 2, seed=0, begun=begun, within=1.5):
        assert all(content == whole[name] for name, content in tables(out).items())
        assert len(hidden_files(out)) <= 3
        for path in (*out.rglob(".*.part"), *work.iterdir()):
            age(path)
    codes, outputs = finished(begin(), begin())
    assert codes == [0, 0] and all("10 done" in output for output in outputs)
    assert tables(out) == whole and hidden_files(out) == []
    assert list(work.glob("aver-openface-*")) == []


def test_a_build_killed_again_and_again_and_then_started_twice_at_once_ends_as_an_undisturbed_one(tmp_path):
    tree, out = crema_d_tree(tmp_path / "source"), tmp_path / "built" / "out"
    build = ("data", "build", "crema_d", tree, "--out")
    done(*build, tmp_path / "whole")
    whole = contents(tmp_path / "whole")

    def begin():
        return start(*build, out)

    def begun():
        return at_work(out / ".building")

    for _ in kill_at_random_moments(begin, 2, seed=0, begun=begun, within=1.0):
        assert [path.name for path in out.parent.iterdir()] == ["out"]
        if (out / ".building").exists():
            age(out / ".building")
        shards = {path.name: path.read_bytes() for path in out.glob("data/*.parquet")}
        assert all(content == whole[f"data/{name}"] for name, content in shards.items())
        if (out / "build.json").exists():
            assert validate_build(out) == {}
    codes, outputs = finished(begin(), begin())
    assert 0 in codes and set(codes) <= {0, 1}
    for code, output in zip(codes, outputs, strict=True):
        if code:
            assert f"aver: Another process builds {out} at this moment" in output.splitlines()[-1]
    assert contents(out) == whole and hidden_files(out) == []


def test_a_name_that_is_no_text_is_printed_and_the_rest_goes_on(clips, tmp_path):
    name = b"\xff\xfe".decode(errors="surrogateescape")
    write_video(tmp_path / "clip.mp4").rename(tmp_path / "clips" / f"{name}.mp4")
    codes, outputs = finished(start(*clips, "--out", tmp_path / "out", "--workers", 0, PYTHONIOENCODING="utf-8"))
    assert codes == [3] and "10 done" in outputs[0] and "Traceback" not in outputs[0]  # 3: one clip is left out
    assert r"\udcff\udcfe.mp4 is not UTF-8" in outputs[0]


# ── a full disk ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_processes_on_a_full_disk_name_the_table(clips, tmp_path):
    out = tmp_path / "out"
    with full_disk(out) as fill:
        fill()
        with pytest.raises(WriteError, match=r"\.npz cannot be written: No space left on device") as told:
            extract_clips(Brightness(tmp_path / "log.txt"), find_clips([clips[1]]), out, workers=2)
        assert "\n" not in str(told.value) and contents(out) == {}


def test_an_export_on_a_full_disk_ends_in_one_line_and_keeps_the_earlier_one(tmp_path):
    model = aver_model(aver_config())
    with full_disk(tmp_path / "disk", free=100_000) as fill:
        (tmp_path / "disk" / "out").mkdir()
        (tmp_path / "disk" / "out" / "config.json").write_text("{}")
        before = contents(tmp_path / "disk")
        fill()
        with pytest.raises(WriteError, match="out cannot be written: No space left on device"):
            export_torch(model, AverProcessor.from_config(model.config), tmp_path / "disk" / "out")
        assert contents(tmp_path / "disk") == before and hidden_files(tmp_path / "disk") == []


# ── thousands of reads ──────────────────────────────────────────────────────────────────────────────────────────────


def growth(job, count):
    """
    By how much memory grows over `count` calls, of which the first fifth are for warming up.

    Returns:
        `tuple[float, float]`: MB between the first and the last of ten points, and by a line through all of them.
    """
    for _ in range(count // 5):
        job()
    files, points = open_files(), []
    for _ in range(10):
        for _ in range(count * 4 // 50):
            job()
        points.append(resident_bytes() / 2**20)
    assert open_files() == files
    return points[-1] - points[0], np.polyfit(np.arange(10), points, 1)[0] * 9


def assert_flat(job, count, megabytes=3.0):
    """A leak of 1 kB a call would show as 8 MB in 8,000 calls; noise of the allocator stays within `megabytes`."""
    total, line = growth(job, count)
    assert total < megabytes and line < megabytes, f"{total:.2f} MB from end to end, {line:.2f} MB by the line"


@pytest.mark.parametrize("suffix, count", [("npz", 10_000), ("parquet", 2_000), ("csv", 2_000)])
def test_thousands_of_tables_leave_no_memory_and_no_file_behind(tmp_path, suffix, count):
    identity = FeatureIdentity("made-up", columns=("a", "b"))
    track = FaceTrack(np.arange(30) / 30, np.ones((30, 2), np.float32), np.ones(30, bool), identity)
    path = tmp_path / f"clip.{suffix}"
    if suffix == "csv":
        path.write_text("timestamp,a,b\n" + "".join(f"{index / 30},1,2\n" for index in range(30)))
    else:
        write_features(path, track)
    assert_flat(lambda: read_features(path), count)


def test_ten_thousand_clips_through_the_processor_leave_no_memory_behind():
    processor, generator = AverProcessor.from_config(aver_config()), np.random.default_rng(0)
    sounds = [generator.normal(size=1_600 + 100 * index).astype(np.float32) for index in range(10)]
    faces = [generator.random((3 + index, 7)) for index in range(10)]
    assert_flat(lambda: processor(audio=sounds, action_units=faces, sampling_rate=16_000), 1_000)


def test_two_thousand_clips_decoded_leave_no_memory_and_no_file_behind(tmp_path):
    video = write_video(tmp_path / "clip.mkv", [0, 40], sound=tone(0.1))
    assert_flat(lambda: (read_audio(video), read_timestamps(video)), 2_000)
