"""Training on two hosts: Linux network namespaces with a cable between them, each with one process of torchrun."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from support.training import ROOT, TINY

from modeling_aver.training.checkpoints import ASIDE, find_checkpoints

pytestmark = pytest.mark.slow

NUM_STEPS = 30
# By plain gradient descent: AdamW and clipping hide a gradient of the wrong size.
RECIPE = {
    **TINY,
    "optim": "sgd",
    "learning_rate": 0.01,
    "max_grad_norm": 0,
    "max_steps": NUM_STEPS,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 1,
}


class Hosts:
    """Two namespaces, `10.77.0.1` and `10.77.0.2`."""

    def __init__(self, names):
        self.names, self.port = names, 29551

    def start(self, rank, recipe, output_dir, *flags):
        """The process (`subprocess.Popen`) of one host, as its user would start it there."""
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", str(rank)]
        where = ["--master_addr", "10.77.0.1", "--master_port", str(self.port), "--nproc_per_node", "1"]
        training = [str(ROOT / "train_hf.py"), str(recipe), "--output_dir", str(output_dir), *flags]
        names = {"GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # no DNS here
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[rank], *torchrun, *where, *training],
            cwd=ROOT,
            env={**os.environ, **names},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, recipe, folders, *flags):
        """What both hosts printed, after they have ended without an error."""
        started = [self.start(rank, recipe, folder, *flags) for rank, folder in enumerate(folders)]
        printed = [process.communicate(timeout=240)[0] for process in started]
        assert [process.returncode for process in started] == [0, 0], "\n".join(printed)[-5000:]
        self.port += 1
        return printed

    def kill(self, rank):
        """SIGKILL to every process of a host."""
        pids = subprocess.run(["ip", "netns", "pids", self.names[rank]], capture_output=True, text=True, check=True)
        for pid in map(int, pids.stdout.split()):
            os.kill(pid, signal.SIGKILL)

    def unplug(self, rank):
        """A host that vanishes: its connections stay open, and nothing comes through."""
        ip("-n", self.names[rank], "link", "set", "cable", "down")


def ip(*words):
    made = subprocess.run(["ip", *words], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"waits for the right to create network namespaces: {made.stderr.strip()}")


@pytest.fixture
def hosts():
    if shutil.which("ip") is None:
        pytest.skip("waits for iproute2: there is no command ip")
    names = [f"aver_{os.getpid()}_{rank}" for rank in (0, 1)]
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, start=1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
        yield Hosts(names)
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Two clips a process."""
    path = tmp_path_factory.mktemp("recipe") / "descent.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "per_device_train_batch_size": 2}))
    return path


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory):
    """Folder of one process with the same clips in each step."""
    folder = tmp_path_factory.mktemp("alone")
    command = [sys.executable, "train_hf.py", str(recipe), "--output_dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([*command, "--per_device_train_batch_size", "4"], cwd=ROOT, env=environment, check=True)
    return folder


@pytest.fixture(params=["shared folder", "separate disks"])
def folders(request, tmp_path):
    """`output_dir` of each host."""
    names = ("run", "run") if request.param == "shared folder" else ("disk_0", "disk_1")
    return [tmp_path / name for name in names]


def wait_for(happens, *processes):
    deadline = time.monotonic() + 120
    while not happens() and time.monotonic() < deadline and all(process.poll() is None for process in processes):
        time.sleep(0.005)
    assert happens(), "\n".join(process.communicate(timeout=60)[0][-3000:] for process in processes)


def assert_one_set_of_results(folders, alone):
    weights = load_file(alone / "model.safetensors")
    for folder in set(folders):
        found = load_file(folder / "model.safetensors")
        assert max((found[name] - weight).abs().max() for name, weight in weights.items()) < 1e-6
        assert list(find_checkpoints(folder)) == [NUM_STEPS] and not (folder / ASIDE).exists()
        assert not list(folder.glob(".host_*"))
    results = json.loads((folders[0] / "results.json").read_text())
    expected = json.loads((alone / "results.json").read_text())
    assert results["num_processes"] == 2
    assert results["metrics"]["eval_loss"] == pytest.approx(expected["metrics"]["eval_loss"], abs=1e-5)
    if folders[0] != folders[1]:
        names = ("results.json", "predictions.csv", "README.md")
        assert not [name for name in names if (folders[1] / name).exists()]


def test_two_hosts_train_the_model_of_one_process(hosts, recipe, alone, folders):
    printed = hosts.run(recipe, folders)
    assert_one_set_of_results(folders, alone)
    told = (
        "on this host holds model and checkpoints. Results, predictions and card are in the `output_dir` of process 0"
    )
    assert (told in printed[1]) == (folders[0] != folders[1]) and told not in printed[0]
    assert [text.count("eval metrics") for text in printed] == [1, 0]
    again = hosts.run(recipe, folders, "--resume")
    assert "there is nothing to resume, and nothing changed." in again[0]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_host_that_is_killed_ends_the_run_and_resume_finishes_it(hosts, recipe, alone, folders, rank):
    started = [hosts.start(number, recipe, folder) for number, folder in enumerate(folders)]
    wait_for(lambda: max(find_checkpoints(folders[rank]), default=0) >= 5, *started)
    hosts.kill(rank)
    began = time.monotonic()
    printed = started[1 - rank].communicate(timeout=120)[0]
    assert time.monotonic() - began < 60 and started[1 - rank].returncode == 1
    started[rank].communicate()
    (line,) = [line for line in printed.splitlines() if "train_hf.py: " in line]
    assert re.search(r"has ended or cannot be reached \(.*[Cc]onnection (closed|reset) by peer", line), line
    assert "--resume" in line
    assert not list(Path(folders[0]).glob("results.json"))
    hosts.port += 1
    resumed = hosts.run(recipe, folders, "--resume")
    assert "Training goes on from" in resumed[0] and "this run has" not in resumed[0]
    assert_one_set_of_results(folders, alone)


def test_a_host_that_vanishes_ends_the_run_after_the_timeout(hosts, recipe, tmp_path):
    started = [hosts.start(rank, recipe, tmp_path / "run", "--ddp_timeout", "10") for rank in (0, 1)]
    wait_for(lambda: max(find_checkpoints(tmp_path / "run"), default=0) >= 2, *started)
    hosts.unplug(1)
    printed = started[0].communicate(timeout=120)[0]
    assert started[0].returncode == 1
    assert "cannot be reached (Timed out waiting 10000ms" in printed
    hosts.kill(1)
    started[1].communicate()
