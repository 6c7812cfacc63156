"""Runs that are broken off: what they leave, what is gone on from, and where it ends."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file
from support.faults import clean_processes
from support.interrupted_runs import (  # noqa: F401 (fixtures)
    NUM_STEPS,
    assert_same_weights,
    cut,
    flip,
    one_thread,
    recipe,
    run,
    trained,
    undisturbed,
)
from support.training import ROOT
from transformers import TrainerCallback

import train_hf
from modeling_aver.training import trainer as trainer_module
from modeling_aver.training.arguments import parse_arguments
from modeling_aver.training.checkpoints import ASIDE, find_checkpoints, last_complete, problem_of, where_to_start

# ── which checkpoint is whole ───────────────────────────────────────────────────────────────────────────────────────


DAMAGES = {
    "weights cut short": ("model.safetensors", cut, "model.safetensors cannot be read"),
    "weights without a header": ("model.safetensors", lambda path: path.write_bytes(b""), "model.safetensors cannot"),
    "no weights": ("model.safetensors", os.remove, "lacks model.safetensors"),
    "optimizer cut short": ("optimizer.pt", cut, "optimizer.pt cannot be read"),
    "optimizer with a wrong bit": ("optimizer.pt", flip, "optimizer.pt is damaged in "),
    "no optimizer": ("optimizer.pt", os.remove, "lacks optimizer.pt"),
    "no scheduler": ("scheduler.pt", os.remove, "lacks scheduler.pt"),
    "no generators": ("rng_state.pth", os.remove, "lacks rng_state.pth"),
    "empty generators": ("rng_state.pth", lambda path: path.write_bytes(b""), "rng_state.pth cannot be read"),
    "state cut short": ("trainer_state.json", lambda path: path.write_text("{"), "trainer_state.json cannot be read"),
    "state of another step": (
        "trainer_state.json",
        lambda path: path.write_text('{"global_step": 2}'),
        "trainer_state.json is of another step",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_passed_over(run, caplog, damage):
    name, harm, message = DAMAGES[damage]
    assert last_complete(run).name == "checkpoint-3"
    assert not caplog.records
    harm(run / "checkpoint-3" / name)
    assert last_complete(run).name == "checkpoint-2"
    assert "checkpoint-3 is passed over: " in caplog.text and message in caplog.text


def test_weights_in_several_files_are_all_asked_for(run):
    folder = run / "checkpoint-3"
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    os.rename(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    os.remove(folder / "checksums.json")  # of the one file that it was
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert problem_of(folder) == "it lacks model-00002-of-00002.safetensors"
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors")
    assert problem_of(folder) is None
    (folder / "model.safetensors.index.json").write_text("{")
    assert problem_of(folder) == "it lacks a readable model.safetensors.index.json"


def test_a_checkpoint_of_weights_alone_is_no_place_to_go_on_from(run):
    for name in ("optimizer.pt", "scheduler.pt"):
        os.remove(run / "checkpoint-3" / name)
    assert problem_of(run / "checkpoint-3").endswith("(was it saved with `save_only_model`?)")


# ── where a run starts ──────────────────────────────────────────────────────────────────────────────────────────────


def start_of(recipe, output_dir, *flags):
    return where_to_start(parse_arguments([str(recipe), "--output_dir", str(output_dir), *flags])[2])


def test_resume_goes_on_from_the_last_complete_one(recipe, run):
    cut(run / "checkpoint-3" / "optimizer.pt")
    assert start_of(recipe, run, "--resume") == str(run / "checkpoint-2")


def test_resume_with_nothing_to_resume_says_so_and_starts_from_the_beginning(recipe, run, caplog):
    for folder in find_checkpoints(run).values():
        cut(folder / "model.safetensors")
    assert start_of(recipe, run, "--resume") is None
    assert caplog.text.count("is passed over") == 3
    assert f"No complete checkpoint in {run}: training starts from the beginning." in caplog.text


def test_a_new_run_does_not_mix_its_checkpoints_with_those_of_an_earlier_one(recipe, run, tmp_path):
    with pytest.raises(ValueError, match=r"has checkpoints of an earlier run, the last checkpoint-3. Resume it with "):
        start_of(recipe, run)
    assert start_of(recipe, tmp_path / "new") is None


def test_a_named_checkpoint_has_to_be_complete(recipe, run):
    flags = ("--resume_from_checkpoint", str(run / "checkpoint-3"))
    assert start_of(recipe, run, *flags) == str(run / "checkpoint-3")
    os.remove(run / "checkpoint-3" / "rng_state.pth")
    with pytest.raises(ValueError, match="is no complete checkpoint: it lacks rng_state.pth"):
        start_of(recipe, run, *flags)
    with pytest.raises(ValueError, match="is no complete checkpoint: there is no such folder"):
        start_of(recipe, run, "--resume_from_checkpoint", str(run / "nowhere"))


def test_going_on_with_another_number_of_processes_is_said(recipe, run, caplog):
    shutil.copy(run / "checkpoint-3" / "rng_state.pth", run / "checkpoint-3" / "rng_state_1.pth")
    os.rename(run / "checkpoint-3" / "rng_state.pth", run / "checkpoint-3" / "rng_state_0.pth")
    assert start_of(recipe, run, "--resume") == str(run / "checkpoint-3")
    assert "was written by 2 processes, and this run has 1" in caplog.text


# ── what a broken-off run leaves ────────────────────────────────────────────────────────────────────────────────────


class KilledError(BaseException):
    """Nothing catches it, as nothing catches a kill."""


# What the run was about to do when checkpoint 2 was there, and the checkpoints that are there then.
MOMENTS = {
    "before the optimizer is written": (train_hf.AverTrainer, "_save_optimizer_and_scheduler", [2]),
    "before the checkpoint takes its place": (trainer_module, "put_in_place", [2]),
    "before the earlier one is deleted": (trainer_module, "rotate", [1, 2]),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_broken_off_while_saving_ends_where_an_undisturbed_one_does(
    recipe, undisturbed, tmp_path, monkeypatch, moment
):
    where, name, left = MOMENTS[moment]
    original = getattr(where, name)

    def break_off(*args, **kwargs):
        if (tmp_path / "checkpoint-2").exists():
            raise KilledError
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, break_off)
        with pytest.raises(KilledError):
            trained(recipe, tmp_path, "--save_total_limit", "1")
    assert (tmp_path / ASIDE).exists()
    assert list(find_checkpoints(tmp_path)) == left
    assert {problem_of(folder) for folder in find_checkpoints(tmp_path).values()} == {None}
    assert_same_weights(trained(recipe, tmp_path, "--save_total_limit", "1", "--resume"), undisturbed)
    assert list(find_checkpoints(tmp_path)) == [NUM_STEPS]
    assert not (tmp_path / ASIDE).exists()


def test_an_unreadable_checkpoint_is_never_left_as_the_only_one(recipe, undisturbed, run):
    """Trainer's own rotation keeps what looks newest, here a wreck of a later step, and deletes what is whole."""
    shutil.copytree(run / "checkpoint-3", run / "checkpoint-9")
    cut(run / "checkpoint-9" / "model.safetensors")
    weights = trained(recipe, run, "--resume", "--save_total_limit", "2")
    assert list(find_checkpoints(run)) == [NUM_STEPS - 1, NUM_STEPS]
    assert_same_weights(weights, undisturbed)


