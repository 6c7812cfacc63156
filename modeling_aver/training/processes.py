"""The processes of one training: as many as the launcher started, on CPUs as well, and how they agree on a result."""

import os
import re
import sys
import uuid
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
from accelerate.utils.environment import get_cpu_distributed_information

_ACCELERATE = re.compile(r"accelerate|accelerate[-.]launch|accelerate\.commands\.(launch|accelerate_cli)")


def join_processes_on_cpus(training_args):
    """
    Makes a training distributed where a launcher started several processes on a machine without an accelerator.
    transformers does so only with `use_cpu`, and does not pass `ddp_timeout` on CPUs.

    Args:
        training_args ([`AverTrainingArguments`]): Before transformers sets up its devices; `use_cpu` is set.
    """
    launched = get_cpu_distributed_information()  # of torchrun, Open MPI, MPICH, Intel MPI and MVAPICH
    if launched.world_size == 1:
        return
    on_cpus = training_args.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU")
    training_args.use_cpu = on_cpus or not torch.accelerator.is_available()
    if training_args.use_cpu and not torch.distributed.is_initialized():
        if launched.local_world_size == launched.world_size:
            os.environ.setdefault("MASTER_ADDR", "127.0.0.1")  # mpirun does not set it
        PartialState(cpu=True, backend=training_args.ddp_backend, timeout=timedelta(seconds=training_args.ddp_timeout))


def check_world_size(world_size):
    """`ValueError` if a launcher started more processes than train together."""
    launched = get_cpu_distributed_information().world_size
    if launched > world_size:
        raise ValueError(
            f"The launcher started {launched} processes, but each would train alone (`world_size` {world_size}) and "
            "write to the same `output_dir`. Start them with torchrun, or train on CPUs: --use_cpu true."
        )


def missing_launch():
    """
    What `accelerate launch` was asked for and did not do: without an accelerator it starts one process, whatever its
    `--num_processes`.

    Returns:
        `list[str]`: command that starts these processes by torchrun, up to the arguments of the script; `None` where
            nothing is missing.

    Raises:
        `ValueError`: if they would have to share an accelerator.
    """
    # `accelerate launch` sets the first for every process, and the second only if several were asked for.
    if not {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= set(os.environ):
        return None
    if get_cpu_distributed_information().world_size > 1 or "RANK" in os.environ:
        return None
    asked = _accelerate_arguments()
    if asked is None or (asked.num_processes or 1) == 1:
        return None
    if torch.accelerator.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        raise ValueError(
            f"accelerate launch was asked for {asked.num_processes} processes and started one. Give it --multi_gpu "
            "to use as many accelerators, or --cpu."
        )
    hosts = asked.num_machines or 1
    where = ["--standalone"]
    if hosts > 1:
        address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
        where = ["--nnodes", str(hosts), "--node_rank", str(asked.machine_rank or 0)]
        where += ["--master_addr", address, "--master_port", port]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(asked.num_processes // hosts),
        *where,
    ]


def _accelerate_arguments():
    """Arguments of the `accelerate launch` that started this process, completed from its configuration file."""
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    for parent in psutil.Process().parents():
        try:
            words = parent.cmdline()
        except psutil.Error:
            continue
        at = next((index for index, word in enumerate(words) if _ACCELERATE.fullmatch(Path(word).name)), None)
        if at is None:
            continue
        at += 2 if words[at + 1 : at + 2] == ["launch"] else 1
        arguments = launch_command_parser().parse_args(words[at:])
        if arguments.config_file or (os.path.isfile(default_config_file) and not arguments.cpu):
            config = vars(load_config_from_file(arguments.config_file))
            for name in ("num_processes", "num_machines", "machine_rank"):
                if getattr(arguments, name) is None:
                    setattr(arguments, name, config.get(name))
        return arguments
    return None


def lost_process(error):
    """`str`: one line for an error of the communication between processes; `None` for any other error."""
    if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
        return None
    reason = re.sub(r"^\[\S+\] ", "", str(error).strip().splitlines()[0]).partition(". ")[0]
    return (
        f"Another process of this training has ended or cannot be reached ({reason}). Look at the output of the other "
        "processes, then start all of them again, with --resume to continue from the last complete checkpoint."
    )


def on_main_process(function, *arguments):
    """Result of a function that only the main process calls, on every process. So is its `ValueError` or `OSError`."""
    state = PartialState()
    outcome = [None, None]
    if state.is_main_process:
        try:
            outcome[0] = function(*arguments)
        except (ValueError, OSError) as error:
            outcome[1] = error
    if state.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def raise_any(message):
    """Raises the first `message` (`str`) of any process as a `ValueError` on every process; `None` is no message."""
    found = [text for text in gather_object([message]) if text is not None]
    if found:
        raise ValueError(found[0])


def has_separate_disks(output_dir):
    """
    Whether the hosts of a training have an `output_dir` each, on disks of their own or by different names. Every
    process gets the same answer, and a host alone has `False`.

    Raises:
        `ValueError`: if some hosts share one, and others have their own.
    """
    launched = get_cpu_distributed_information()
    state = PartialState()
    if launched.world_size in (1, launched.local_world_size) or state.num_processes == 1:
        return False
    writes = state.local_process_index == 0
    token = on_main_process(lambda: uuid.uuid4().hex)
    with _token(Path(output_dir) / f".host_{token}_{state.process_index}", writes):
        state.wait_for_everyone()
        seen = [len(list(Path(output_dir).glob(f".host_{token}_*"))) if writes else None]
        counts = [count for count in gather_object(seen) if count is not None]
        state.wait_for_everyone()
    if set(counts) not in ({1}, {len(counts)}):
        raise ValueError(
            f"`output_dir` ({output_dir}) is one folder for some of the {len(counts)} hosts and another for others. "
            "Give one that all hosts share, or one of its own to each."
        )
    return set(counts) == {1}


@contextmanager
def _token(path, writes):
    if writes:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    try:
        yield
    finally:
        if writes:
            path.unlink(missing_ok=True)
