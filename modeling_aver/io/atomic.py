"""Files that are whole or not there: results of hours are never left half-written, nor masked by what broke off."""

import os
import shutil
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import filelock

PART = ".part"
LONGEST_NAME = 255  # bytes that filesystems allow
PIECE = 2**20  # bytes that are read at a time
STALE = 3600.0  # seconds after which nobody writes to a part any more: the process was killed


class WriteError(OSError):
    """A file or folder that cannot be written, with its name, the reason and what to do. Of no clip's making."""


def write_whole(path, content):
    """
    Writes a file in one step: nobody ever finds half of it under this name. It is written beside it first, to a hidden
    file of its own name for each writer; what a killed one leaves is taken away by [`clear_stale`].

    Args:
        path (`Path`): Its folder is made where there is none.
        content (`bytes` or `str`): Text is written as UTF-8.

    Raises:
        [`WriteError`]: where there is no room, or no right to write. A file of this name is then what it was.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not of the file's own name, which may be as long as one can be.
        part = path.with_name(f".{uuid.uuid4().hex}{PART}")
        try:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def writing(path):
    """What goes wrong in the block is told as a [`WriteError`] about `path`, in one line."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).partition(". ")[0]
        raise WriteError(
            f"{path} cannot be written: {reason}. Make room or choose another place; what is there already is kept."
        ) from error


@contextmanager
def alone(lock, task):
    """
    One process at a time: the block runs under a lock that ends with the process, however it ends.

    Args:
        lock (`Path`): File of the lock; removed afterwards.
        task (`str`): What must not be done twice at once, as "builds folder".

    Raises:
        `ValueError`: if another process has it. [`WriteError`]: if there is no room or no right for the lock.
    """
    with writing(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(lock, timeout=0)
        try:
            held.acquire()
        except filelock.Timeout:
            raise ValueError(
                f"Another process {task} at this moment. Wait until it is done, or choose another folder: --out."
            ) from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        held.release()


def digest_of(path, digest):
    """
    Digest of a file's content, in constant memory.

    Args:
        path (`str` or `Path`)
        digest: Of [`hashlib`] or [`xxhash`], to which nothing was given yet.

    Returns:
        `str`: in hexadecimal digits.
    """
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def too_long(path):
    """Why no file can have this name, or `None` if one can."""
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        return f"{path.name[:30]}…{path.suffix} would have over {LONGEST_NAME} bytes: shorten the name."
    return None


def clear_stale(folder, pattern=f"**/.*{PART}", age=STALE):
    """Removes files and folders that killed processes left under a folder, by name and by age in seconds."""
    for path in Path(folder).glob(pattern):
        try:
            if time.time() - path.lstat().st_mtime > age:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:  # somebody else's, or gone: it does no harm
            continue
