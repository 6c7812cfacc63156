"""Files of a corpus by name, wherever they lie: in folders or in zips. Nothing is ever extracted."""

import functools
import logging
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modeling_aver.io.media import MAX_UNPACKED, ZIP_ERRORS, MediaError, one_line, read_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """
    One file.

    Args:
        path (`Path`): The file, or the zip that holds it.
        inside (`str`, *optional*): Its name in the zip.
    """

    path: Path
    inside: str | None = None

    @property
    def name(self):
        """`str`: the file's own name, without folders."""
        return PurePosixPath(self.inside).name if self.inside else self.path.name

    @property
    def stem(self):
        """`str`: the name up to its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self):
        """`str`: in lower case, with the dot."""
        return PurePosixPath(self.name).suffix.lower()

    def name_under(self, root):
        """`str`: the path below `root` (or in the zip), without suffix; slashes between folders."""
        path = PurePosixPath(self.inside or self.path.relative_to(root).as_posix())
        return path.with_suffix("").as_posix()

    def read(self):
        """
        The file's content.

        Raises:
            `MediaError`: if it is missing, encrypted, damaged, or larger than `MAX_UNPACKED` once unpacked.
        """
        if self.inside is None:
            return read_bytes(self.path)
        try:
            archive = _opened(self.path)
            if archive.getinfo(self.inside).file_size > MAX_UNPACKED:  # zipfile unpacks no byte beyond this promise
                raise ValueError(f"it is over {MAX_UNPACKED:,} bytes once unpacked")
            return archive.read(self.inside)
        except ZIP_ERRORS as error:
            raise MediaError(
                f"{one_line(self.name)} cannot be read out of {self.path.name}: {one_line(error)}"
            ) from error


def files_under(root):
    """
    Every file below a folder (`Iterator[Path]`), through links too: corpora lie on other disks. A folder that is
    linked into itself is walked once.
    """
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(folder, name)) not in seen]
        yield from (path for path in (Path(folder, name) for name in names) if path.is_file())


def find_members(root, suffixes):
    """
    Every file under a folder, and in the zips under it, that has one of the suffixes. Hidden files are none of the
    corpus's. Folders come before zips; each in the order of their names.

    Args:
        root (`str` or `Path`): A folder, or one zip.
        suffixes (`Container[str]`): In lower case, with the dot.

    Returns:
        `list[Member]`

    Raises:
        `MediaError`: if a zip cannot be opened.
    """
    root = Path(root)
    paths = [root] if root.is_file() else sorted(files_under(root))
    files = [Member(path) for path in paths if path.suffix.lower() != ".zip"]
    zipped = [member for path in paths if path.suffix.lower() == ".zip" for member in _members(path)]
    return [m for m in (*files, *zipped) if m.suffix in suffixes and not m.name.startswith(".")]


def by_stem(members, name_of=lambda member: member.stem):
    """
    Members by their name up to the suffix. Of several files of one name the first counts; copies inside each other's
    folders are common in mirrors, so they are counted, not refused.

    Args:
        members (`Iterable[Member]`): See [`find_members`].
        name_of (`Callable[[Member], str]`, *optional*): Another name.

    Returns:
        `dict[str, Member]`
    """
    found, again = {}, []
    for member in members:
        if name_of(member) in found:
            again.append(member.name)
        found.setdefault(name_of(member), member)
    if again:
        logger.warning(
            "%d files are there more than once, such as %s: the first of each counts.", len(again), again[0]
        )
    return found


def _members(path):
    try:
        names = _opened(path).namelist()
    except ZIP_ERRORS as error:
        raise MediaError(
            f"{path.name} cannot be opened ({one_line(error)}). Was the download cut short? Fetch it again."
        ) from error
    return [Member(path, name) for name in sorted(names) if not name.startswith("__MACOSX/")]


def _opened(path):
    stat = path.stat()
    return _open_zip(path, os.getpid(), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _open_zip(path, process_id, size, changed):
    """One handle a process, for a handle shared over a fork would share its position; and anew for a changed file."""
    return zipfile.ZipFile(path)