@pytest.mark.slow
def test_batches_of_like_length_are_those_of_the_epoch_after_resuming_within_it(recipe, tmp_path):
    flags = ("--per_device_train_batch_size", "2", "--max_steps", "5", "--train_sampling_strategy", "group_by_length")
    trained(recipe, tmp_path / "a", *flags)
    shutil.copytree(tmp_path / "a" / "checkpoint-4", tmp_path / "b" / "checkpoint-4")  # a step into the second epoch
    assert_same_weights(trained(recipe, tmp_path / "b", *flags, "--resume"), tmp_path / "a")


def test_a_finished_run_that_is_resumed_trains_no_further(recipe, tmp_path):
    """It ends within an epoch; without decay, for the last rate of a decayed one is zero and would hide a step."""
    flags = ("--max_steps", "3", "--lr_scheduler_type", "constant", "--save_steps", "3")
    trained(recipe, tmp_path / "a", *flags)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    os.remove(tmp_path / "b" / "results.json")  # killed before they were written
    assert_same_weights(trained(recipe, tmp_path / "b", *flags, "--resume"), tmp_path / "a")
    assert list(find_checkpoints(tmp_path / "b")) == [3]


def test_checkpoints_are_whole_even_where_nothing_rotates(undisturbed):
    assert list(find_checkpoints(undisturbed)) == list(range(1, NUM_STEPS + 1))
    assert {problem_of(folder) for folder in find_checkpoints(undisturbed).values()} == {None}
    assert not (undisturbed / ASIDE).exists()


