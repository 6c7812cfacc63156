"""Training on disks that fill up, with files that were changed, cut or taken away, and with numbers that are none."""

# ruff: noqa: F401 -- fixtures of another file are asked for by their names

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio
from safetensors.torch import load_file
from support.faults import clean_processes, full_disk, open_files, read_only, resident_bytes
from support.interrupted_runs import NUM_STEPS, assert_same_weights, one_thread, recipe, trained, undisturbed
from support.runs import made_up_run
from transformers import TrainerCallback
from typer.testing import CliRunner

import train_hf
from datasets_scripts import SAMPLE_DIR, load_crema_d
from datasets_scripts.schema import wav_bytes
from modeling_aver import AverProcessor
from modeling_aver.cli.main import app
from modeling_aver.training import run as training_run
from modeling_aver.training import trainer as trainer_module
from modeling_aver.training.checkpoints import ASIDE, find_checkpoints, problem_of
from modeling_aver.training.collation import AverDataCollator
from modeling_aver.training.run import in_one_line
from modeling_aver.training.trainer import AverTrainer

BALLAST = "ballast"


def is_whole(folder):
    return {problem_of(checkpoint) for checkpoint in find_checkpoints(folder).values()} == {None}


# ── disks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def disk(tmp_path):
    """`disk(free)` leaves so many bytes of the disk that the run is on; `disk.folder` is the run's."""
    with full_disk(tmp_path / "disk"):

        def leave(free):
            left = shutil.disk_usage(tmp_path / "disk").free
            (tmp_path / "disk" / BALLAST).write_bytes(bytes(max(left - free, 0)))

        leave.folder, leave.make_room = tmp_path / "disk" / "run", (tmp_path / "disk" / BALLAST).unlink
        yield leave


@pytest.mark.slow
@pytest.mark.parametrize("what", ["model.safetensors", "optimizer.pt"])
def test_a_disk_that_is_full_at_a_checkpoint_keeps_the_earlier_ones_and_resume_goes_on(
    recipe, undisturbed, disk, monkeypatch, what
):
    # Half of that file has room: of the optimizer, after the weights.
    sizes = {name: (undisturbed / "checkpoint-2" / name).stat().st_size for name in ("model.safetensors", what)}
    free = sizes[what] // 2 + (sizes["model.safetensors"] if what == "optimizer.pt" else 0)
    original = trainer_module.put_in_place

    def then_full(folder, output_dir):
        place = original(folder, output_dir)
        if place.name == "checkpoint-2":
            disk(free)
        return place

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "put_in_place", then_full)
        with pytest.raises(OSError) as error:
            trained(recipe, disk.folder)
    told = str(error.value)
    assert told.startswith(f"checkpoint-3 cannot be written to `output_dir` ({disk.folder}): ") and "\n" not in told
    assert told.endswith(f"The last checkpoint is {disk.folder / 'checkpoint-2'}. Make room, and go on with --resume.")
    assert list(find_checkpoints(disk.folder)) == [1, 2] and is_whole(disk.folder)
    assert not (disk.folder / ASIDE).exists(), "what was begun takes no room"
    disk.make_room()
    assert_same_weights(trained(recipe, disk.folder, "--resume"), undisturbed)


