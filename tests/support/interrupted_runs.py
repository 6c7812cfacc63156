"""A short training run, uninterrupted and killed, to compare."""

import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.training import TINY

import train_hf

# Six clips in batches of four: an epoch has two steps, so that odd checkpoints lie in the middle of one. With dropout,
# of whole streams too.
NUM_STEPS = 4


RECIPE = {
    **TINY,
    "audio_config": {**TINY["audio_config"], "hidden_dropout": 0.2, "attention_dropout": 0.2},
    "dropout": 0.2,
    "audio_dropout_rate": 0.3,
    "video_dropout_rate": 0.3,
    "max_steps": NUM_STEPS,
    "save_strategy": "steps",
    "save_steps": 1,
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "dropout.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Runs are compared bit by bit, and several threads add up in another order than the one of the killed runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(recipe, output_dir, *flags):
    """Weights at the end of a run."""
    train_hf.main([str(recipe), "--output_dir", str(output_dir), *flags])
    return load_file(output_dir / "model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory):
    """Folder of a run that nothing disturbed, with a checkpoint of each step."""
    folder = tmp_path_factory.mktemp("undisturbed")
    trained(recipe, folder)
    return folder


@pytest.fixture
def run(undisturbed, tmp_path):
    """A copy of that folder, with its first three checkpoints and nothing else."""
    for step in (1, 2, 3):
        shutil.copytree(undisturbed / f"checkpoint-{step}", tmp_path / "run" / f"checkpoint-{step}")
    return tmp_path / "run"


def assert_same_weights(weights, folder):
    expected = load_file(folder / "model.safetensors")
    assert weights.keys() == expected.keys()
    different = [name for name in weights if not torch.equal(weights[name], expected[name])]
    assert not different


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