def test_a_batch_and_a_save_are_tried_first_and_change_nothing(recipe, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(train_hf, "Rehearsal", lambda trainer: TrainerCallback())
    assert_same_weights(trained(recipe, tmp_path, "--save_strategy", "no"), undisturbed)


# ── killed for real ─────────────────────────────────────────────────────────────────────────────────────────────────


def kill_when(happens, recipe, output_dir, *flags):
    """Starts a run, and kills it at once when `happens()`; a run that ends first is a mistake in the test."""
    command = [sys.executable, str(ROOT / "train_hf.py"), str(recipe), "--output_dir", str(output_dir), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as it:
        deadline = time.monotonic() + 120
        while not happens() and it.poll() is None and time.monotonic() < deadline:
            time.sleep(0.0005)
        os.kill(it.pid, signal.SIGKILL)
    assert it.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_where_an_undisturbed_one_does(recipe, tmp_path):
    run, many = tmp_path / "run", ("--max_steps", "40", "--save_total_limit", "1")
    expected = tmp_path / "undisturbed"
    trained(recipe, expected, *many)
    moments = [
        lambda: (run / "checkpoint-3").exists(),
        lambda: (run / ASIDE / "checkpoint-12" / "model.safetensors").exists(),
        lambda: (run / ASIDE / "checkpoint-20" / "optimizer.pt").exists(),
        lambda: (run / ASIDE / "removed").exists() and (run / "checkpoint-28").exists(),
    ]
    last = 0
    for moment in moments:
        kill_when(moment, recipe, run, *many, "--resume")
        checkpoint = last_complete(run)
        step = int(checkpoint.name.removeprefix("checkpoint-"))
        assert last < step < 40
        last = step
    assert_same_weights(trained(recipe, run, *many, "--resume"), expected)


@pytest.fixture
def start(recipe, monkeypatch):
    """`start(folder)`: a run in a process of its own, by a server that has imported all: twenty take no minutes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    server = clean_processes()

    def begin(folder):
        flags = ["--max_steps", "12", "--save_total_limit", "1", "--resume"]
        it = server.Process(target=train_hf.main, args=([str(recipe), "--output_dir", str(folder), *flags],))
        it.start()
        return it

    return begin


@pytest.mark.slow
def test_runs_killed_at_twenty_random_moments_end_where_an_undisturbed_one_does(start, tmp_path):
    """Anywhere from the first line to the card. A run that outlives its moment is compared and begun anew."""
    start(tmp_path / "warm").join()
    began, it = time.monotonic(), start(tmp_path / "undisturbed")
    it.join()
    duration = time.monotonic() - began
    seed, run, hit = random.SystemRandom().randrange(10**6), tmp_path / "run", []
    moments = random.Random(seed)

    def ended_as_expected(it):
        assert it.exitcode == 0, f"seed {seed}, killed at {hit}"
        assert_same_weights(load_file(run / "model.safetensors"), tmp_path / "undisturbed")

    while len(hit) < 20:
        it, moment = start(run), moments.uniform(0, duration)
        it.join(moment)
        if it.is_alive():
            it.kill()
            it.join()
            hit.append((round(moment, 3), list(find_checkpoints(run)), (run / ASIDE).exists()))
        else:
            ended_as_expected(it)
            shutil.rmtree(run)
    it = start(run)
    it.join()
    ended_as_expected(it)
