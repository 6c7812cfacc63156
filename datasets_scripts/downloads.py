"""The official archives, from where their authors put them: RAVDESS from Zenodo, CREMA-D from its repository."""

import csv
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from modeling_aver.io.download import DownloadError, RemoteFile, fetch, read_url

ZENODO = "https://zenodo.org/api/records"
CREMA_D_RAW = "https://raw.githubusercontent.com/CheyneyComputerScience/CREMA-D/master"
CREMA_D_MEDIA = "https://media.githubusercontent.com/media/CheyneyComputerScience/CREMA-D/master"

SPEECH, SONG, TRACKING = (
    "Audio_Speech_Actors_01-24.zip",
    "Audio_Song_Actors_01-24.zip",
    "FacialTracking_Actors_01-24.zip",
)
RECORDS = {SPEECH: "1188976", SONG: "1188976", TRACKING: "3255102"}
ARCHIVES = {"speech": (SPEECH, TRACKING), "song": (SONG, TRACKING)}
KNOWN = {SPEECH: (208_468_073, "md5:bc696df654c87fed845eb13823edef8a")}  # the rest is asked of the record

NAMES = "SentenceFilenames.csv"
TABLES = (NAMES, "VideoDemographics.csv", "processedResults/summaryTable.csv")
SUFFIXES = {"AudioWAV": ".wav", "AudioMP3": ".mp3", "VideoFlash": ".flv"}
BYTES = {"AudioWAV": 605_899_936, "AudioMP3": 625_064_629, "VideoFlash": 2_443_021_141}  # of all 7,442 files
POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n?")
CONNECTIONS = 8


def download_ravdess(data_dir, channel="speech", console=None):
    """
    Fetches the sound of RAVDESS and its authors' OpenFace tracking: 0.63 GB, instead of 13 GB of video.

    Args:
        data_dir (`str` or `Path`): Where [`Ravdess`] is to find them. What is there, zipped or not, is not fetched.
        channel (`str`, *optional*, defaults to `"speech"`): speech or song.
        console (`rich.console.Console`, *optional*): For what is said and the progress bar. Defaults to stderr.

    Raises:
        [`DownloadError`]: if an archive cannot be fetched; says what to put where.
    """
    data_dir = Path(data_dir)
    missing = [name for name in ARCHIVES[channel] if not (data_dir / name.removesuffix(".zip")).is_dir()]
    try:
        files = [_zenodo_file(name) for name in missing if not (data_dir / name).is_file()]
        _fetch_all(files, data_dir, "RAVDESS", sum(file.size for file in files), console)
    except DownloadError as error:
        sources = ", ".join(f"{name} (https://zenodo.org/records/{RECORDS[name]})" for name in missing)
        raise DownloadError(f"{error} Or put these into {data_dir} yourself: {sources}.") from error


def download_crema_d(data_dir, folders=("AudioWAV",), console=None):
    """
    Fetches CREMA-D's media and tables from its repository: 0.61 GB of sound, and with `VideoFlash` 2.44 GB of film,
    from which `aver extract` makes features of the face.

    Args:
        data_dir (`str` or `Path`): Where [`CremaD`] is to find them. Whole files are not fetched again.
        folders (`tuple[str]`, *optional*, defaults to `("AudioWAV",)`): Of AudioWAV, AudioMP3, VideoFlash.
        console (`rich.console.Console`, *optional*): For what is said and the progress bar. Defaults to stderr.

    Raises:
        `ValueError`: for an unknown folder. [`DownloadError`]: if files cannot be fetched; says what to do instead.
    """
    unknown = [folder for folder in folders if folder not in SUFFIXES]
    if unknown:
        raise ValueError(f"`folders` ({unknown[0]!r}) must be of {', '.join(SUFFIXES)}.")
    data_dir = Path(data_dir)
    try:
        for table in TABLES:
            fetch(RemoteFile(f"{CREMA_D_RAW}/{table}", table), data_dir)
        names = _clip_names(data_dir / NAMES)
        paths = [f"{folder}/{name}{SUFFIXES[folder]}" for folder in folders for name in names]
        paths = [path for path in paths if not (data_dir / path).is_file()]
        size = round(sum(BYTES[path.split("/")[0]] for path in paths) / max(len(names), 1))
        _fetch_all(paths, data_dir, "CREMA-D", size, console)
    except DownloadError as error:
        raise DownloadError(
            f"{error} Or clone the repository into {data_dir} yourself: git lfs install && git clone "
            "https://github.com/CheyneyComputerScience/CREMA-D (its mirror, where GitHub's LFS quota is used up: "
            "https://gitlab.com/cs-cooper-lab/crema-d-mirror)."
        ) from error


