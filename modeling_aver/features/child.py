"""Programs that end with the process that runs them, in temporary folders that are deleted with them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from . import supervisor

LOCK = ".lock"
UNLOCKED = 60.0  # seconds after which a folder whose lock is free is stale; the lock is taken just after its creation
PROBE = 2**20  # bytes


def run_child(command: list[str], folder: Path, timeout: float) -> tuple[int, str]:
    """
    Runs a program in a folder, under [`supervisor`]: it is ended, with all that it started, when it takes longer than
    `timeout` or when this process ends in any way; then the folder is deleted as well.

    Args:
        command (`list[str]`): Program and arguments; no shell reads them.
        folder (`Path`): Becomes its current folder.
        timeout (`float`): Seconds.

    Returns:
        `tuple[int, str]`: exit code, above 128 for a signal as in a shell; what it printed.

    Raises:
        `subprocess.TimeoutExpired`
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", supervisor.__file__, str(folder), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches this process only, which then closes the lifeline
    )
    with process:
        lifeline, process.stdin = process.stdin, None  # communicate() would close it
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            lifeline.close()
            process.wait()
    return process.returncode, output


def exit_name(code: int) -> str:
    """An exit code in words: the signal's name where a signal ended the program."""
    with suppress(ValueError):
        if code > 128:
            return signal.Signals(code - 128).name
    return f"exit code {code}"


@contextmanager
def work_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder, locked as long as the block runs so that no other process takes it for a stale one."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        with filelock.FileLock(Path(name) / LOCK):
            yield Path(name)


def clear_stale_folders(prefix: str, age: float) -> None:
    """
    Deletes folders of [`work_folder`] that killed processes left behind, never one that is in use.

    Args:
        prefix (`str`)
        age (`float`): Seconds after which a folder without a lock is stale.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # another user's, or gone meanwhile
            if _is_stale(folder, age):
                shutil.rmtree(folder)


def _is_stale(folder, age):
    idle = time.time() - folder.lstat().st_mtime
    if folder.is_symlink() or not (folder / LOCK).is_file():
        return idle > age
    if idle < UNLOCKED:
        return False
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        return False
    lock.release()
    return True


def is_full(folder: Path) -> bool:
    """Whether a folder takes no more data: disk full, or quota reached."""
    probe = Path(folder) / ".probe"
    try:
        with open(probe, "wb") as file:
            file.write(os.urandom(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        return False
    except OSError:
        return True
    finally:
        with suppress(OSError):
            probe.unlink()
    return False