@pytest.mark.parametrize("moment", ["the model", pytest.param("the results", marks=pytest.mark.slow)])
def test_a_disk_that_is_full_at_the_end_is_told_and_resume_finishes(recipe, undisturbed, disk, monkeypatch, moment):
    where, name = {
        "the model": (AverTrainer, "save_finished"),
        "the results": (training_run, "write_results"),
    }[moment]
    original = getattr(where, name)

    def full(*args, **kwargs):
        disk(100)
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, full)
        with pytest.raises(OSError, match="cannot be written.*No space left on device.*ake room") as error:
            trained(recipe, disk.folder)
    assert "\n" not in str(error.value)
    assert (disk.folder / "model.safetensors").exists() == (moment == "the results")
    assert not (disk.folder / "results.json").exists() and is_whole(disk.folder)
    disk.make_room()
    assert_same_weights(trained(recipe, disk.folder, "--resume"), undisturbed)
    assert json.loads((disk.folder / "results.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return made_up_run(tmp_path_factory.mktemp("saved") / "model")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_model_that_does_not_fit_on_the_disk_is_not_exported_by_halves(saved, tmp_path, kind):
    with full_disk(tmp_path / "disk", free=100_000) as fill_up:  # configuration and code fit, the weights do not
        fill_up()
        outcome = CliRunner().invoke(app, ["export", kind, str(saved), "--out", str(tmp_path / "disk" / "out")])
        assert outcome.exit_code == 1 and isinstance(outcome.exception, OSError), outcome.exception
        told = str(outcome.exception)
        assert "cannot be written: No space left on device" in told and "ake room" in told and "\n" not in told
        assert not [path for path in (tmp_path / "disk" / "out").rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_trained(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    with read_only(tmp_path / "run"):
        with pytest.raises(OSError, match=r"`output_dir` \(.*run\) cannot hold a checkpoint: .*Read-only|denied"):
            trained(recipe, tmp_path / "run")


# ── killed at the end ───────────────────────────────────────────────────────────────────────────────────────────────


def stops_at(number, marker, arguments):
    """A run that waits for ever before the so manieth file of the trained model takes its place."""
    torch.set_num_threads(1)
    left, replace = iter(range(100)), os.replace

    def wait(*paths):
        if Path(paths[1]).parent == Path(arguments[2]) and next(left) == number:
            marker.touch()
            time.sleep(600)
        replace(*paths)

    trainer_module.os.replace = wait
    train_hf.main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 4])
def test_a_run_that_is_killed_while_the_trained_model_is_saved_is_finished_by_resume(
    recipe, undisturbed, tmp_path, number
):
    marker, folder = tmp_path / "marker", tmp_path / "run"
    arguments = [str(recipe), "--output_dir", str(folder)]
    it = clean_processes().Process(target=stops_at, args=(number, marker, arguments))
    it.start()
    deadline = time.monotonic() + 60
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    it.kill()
    it.join()
    assert marker.exists() and not (folder / "results.json").exists()
    assert len([path for path in folder.iterdir() if path.is_file()]) == number
    assert_same_weights(trained(recipe, folder, "--resume"), undisturbed)
    assert not (folder / ASIDE).exists() and (folder / "results.json").exists()


# ── files that go while they are read, and numbers that are none ────────────────────────────────────────────────────


@pytest.fixture
def by_paths(tmp_path):
    """A dataset whose rows name their sound files instead of holding them: its folder, and that of the sounds."""
    rows = load_crema_d(cache_dir=str(tmp_path / "hub"), split="train")
    shutil.copytree(SAMPLE_DIR / "AudioWAV", tmp_path / "sounds")
    paths = [str(tmp_path / "sounds" / f"{name}.wav") for name in rows["utterance_id"]]
    sounds = [{"bytes": None, "path": path} for path in paths]
    rows = rows.remove_columns("audio").add_column("audio", sounds).cast_column("audio", Audio(decode=False))
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "train.parquet")
    return tmp_path / "data", tmp_path / "sounds"


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_sound_that_goes_while_it_is_trained_on_is_named(recipe, by_paths, tmp_path, monkeypatch, workers):
    data, sounds = by_paths
    original = training_run.Rehearsal

    class Thief(TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            for path in sounds.iterdir():
                path.unlink()

    monkeypatch.setattr(AverTrainer, "add_callback", add_after(AverTrainer, original, Thief))
    flags = ("--dataset_name", str(data), "--dataloader_num_workers", workers)
    with pytest.raises((ValueError, OSError)) as error:
        trained(recipe, tmp_path / "run", *flags)
    told = in_one_line(error.value)
    assert "1001_DFA_" in told and "cannot be read: No such file or directory" in told and "\n" not in told


def add_after(trainer_class, rehearsal, thief):
    """`add_callback` that puts the thief behind the rehearsal, which reads the clips once."""
    original = trainer_class.add_callback

    def add(trainer, callback):
        original(trainer, callback)
        if isinstance(callback, rehearsal):
            original(trainer, thief)

    return add


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sound_of_numbers_that_are_none_is_named(recipe, by_paths, tmp_path, value):
    data, sounds = by_paths
    path = sounds / "1001_DFA_FEA_XX.wav"
    samples, rate = soundfile.read(path)
    samples[500] = value
    soundfile.write(path, samples, rate, subtype="FLOAT")
    with pytest.raises(ValueError, match="1001_DFA_FEA_XX holds sound that is not finite"):
        trained(recipe, tmp_path / "run", "--dataset_name", str(data))


def test_training_that_diverges_stops_before_it_spoils_the_weights(recipe, tmp_path):
    flags = ("--optim", "sgd", "--learning_rate", "1e30", "--max_grad_norm", "0")
    with pytest.raises(ValueError, match=r"The loss of step \d is (nan|inf): .*`learning_rate` \(1e\+30\)"):
        trained(recipe, tmp_path / "run", *flags)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    for folder in find_checkpoints(tmp_path / "run").values():
        assert all(weight.isfinite().all() for weight in load_file(folder / "model.safetensors").values())


def test_weights_that_are_no_numbers_never_take_the_place_of_good_ones(recipe, undisturbed, tmp_path, monkeypatch):
    class Poison(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:  # counted after the step
                with torch.no_grad():
                    model.classifier.bias[0] = torch.nan

    original = training_run.Rehearsal
    with monkeypatch.context() as patch:
        patch.setattr(AverTrainer, "add_callback", add_after(AverTrainer, original, Poison()))
        with pytest.raises(ValueError, match="1 weights are not finite .* classifier.bias: they are not saved.*-2"):
            trained(recipe, tmp_path, "--save_total_limit", "1")
    assert list(find_checkpoints(tmp_path)) == [2] and is_whole(tmp_path)
    assert_same_weights(trained(recipe, tmp_path, "--save_total_limit", "1", "--resume"), undisturbed)
    assert list(find_checkpoints(tmp_path)) == [NUM_STEPS]


# ── nothing stays behind ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_ten_thousand_clips_leave_no_file_open_and_no_memory_behind(tiny_model):
    draw = np.random.default_rng(0)
    rows = [
        {
            "utterance_id": str(number),
            "audio": {"bytes": wav_bytes(draw.uniform(-0.5, 0.5, 1600)), "path": None},
            "action_units": draw.random((3, 7)).tolist(),
            "action_units_success": [True] * 3,
            "video_timestamps": [0.0, 1 / 30, 2 / 30],
            "label": number % 6,
        }
        for number in range(64)
    ]
    collator = AverDataCollator(AverProcessor.from_config(tiny_model.config))
    memory, opened = [], []
    for step in range(10_000 // 16):
        batch = collator([rows[(16 * step + number) % 64] for number in range(16)])
        tiny_model(**batch).loss.backward()
        tiny_model.zero_grad()
        if step % 25 == 0:
            memory.append(resident_bytes())
            opened.append(open_files())
    assert len(set(opened[1:])) == 1
    late = memory[len(memory) // 4 :]  # after warming up
    assert np.median(late[len(late) // 2 :]) - np.median(late[: len(late) // 2]) < 4 * 2**20
