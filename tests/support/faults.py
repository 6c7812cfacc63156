"""
Faults as they happen: a disk that fills up, a folder that cannot be written to, a process that is killed. Real ones
where this machine lets a test make them, and else the test is skipped with the reason.
"""

import logging
import multiprocessing
import os
import random
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

logger = logging.getLogger(__name__)

KILOBYTE = 1024
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@contextmanager
def full_disk(folder, free=0, size=16 * KILOBYTE * KILOBYTE):
    """
    A filesystem of its own at `folder` (made if need be) that holds `size` bytes; what wants more gets ENOSPC. What
    lies in `folder` is hidden meanwhile. Needs the right to mount; the test is skipped where there is none.

    Args:
        folder (`Path`)
        free (`int`, *optional*, defaults to 0): Bytes that are left once `fill` is called.
        size (`int`, *optional*): Of the filesystem, in bytes.

    Yields:
        A function that fills the disk up to `free` bytes. Call it when what is to be kept is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _mount(["-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder])
    try:
        yield lambda: _fill(folder, free)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def read_only(folder):
    """
    A folder in which nothing can be written or deleted, by anybody: a read-only bind mount for root, whom permissions
    do not bind, and permissions for others.
    """
    if not AS_ROOT:
        with _without_permission(folder):
            yield
        return
    _mount(["--bind", folder, folder])
    try:
        _mount(["-o", "remount,bind,ro", folder])
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def kill_at_random_moments(start, moments, seed, begun, within):
    """
    Starts a process again and again, and kills it with all that it started (SIGKILL to its group) at random moments.

    Args:
        start (`Callable[[], subprocess.Popen]`): Starts it with `start_new_session=True`, so that it leads a group.
        moments (`int`): How often.
        seed (`int`): Of the moments. It is logged, and pytest shows it when the test fails.
        begun (`Callable[[], bool]`): Whether the work has begun; the start-up before it is waited for.
        within (`float`): Longest time between the begin and the kill, in seconds.

    Yields:
        `float`: seconds after the begin, each time everything has been killed.
    """
    draw = random.Random(seed)
    logger.warning("kills: seed %s", seed)
    for _ in range(moments):
        moment, patience = draw.uniform(0, within), time.monotonic() + 60
        with start() as process:
            while not begun() and process.poll() is None and time.monotonic() < patience:
                time.sleep(0.002)
            time.sleep(moment)
            kill_group(process)
        logger.warning("killed %.3f s after the begin", moment)
        yield moment


def kill_group(process):
    """SIGKILL to a process and its whole group; nothing happens where it has ended."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def clean_processes():
    """
    A context of `multiprocessing` whose processes begin with the imports of a run done, and with nothing else. A fork
    of the tests' own process, which has threads by then, may wait for ever for a lock that one of these held.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["train_hf", "matplotlib.figure"])
    return server


def open_files():
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def resident_bytes():
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def hidden_files(folder):
    """Names of what begins with a dot below a folder: where parts of files are written."""
    return sorted(path.name for path in Path(folder).rglob(".*"))


def _mount(arguments):
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"waits for the right to mount: {done.stderr.strip()}")


def _fill(folder, free):
    """A file that leaves so many bytes of a filesystem."""
    stat = os.statvfs(folder)
    left = stat.f_bavail * stat.f_frsize - free
    with open(folder / "ballast", "wb") as file:
        file.write(bytes(max(left, 0)))


@contextmanager
def _without_permission(folder):
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for one in folders:
        one.chmod(0o555)
    try:
        yield
    finally:
        for one in folders:
            one.chmod(0o755)
