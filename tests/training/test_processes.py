"""Several processes on CPUs, started by each launcher as its user types it, and one set of results."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.training import (
    RECIPES,
    ROOT,
    TINY,
    launched,
    recipe,  # noqa: F401 (fixtures)
    trained,
)

from modeling_aver.training.arguments import parse_arguments
from modeling_aver.training.processes import lost_process, missing_launch

# By plain gradient descent: AdamW and clipping hide a gradient of the wrong size.
DESCENT = ("--optim", "sgd", "--learning_rate", "0.01", "--max_grad_norm", "0", "--max_train_samples", "4")
ONE, TWO = (*DESCENT, "--per_device_train_batch_size", "4"), (*DESCENT, "--per_device_train_batch_size", "2")
ACCELERATE = (sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch")
# A process as Open MPI, and as Intel MPI and MPICH start it.
OPEN_MPI = "OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_LOCAL_SIZE OMPI_COMM_WORLD_LOCAL_RANK".split()
HYDRA = "PMI_SIZE PMI_RANK MPI_LOCALNRANKS MPI_LOCALRANKID".split()


def assert_same_run(folder, expected):
    """Weights of two processes in `folder`, and those of one."""
    assert json.loads((folder / "results.json").read_text())["num_processes"] == 2
    found = load_file(folder / "model.safetensors")
    for name, weight in expected.items():
        assert (found[name] - weight).abs().max() < 1e-6, name


@pytest.mark.slow
def test_torchrun_trains_the_demo_as_printed(tmp_path):
    command = "torchrun --nproc_per_node 2 train_hf.py modeling_aver/training/recipes/demo.yaml"
    torchrun = [sys.executable, "-m", "torch.distributed.run", *command.split()[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    quick = ["--output_dir", str(tmp_path), "--max_steps", "3"]
    run = subprocess.run([*torchrun, *quick], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=240)
    assert run.returncode == 0, run.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["num_processes"] == 2 and sum(map(sum, results["confusion"])) == 6
    assert run.stdout.count("eval metrics") == 1


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [("--cpu", "--num_processes", "2"), ("--num_processes=2",), "configuration file"])
def test_accelerate_trains_as_many_processes_as_it_was_asked_for(recipe, tmp_path, wanted):
    if wanted == "configuration file":
        values = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_CPU", "num_processes": 2}
        values |= {"use_cpu": True, "num_machines": 1, "machine_rank": 0, "mixed_precision": "no", "debug": False}
        (tmp_path / "two.yaml").write_text(yaml.safe_dump(values))
        wanted = ("--config_file", str(tmp_path / "two.yaml"))
    expected = trained(recipe, tmp_path / "alone", *ONE)
    launched(recipe, tmp_path / "run", *TWO, launcher=(*ACCELERATE, *wanted))
    assert_same_run(tmp_path / "run", expected)


@pytest.mark.slow
@pytest.mark.parametrize("names", [OPEN_MPI, HYDRA], ids=["Open MPI", "Intel MPI and MPICH"])
def test_processes_of_mpirun_train_together(recipe, tmp_path, names):
    expected = trained(recipe, tmp_path / "alone", *ONE)
    command = [sys.executable, str(ROOT / "train_hf.py"), str(recipe), "--output_dir", str(tmp_path / "run"), *TWO]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MASTER_PORT": "29545"}
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**common, **dict(zip(names, ("2", str(rank), "2", str(rank)), strict=True))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    printed = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(printed)[-5000:]
    assert_same_run(tmp_path / "run", expected)


def test_processes_that_would_train_alone_stop_before_anything_is_written(recipe, tmp_path, monkeypatch):
    """As with mpirun on accelerators, for which Accelerate reads torchrun's variables alone."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(
        ValueError, match=r"The launcher started 2 processes, but .* `output_dir`. Start them with torc"
    ):
        trained(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_accelerate_that_started_too_few_for_the_accelerators_is_told(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for name, value in {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    words = ["python", "/usr/bin/accelerate", "launch", "--num_processes", "3", "train_hf.py", "recipe.yaml"]
    parent = type("Parent", (), {"cmdline": lambda self: words})()
    monkeypatch.setattr("modeling_aver.training.processes.psutil.Process.parents", lambda self: [parent])
    with pytest.raises(ValueError, match="asked for 3 processes and started one. Give it --multi_gpu"):
        missing_launch()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert missing_launch()[1:] == ["-m", "torch.distributed.run", "--nproc_per_node", "3", "--standalone"]
    words[3:5] = ["--num_processes", "4", "--num_machines", "2", "--machine_rank", "1"]
    monkeypatch.setenv("MASTER_PORT", "1234")
    assert missing_launch()[3:] == [
        *("--nproc_per_node", "2", "--nnodes", "2", "--node_rank", "1"),
        *("--master_addr", "127.0.0.1", "--master_port", "1234"),
    ]
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    assert missing_launch() is None


def test_one_process_needs_no_launcher_and_stays_one():
    assert missing_launch() is None
    _, _, training_args = parse_arguments([str(next(path for path in RECIPES if path.stem == "demo"))])
    assert (training_args.world_size, training_args.use_cpu) == (1, False)


@pytest.mark.slow
def test_a_process_that_waits_for_others_in_vain_ends_with_a_message(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**TINY, "ddp_timeout": 3}))
    alone = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29546"}
    command = [sys.executable, "train_hf.py", str(path), "--output_dir", str(tmp_path / "run")]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **alone}, timeout=120, check=False
    )
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("train_hf.py: Another process of this training has ended or cannot be reached (Timed out")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_hosts_of_which_only_some_share_a_folder_are_refused(recipe, tmp_path):
    common = {**os.environ, "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29547"}
    started = [
        subprocess.Popen(
            [sys.executable, "train_hf.py", str(recipe), "--output_dir", str(tmp_path / folder)],
            cwd=ROOT,
            env={**common, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, folder in enumerate(("shared", "shared", "own"))
    ]
    told = [process.communicate(timeout=240)[1].strip().splitlines()[-1] for process in started]
    assert [process.returncode for process in started] == [1, 1, 1]
    assert all(
        "is one folder for some of the 3 hosts and another for others. Give one that all" in line for line in told
    )
    assert not [path for folder in ("shared", "own") for path in (tmp_path / folder).iterdir()]


def test_an_error_of_another_kind_is_no_lost_process():
    assert lost_process(RuntimeError("shapes do not fit")) is None
    closed = "[/third_party/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:1. This is typical"
    assert "(Connection closed by peer [10.0.0.2]:1)" in lost_process(RuntimeError(closed))
