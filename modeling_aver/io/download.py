"""One file over HTTP: resumed where it stopped, and never under its name before its size and checksum are right."""

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from modeling_aver.io.atomic import WriteError, digest_of, writing

PATIENCE = 5  # attempts in a row that bring no byte
TIMEOUT = 30  # seconds without a byte
CHUNK = 2**18  # bytes
BACKOFF = 1.0  # seconds before the second attempt, doubled for each further one


class DownloadError(OSError):
    """A file that could not be fetched, with its address, the reason, and what to do instead."""


@dataclass(frozen=True)
class RemoteFile:
    """
    A file to fetch.

    Args:
        url (`str`)
        path (`str`): Below the folder it is fetched into.
        size (`int`, *optional*): In bytes, where it is known.
        checksum (`str`, *optional*): Such as md5:bc69… or sha256:18b0….
    """

    url: str
    path: str
    size: int | None = None
    checksum: str | None = None


def fetch(file, folder, watch=lambda num_bytes: None):
    """
    Fetches a file, unless it is there already. A broken connection is resumed, now or in a later run.

    Args:
        file ([`RemoteFile`])
        folder (`str` or `Path`): The file is `folder/file.path`, and `….part` as long as it is not whole.
        watch (`Callable[[int], None]`, *optional*): Called with the number of bytes that were added.

    Returns:
        `Path`: of the file.

    Raises:
        [`DownloadError`]: if the server cannot be reached, refuses, stops sending, or sends wrong bytes.
        [`~features.whole.WriteError`]: if it cannot be written; what arrived is kept, and gone on from.
    """
    path = Path(folder) / file.path
    if path.is_file() and file.size in (None, path.stat().st_size):
        watch(path.stat().st_size)
        return path
    part = path.with_name(f"{path.name}.part")
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    if part.is_file():
        watch(part.stat().st_size)
    _fetch_whole(file, part, watch)
    _check(file, part)
    with writing(path):
        part.replace(path)
    return path


def read_url(url, most=2**24):
    """Content of a small address, up to `most` bytes; [`DownloadError`] as for [`fetch`]."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return answer.read(most)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{url} cannot be fetched: {error}.") from error


def _fetch_whole(file, part, watch):
    """Attempts until the file is whole; gives up after `PATIENCE` attempts in a row that brought nothing."""
    vain, most, reason = 0, _size(part), None
    while vain < PATIENCE:
        if vain:
            time.sleep(BACKOFF * 2 ** (vain - 1))
        try:
            if _attempt(file, part, watch):
                return
            reason = f"the server stopped after {_size(part):,} of {_wanted(file)} bytes"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 416, 429):
                raise DownloadError(f"{file.url} is refused: {error.code} {error.reason}.") from error
            reason = f"{error.code} {error.reason}"
        except WriteError:  # another attempt finds the same disk
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
        vain = 0 if _size(part) > most else vain + 1
        most = max(most, _size(part))
    raise DownloadError(f"{file.url} cannot be fetched: {reason}. What arrived is kept in {part.name}; run it again.")


def _attempt(file, part, watch):
    """Appends what one answer brings; whether the file is whole then."""
    start = _size(part)
    if file.size is not None and start >= file.size:
        return True
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is longer than the file: it was another one
            _drop(part, watch)
        raise
    with answer:
        if start and not _continues(answer, start):
            _drop(part, watch)
        total = _total(answer, _size(part))
        _append(answer, part, file, watch)
    wanted = total if file.size is None else file.size
    return wanted is None or _size(part) == wanted


def _append(answer, part, file, watch):
    while chunk := answer.read(CHUNK):
        with writing(part), open(part, "ab") as out:
            out.write(chunk)
        watch(len(chunk))
        if file.size is not None and _size(part) > file.size:
            break  # whatever this is, it is not the file; the check says so


def _continues(answer, start):
    """Whether an answer goes on where the part ends. Servers that know no ranges begin anew."""
    if answer.status != 206:
        return False
    return bool(re.match(rf"bytes {start}-", answer.headers.get("Content-Range", "")))


def _total(answer, start):
    """Bytes that the whole file should have by this answer, or `None` where the server does not say."""
    length = answer.headers.get("Content-Length")
    return start + int(length) if length is not None and length.isdigit() else None


def _drop(part, watch):
    watch(-_size(part))
    part.unlink(missing_ok=True)


def _size(path):
    return path.stat().st_size if path.is_file() else 0


def _wanted(file):
    return "unknown" if file.size is None else f"{file.size:,}"


def _check(file, part):
    """Refuses, and removes, a file of another size or checksum than it should have."""
    found = _size(part)
    if file.size is not None and found != file.size:
        part.unlink()
        raise DownloadError(f"{file.url} sent {found:,} bytes or more, but {part.stem} has {file.size:,}.")
    if file.checksum is None:
        return
    name, wanted = file.checksum.split(":")
    digest = digest_of(part, hashlib.new(name, usedforsecurity=False))
    if digest != wanted:
        part.unlink()
        raise DownloadError(
            f"{file.url} sent other bytes: {name} {digest}, not {wanted}. Run it again; if it happens again, "
            "something between you and the server changes what it sends."
        )
