"""A feature cache that is killed, filled up, damaged, taken away or shared while it is used: never a wrong number."""

import functools
import json
import os
import random
import shutil
import socket
import time

import numpy as np
import pytest
import torch
import yaml
from accelerate import PartialState
from datasets import Dataset
from safetensors.torch import load_file, save_file
from support.faults import clean_processes, full_disk, open_files, read_only, resident_bytes
from support.feature_cache import FROZEN, losses_of
from support.models import aver_config, aver_model

import train_hf
from datasets_scripts.schema import wav_bytes
from modeling_aver import AverProcessor
from modeling_aver.io.atomic import WriteError
from modeling_aver.training import encoding
from modeling_aver.training.collation import AverDataCollator
from modeling_aver.training.encoding import fill_cache
from modeling_aver.training.feature_cache import FeatureCache, clip_key

CLIPS = 12
SECONDS = 0.3


@functools.cache
def network():
    return aver_model(aver_config()).aver


@functools.cache
def processor():
    return AverProcessor.from_config(network().config)


@functools.cache
def clips(count=CLIPS):
    """Clips of noise without faces."""
    draw = np.random.default_rng(0)
    rows = [
        {
            "utterance_id": f"clip{number}",
            "audio": {"bytes": wav_bytes(draw.uniform(-0.5, 0.5, round(16_000 * SECONDS))), "path": None},
            "action_units": [],
            "action_units_success": [],
            "video_timestamps": [],
            "label": number % 6,
        }
        for number in range(count)
    ]
    return Dataset.from_list(rows)


def cache_at(folder):
    return FeatureCache(folder, network(), processor().feature_extractor)


