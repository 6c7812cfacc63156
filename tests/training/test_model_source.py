"""A mistyped folder is reported at once, by every command that takes a model or an encoder."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
from support.loopback_hub import LoopbackHub
from typer.testing import CliRunner

import train_hf
from datasets_scripts import SAMPLE_DIR
from modeling_aver.cli.main import app
from modeling_aver.inference.predict import load_pipeline
from modeling_aver.training import model_source
from modeling_aver.training.model_source import check_model_source, closest_folder

ROOT = Path(__file__).resolve().parents[2]
CLIP = next((ROOT / "datasets_scripts" / "sample").rglob("*.flv"))


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """A working folder that holds runs/demo, and an empty cache of the Hub."""
    (tmp_path / "work" / "runs" / "demo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def online(monkeypatch):
    """Switches the network on when called, with the Hub at a given address."""

    def switch(endpoint):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    return switch


@pytest.fixture
def no_network(online):
    """A Hub at an address where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        online(f"http://127.0.0.1:{unused.getsockname()[1]}")
        yield


def aver(*arguments):
    CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


SAMPLE = str(SAMPLE_DIR)
COMMANDS = {
    "evaluate": ("evaluate", "runs/dmeo"),
    "figure3": ("figure3", "runs/dmeo"),
    "predict": ("predict", CLIP, "--model", "runs/dmeo"),
    "sync": ("sync", CLIP, "--model", "runs/dmeo"),
    "explain": ("explain", CLIP, "--model", "runs/dmeo", "--out", "out"),
    "enroll": ("enroll", CLIP, "--model", "runs/dmeo", "--out", "anna.safetensors"),
    "app": ("app", "--model", "runs/dmeo"),
    "live": ("live", "--model", "runs/dmeo", "--file", CLIP),
    "export onnx": ("export", "onnx", "runs/dmeo", "--out", "out"),
    "reproduce": ("reproduce", "table3", "crema_d", "--encoder", "runs/dmeo", "--data", SAMPLE, "--out", "out"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reports_a_mistyped_folder_at_once(command, no_network):
    with pytest.raises(ValueError, match=r"^There is no folder runs/dmeo, .* Did you mean runs/demo\?$") as error:
        aver(*COMMANDS[command])
    assert "whether it is a Hub id cannot be checked, because 127.0.0.1:" in str(error.value)
    assert "Connection refused" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("flag", ["--model_name_or_path", "--audio_model_name_or_path"])
def test_training_reports_it_before_clips_are_read(flag, no_network):
    with pytest.raises(ValueError, match=r"^There is no folder runs/dmeo, .* Did you mean runs/demo\?$"):
        train_hf.main(["--output_dir", "out", "--use_cpu", flag, "runs/dmeo", "--data_dir", "missing"])
    assert not Path("out").exists()


def test_the_python_function_reports_it_without_retries(no_network):
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"Did you mean runs/demo\?$"):
        load_pipeline("runs/dmeo")
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    "name, folder",
    [
        ("runs/dmeo", "runs/demo"),
        ("run/demo", "runs/demo"),
        ("run/dmeo/", "runs/demo"),
        ("demo", "runs/demo"),
        ("./rnus", "runs"),
        ("facebook/wav2vec2-large-xlsr-53", None),
        ("", None),
    ],
)
def test_the_closest_folder(name, folder):
    assert closest_folder(name) == (folder and Path(folder))


@pytest.mark.parametrize("name", ["runs/my/model", "../runs", "/runs/dmeo", "~/runs", "runs/demo."])
def test_what_cannot_be_a_hub_id_is_not_asked_for(name, monkeypatch):
    monkeypatch.setattr(model_source, "_ask_hub", lambda *_: pytest.fail("it asked"))
    with pytest.raises(ValueError, match="and it is not a Hub id such as org/name either"):
        check_model_source(name)


def test_offline_the_cache_is_named():
    with pytest.raises(
        ValueError, match=r"^There is no folder org/x, and the cache of huggingface.co has no model org/x \(HF"
    ):
        check_model_source("org/x")


def test_a_model_of_the_hub_or_of_its_cache_passes(online):
    with LoopbackHub() as hub:
        hub.commit("org/x", {"config.json": b"{}"})
        online(hub.endpoint)
        check_model_source("org/x")
        with pytest.raises(ValueError, match=r"^There is no folder org/y, and 127.0.0.1:\d+ has no model org/y"):
            check_model_source("org/y")
        with pytest.raises(ValueError, match="the model org/x of 127.0.0.1:.* has no revision v9"):
            check_model_source("org/x", "v9")
        huggingface_hub.hf_hub_download("org/x", "config.json")
        hub.log.clear()
        model_source._ask_hub.cache_clear()
        check_model_source("org/x")
        assert hub.log == []


@pytest.mark.slow
def test_a_lookup_that_hangs_is_not_waited_for(online, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_: time.sleep(30))
    online("http://hub.invalid")
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"hub.invalid cannot be reached \(no answer within 2 s\)"):
        check_model_source("org/x")
    assert time.monotonic() - begin < 3


def test_a_server_that_never_answers_is_given_up(online, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        online(f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ValueError, match=r"127.0.0.1:\d+ does not answer \(timed out\)"):
            check_model_source("org/x")


def test_a_proxy_is_what_has_to_be_reachable(online, monkeypatch):
    with LoopbackHub() as hub:
        hub.commit("org/x", {"config.json": b"{}"})
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, hub.endpoint)
        model_source._connect("http://hub.invalid")
        monkeypatch.setenv("no_proxy", "hub.invalid")
        with pytest.raises(model_source.UnreachableError):
            model_source._connect("http://hub.invalid")


@pytest.mark.slow
def test_the_command_ends_with_one_line(tmp_path):
    environment = {"HOME": str(tmp_path), "PATH": "", "HF_ENDPOINT": "http://127.0.0.1:9"}
    run = subprocess.run(
        [sys.executable, "-m", "modeling_aver", "predict", CLIP, "--model", "run/demo"],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr == (
        "aver: There is no folder run/demo, and whether it is a Hub id cannot be checked, because 127.0.0.1:9 cannot "
        "be reached ([Errno 111] Connection refused). Did you mean runs/demo?\n"
    )
