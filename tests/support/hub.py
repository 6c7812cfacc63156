"""A loopback Hub, and processes that load from it."""

import importlib.util
import os
from pathlib import Path

import huggingface_hub
import pytest
from typer.testing import CliRunner

from modeling_aver.cards.push import CODE
from modeling_aver.cli.main import app

ROOT = Path(__file__).resolve().parents[2]


PIECES = {
    *("README.md", "config.json", "processor_config.json", "model.safetensors", "results.json", "predictions.csv"),
    *("training_log.csv", "confusion.png", "loss.png"),
    *CODE,
}


@pytest.fixture
def hub(shared):
    """A loopback Hub: its network is a stand-in, the client is the real one."""
    spec = importlib.util.spec_from_file_location("minihub", shared / "tools" / "minihub.py")
    minihub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(minihub)
    asked, read = [], minihub.Handler.body

    def body(handler):
        asked.append((handler.path, read(handler)))
        return asked[-1][1]

    minihub.Handler.body = body
    with minihub.MiniHub() as hub:
        hub.asked = asked
        yield hub


@pytest.fixture
def here(hub, monkeypatch):
    """The loopback Hub for this process, whose client was told at its import that there is no network."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "any")
    return hub


def content(hub, repo_id="org/aver", commit=None):
    """Bytes of each file of a repository, at its last commit if none is given."""
    repository = hub.state.get("model", repo_id)
    return {
        name: file[1] for name, file in repository["commits"][commit or repository["refs"]["main"]]["files"].items()
    }


def aver(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def elsewhere(hub, folder):
    """Environment of a process that has nothing but the loopback Hub and an empty cache."""
    network = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_TOKEN": "any"}
    return {**os.environ, **network, "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
