"""Checkpoints and saved models that were changed, cut short, or run code: what is passed over, refused, and told."""

# ruff: noqa: F401 -- fixtures of another file are asked for by their names

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.interrupted_runs import cut, flip, one_thread, recipe, run, trained, undisturbed
from support.runs import made_up_run
from typer.testing import CliRunner

from datasets_scripts import SAMPLE_DIR
from modeling_aver.cli.main import app
from modeling_aver.training import checkpoints
from modeling_aver.training.checkpoints import last_complete

# ── checkpoints that were changed ───────────────────────────────────────────────────────────────────────────────────


class Burglar:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_that_would_run_code_is_passed_over_and_never_runs_it(recipe, run, tmp_path, caplog, name):
    trace = tmp_path / "trace"
    torch.save({"state": Burglar(trace)}, run / "checkpoint-3" / name)
    assert last_complete(run).name == "checkpoint-2"
    assert f"{name} would run code when it is loaded (posix.mkdir)" in caplog.text
    with pytest.raises(ValueError, match="is no complete checkpoint: .* would run code when it is loaded"):
        trained(recipe, tmp_path / "new", "--resume_from_checkpoint", str(run / "checkpoint-3"))
    assert not trace.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_code_in_a_checkpoint_does_not_run_where_nobody_looked_before_either(recipe, run, tmp_path, monkeypatch, name):
    trace = tmp_path / "trace"
    torch.save({"state": Burglar(trace)}, run / "checkpoint-3" / name)
    monkeypatch.setattr(checkpoints, "problem_of", lambda folder: None)
    with pytest.raises(Exception, match="Weights only load failed"):
        trained(recipe, run, "--resume")
    assert not trace.exists()


def without_a_weight(path):
    weights = load_file(path)
    del weights["classifier.bias"]
    save_file(weights, path, {"format": "pt"})


def of_another_shape(path):
    weights = load_file(path)
    weights["classifier.bias"] = torch.zeros(9)
    save_file(weights, path, {"format": "pt"})


def garbage(path):
    path.write_bytes(b"\x00{" + os.urandom(50))


CHANGES = {
    "a flipped bit in the weights": ("model.safetensors", flip),
    "weights without one": ("model.safetensors", without_a_weight),
    "weights of another shape": ("model.safetensors", of_another_shape),
    "a configuration that is garbage": ("config.json", garbage),
    "checksums that are none": ("checksums.json", lambda path: path.write_text("[3]")),
    "a processor that is garbage": ("processor_config.json", garbage),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_that_was_changed_since_is_passed_over(run, caplog, change):
    name, harm = CHANGES[change]
    harm(run / "checkpoint-3" / name)
    assert last_complete(run).name == "checkpoint-2"
    assert "checkpoint-3 is passed over: " in caplog.text and name in caplog.text


@pytest.mark.parametrize(
    ("harm", "message"),
    [(without_a_weight, "it lacks 1 weights, such as classifier.bias"), (of_another_shape, "size mismatch for class")],
)
def test_weights_that_are_not_the_models_are_no_place_to_go_on_from(recipe, run, harm, message):
    harm(run / "checkpoint-3" / "model.safetensors")
    (run / "checkpoint-3" / "checksums.json").unlink()  # as from an earlier version
    with pytest.raises(ValueError, match=f"checkpoint-3 is not of this model: {message}.*delete it, and --resume"):
        trained(recipe, run, "--resume")


# ── saved models that were changed ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return made_up_run(tmp_path_factory.mktemp("saved") / "model")


def header_flipped(path):
    content = bytearray(path.read_bytes())
    content[20] ^= 8
    path.write_bytes(content)


SAVED = {
    "weights cut short": ("model.safetensors", cut, "model.safetensors cannot be read"),
    "empty weights": ("model.safetensors", lambda path: path.write_bytes(b""), "model.safetensors cannot be read"),
    "a flipped header": ("model.safetensors", header_flipped, "(cannot be read|lacks 1 of the model's)"),
    "a weight is missing": ("model.safetensors", without_a_weight, "lacks 1 of .* such as classifier.bias: .* random"),
    "another shape": ("model.safetensors", of_another_shape, r"classifier.bias has the shape \(9,\), but .* \(6,\)"),
    "a garbled configuration": ("config.json", garbage, "config.json cannot be read"),
    "half a configuration": ("config.json", lambda path: path.write_text("{"), "config.json cannot be read"),
    "a configuration that is a list": ("config.json", lambda path: path.write_text("[]"), "config.json .* a list"),
    "half a processor": (
        "processor_config.json",
        lambda path: path.write_text("{"),
        "processor_config.json cannot be",
    ),
}
COMMANDS = {
    "evaluate": ("evaluate", "{model}"),
    "predict": ("predict", str(SAMPLE_DIR / "VideoFlash"), "--model", "{model}", "--streams", "audio"),
    "export": ("export", "torch", "{model}", "--out", "{model}/out"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("damage", SAVED)
def test_a_saved_model_that_was_damaged_is_named_and_answers_nothing(saved, tmp_path, damage, command):
    name, harm, message = SAVED[damage]
    model = Path(shutil.copytree(saved, tmp_path / "model"))
    harm(model / name)
    outcome = CliRunner().invoke(app, [word.format(model=model) for word in COMMANDS[command]])
    assert isinstance(outcome.exception, ValueError), outcome.output
    with pytest.raises(ValueError, match=message):
        raise outcome.exception
    assert "\n" not in str(outcome.exception) and str(model) in str(outcome.exception)


def test_training_does_not_go_on_from_a_model_that_lacks_weights(undisturbed, tmp_path):
    model = Path(shutil.copytree(undisturbed / "checkpoint-2", tmp_path / "model"))
    without_a_weight(model / "model.safetensors")
    recipe = tmp_path / "on.yaml"
    recipe.write_text(f"model_name_or_path: {model}\nmax_steps: 1\n")
    with pytest.raises(ValueError, match="lacks 1 of the model's .* such as classifier.bias: they would be random"):
        trained(recipe, tmp_path / "run")