def download_corpus(corpus, data_dir):
    """[`download_crema_d`] or [`download_ravdess`] by name; `ValueError` for a corpus without archives."""
    downloads = {"crema_d": download_crema_d, "ravdess": download_ravdess}
    if corpus not in downloads:
        raise ValueError(f"`corpus` ({corpus!r}) has no archives to fetch; {', '.join(downloads)} have.")
    downloads[corpus](data_dir)


def _zenodo_file(name):
    """An archive with the size and checksum that are known beforehand, else with those that its record tells."""
    url = f"{ZENODO}/{RECORDS[name]}"
    if name in KNOWN:
        return RemoteFile(f"{url}/files/{name}/content", name, *KNOWN[name])
    try:
        listed = {file["key"]: file for file in json.loads(read_url(url))["files"]}
        size, checksum = int(listed[name]["size"]), str(listed[name]["checksum"])
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadError(f"{url} does not tell size and checksum of {name}: {error!r}.") from error
    if not re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", checksum):
        raise DownloadError(f"{url} tells a checksum of {name} that cannot be used: {checksum}.")
    return RemoteFile(f"{url}/files/{name}/content", name, size, checksum)


def _clip_names(path):
    """The names of CREMA-D's clips, from its own table; nothing that could lead out of a folder is a name."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = [row.get("Filename") or "" for row in csv.DictReader(file)]
    bad = [name for name in names if not re.fullmatch(r"\w+", name)]
    if bad or not names:
        path.unlink()
        raise DownloadError(f"{path.name} is not CREMA-D's list of clips: {bad[:1] or 'it is empty'}.")
    return names


def _crema_d_file(path):
    """A media file with the size and SHA-256 that its Git-LFS pointer tells."""
    pointer = POINTER.fullmatch(read_url(f"{CREMA_D_RAW}/{path}", most=1_000))
    if pointer is None:
        raise DownloadError(f"{CREMA_D_RAW}/{path} is no Git-LFS pointer.")
    return RemoteFile(f"{CREMA_D_MEDIA}/{path}", path, int(pointer[2]), f"sha256:{pointer[1].decode()}")


def _fetch_all(files, folder, title, size, console):
    """Fetches files, or paths of CREMA-D; those that fail are named together when the others are there."""
    console = console or Console(stderr=True)
    if not files:
        return
    _check_space(folder, size)
    console.print(f"{title}: {size / 1e9:.2f} GB in {len(files):,} files, into {folder}", soft_wrap=True)
    bar = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    failed = []
    with Progress(*bar, console=console) as progress, ThreadPoolExecutor(CONNECTIONS) as pool:
        task = progress.add_task(title, total=size)

        def watch(num_bytes):
            progress.advance(task, num_bytes)

        def one(file):
            try:
                fetch(_crema_d_file(file) if isinstance(file, str) else file, folder, watch)
            except DownloadError as error:
                failed.append(str(error))

        list(pool.map(one, files))
    if failed:
        more = f" And {len(failed) - 3:,} more." if len(failed) > 3 else ""
        raise DownloadError(
            f"{len(failed):,} of {len(files):,} files are missing. {' '.join(sorted(failed)[:3])}{more}"
        )


def _check_space(folder, size):
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DownloadError(f"{folder} has {free / 1e9:.2f} GB left, but {size / 1e9:.2f} GB are to come.")