def fill(folder):
    cache = cache_at(folder)
    fill_cache(cache, network(), processor(), [clips()], batch_size=2)
    return cache


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Two clips in a file, so that there are several; one thread, so that the same sum is the same number."""
    monkeypatch.setattr(encoding, "CLIPS_IN_A_FILE", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Frames of each clip, from a cache that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "CLIPS_IN_A_FILE", 2)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        folder = tmp_path_factory.mktemp("undisturbed")
        cache = fill(folder)
        torch.set_num_threads(threads)
    return folder, [cache.frames(row) for row in clips()]


@pytest.fixture
def filled(expected, tmp_path):
    """A copy of that cache, to be damaged."""
    shutil.copytree(expected[0], tmp_path / "cache")
    return tmp_path / "cache"


def files(folder):
    return sorted(folder.rglob("*.safetensors"))


def assert_as_expected(cache, expected):
    assert all(torch.equal(cache.frames(row), frames) for row, frames in zip(clips(), expected[1], strict=True))


# ── damage ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def changed_header(path, change):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(change(json.loads(content[8 : 8 + length])), separators=(",", ":")).encode().ljust(length)
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])


def other_shape(header):
    """As many numbers, in other places."""
    for about in header.values():
        if "shape" in about:
            about["shape"] = about["shape"][::-1]
    return header


def exchanged(header):
    """Each clip's name at the other clip's frames; checksums stay with their clips."""
    keys = [key for key in header if key != "__metadata__"]
    return {
        "__metadata__": header["__metadata__"],
        **dict(zip(keys, [header[key] for key in keys[::-1]], strict=True)),
    }


def flipped(path, place):
    content = bytearray(path.read_bytes())
    content[place(len(content))] ^= 4
    path.write_bytes(content)


def of_halves(path):
    save_file({key: frames.half() for key, frames in load_file(path).items()}, path)


DAMAGES = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(os.urandom(3000)),
    "a huge header": lambda path: path.write_bytes(b"\xff" * 3000),
    "a flipped bit in the middle": lambda path: flipped(path, lambda size: size // 2),
    "a flipped bit at the end": lambda path: flipped(path, lambda size: size - 1),
    "another shape": lambda path: changed_header(path, other_shape),
    "clips exchanged": lambda path: changed_header(path, exchanged),
    "no checksums": lambda path: save_file(load_file(path), path),
    "another type": of_halves,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_made_again(filled, expected, damage, caplog):
    path = files(filled)[1]
    DAMAGES[damage](path)
    cache = fill(filled)
    assert caplog.text.count("is damaged") == 1 and str(path) in caplog.text and "encoded again" in caplog.text
    assert_as_expected(cache, expected)
    assert len(files(filled)) == CLIPS // 2


def test_every_flipped_bit_of_a_file_is_found(filled, expected):
    """At a hundred random places, header included: what is read is right, or is not read."""
    path = files(filled)[0]
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(100):
        flipped(path, lambda size: draw.randrange(size))
        cache = cache_at(filled)
        cache.drop_damaged([clip_key(row) for row in clips()])
        for row, frames in zip(clips(), expected[1], strict=True):
            assert clip_key(row) not in cache or torch.equal(cache.frames(row), frames)
        path.write_bytes(whole)


def test_what_the_folder_says_of_itself_is_for_people_alone(filled, expected):
    (described,) = filled.glob("*/encoder.json")
    whole = described.read_text()
    described.write_bytes(os.urandom(99))
    assert_as_expected(cache_at(filled), expected)
    assert described.read_text() == whole


LOSSES = {
    "cut short": lambda path: os.truncate(path, 500),  # within the file that is open: a memory map would kill us
    "flipped": lambda path: flipped(path, lambda size: size // 2),
    "gone": os.remove,
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_is_lost_while_it_is_read_is_told_by_its_clip(filled, loss, workers):
    cache = cache_at(filled)
    assert cache.frames(clips()[0]) is not None
    for path in files(filled):
        LOSSES[loss](path)
    batches = torch.utils.data.DataLoader(
        clips(), batch_size=4, collate_fn=AverDataCollator(processor(), cache), num_workers=workers
    )
    with pytest.raises(OSError) as error:
        list(batches)
    told = train_hf.in_one_line(error.value)
    assert told.startswith("The feature cache has lost the frames of clip") and "\n" not in told
    assert told.endswith("Start the run again, with --resume: they are encoded again.")


def test_frames_that_are_no_numbers_are_not_kept(tmp_path):
    cache = FeatureCache(tmp_path, network(), processor().feature_extractor, dtype="float16")
    with pytest.raises(ValueError, match="not finite as torch.float16. Give `feature_cache_dtype` float32"):
        cache.write({"a": torch.full((2, 1, 24), 1e5)})  # beyond what half precision holds
    assert not files(tmp_path)


# ── no room, no right ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_cache_is_read_where_nothing_can_be_written(filled, expected):
    with read_only(filled):
        assert_as_expected(fill(filled), expected)


def test_a_cache_that_lacks_clips_and_cannot_be_written_says_so(filled):
    files(filled)[0].unlink()
    with read_only(filled):
        with pytest.raises(WriteError, match="safetensors cannot be written: .*Make room or choose another place"):
            fill(filled)


def test_a_full_disk_is_told_and_the_filling_goes_on_when_there_is_room(tmp_path, expected):
    disk = tmp_path / "disk"
    with full_disk(disk, free=50_000) as fill_up:
        fill_up()
        with pytest.raises(WriteError, match="safetensors cannot be written: No space left on device. Make room"):
            fill(disk)
        kept = {path: path.stat().st_mtime_ns for path in files(disk)}
        assert 0 < len(kept) < CLIPS // 2 and not list(disk.rglob("*.part"))
        (disk / "ballast").unlink()
        assert_as_expected(fill(disk), expected)
        assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was there is not made again"


# ── killed, and shared ──────────────────────────────────────────────────────────────────────────────────────────────


def one_of(rank, processes, port, folder):
    """One of the processes that torchrun starts, in the environment that it gives them."""
    if processes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    PartialState(cpu=True)
    torch.set_num_threads(1)
    encoding.CLIPS_IN_A_FILE = 2
    original = FeatureCache.write
    # As slow as a real encoder, so that kills fall between files and into them.
    FeatureCache.write = lambda *args: (time.sleep(0.05), original(*args))
    fill(folder)
    os._exit(0)


def start_filling(folder, processes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = clean_processes().Process
    started = [begin(target=one_of, args=(rank, processes, port, folder)) for rank in range(processes)]
    for process in started:
        process.start()
    return started


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_filling_that_is_killed_again_and_again_ends_with_the_same_frames(tmp_path, expected, processes):
    """The frames are those of a cache that nothing disturbed, bit by bit; what is there after a kill is whole."""
    ended(start_filling(tmp_path / "first", processes))  # which also waits for the imports
    began = time.monotonic()
    assert ended(start_filling(tmp_path / "warm", processes)) == [0] * processes
    duration, seed = time.monotonic() - began, random.SystemRandom().randrange(10**6)
    draw, folder, left = random.Random(seed), tmp_path / "cache", []
    while (len(left) < 10 or not any(0 < some < CLIPS for some in left)) and time.monotonic() < began + 90:
        started = start_filling(folder, processes)
        time.sleep(draw.uniform(0, duration))
        hit = all(process.is_alive() for process in started)
        for process in started:
            process.kill()
        ended(started)
        cache = cache_at(folder)
        for row, frames in zip(clips(), expected[1], strict=True):
            assert clip_key(row) not in cache or torch.equal(cache.frames(row), frames), f"seed {seed}"
        if hit:
            left.append(len(cache))
        if len(cache) == CLIPS:
            shutil.rmtree(folder)
    assert ended(start_filling(folder, processes)) == [0] * processes, f"seed {seed}"
    assert any(0 < some < CLIPS for some in left), f"seed {seed}: no kill came in the middle, but at {left}"
    assert_as_expected(cache_at(folder), expected)


def ended(processes):
    for process in processes:
        process.join(60)
        process.kill()  # one that still runs would be waited for at the end of the tests
    return [process.exitcode for process in processes]


def train(arguments):
    torch.set_num_threads(1)
    encoding.CLIPS_IN_A_FILE = 2
    train_hf.main(arguments)
    os._exit(0)


@pytest.mark.slow
def test_two_runs_that_fill_one_cache_at_once_end_as_one_alone(tmp_path):
    recipe = tmp_path / "frozen.yaml"
    recipe.write_text(yaml.safe_dump(FROZEN))

    def begin(name, cache):
        flags = [str(recipe), "--output_dir", str(tmp_path / name), "--feature_cache_dir", str(tmp_path / cache)]
        process = clean_processes().Process(target=train, args=(flags,))
        process.start()
        return process

    for together in ([("alone", "one")], [("first", "both"), ("second", "both")]):
        started = [begin(*each) for each in together]
        for process in started:
            process.join(120)
        assert [process.exitcode for process in started] == [0] * len(started)
    alone = load_file(tmp_path / "alone" / "model.safetensors")
    for name in ("first", "second"):
        assert losses_of(tmp_path / name) == losses_of(tmp_path / "alone")
        weights = load_file(tmp_path / name / "model.safetensors")
        assert all(torch.equal(weights[key], alone[key]) for key in alone)
    assert not list((tmp_path / "both").rglob("*.part"))


@pytest.mark.slow
def test_ten_thousand_reads_leave_no_file_open_and_no_memory_behind(filled):
    cache, rows = cache_at(filled), list(clips())
    memory, opened = [], []
    for number in range(10_000):
        cache.frames(rows[number % CLIPS])
        if number % 500 == 0:
            memory.append(resident_bytes())
            opened.append(open_files())
    assert len(set(opened)) == 1
    late = memory[len(memory) // 4 :]  # after warming up
    assert np.median(late[len(late) // 2 :]) - np.median(late[: len(late) // 2]) < 2**20
