"""Features of many clips: over processes, from where it stopped, with an account of every clip at the end."""

import logging
import os
import warnings
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..io.atomic import WriteError, clear_stale, too_long, write_whole
from ..io.media import MediaError
from .base import CheckedExtractor, ExtractionError, Extractor, ExtractorUnavailableError
from .mediapipe import find_mediapipe
from .openface import find_openface
from .report import Outcome, Report
from .tables import DOUBTS, doubts_of, read_header, write_features
from .workers import in_processes

logger = logging.getLogger(__name__)

FORMATS = ("npz", "parquet")
BEFORE = "finished in an earlier run"
OPTIONS = {  # of each backend
    "mediapipe": ("face_landmarker",),
    "openface": ("openface", "openface_models", "static", "calibration_window", "timeout"),
}


def find_extractor(backend, **options):
    """
    The extractor of a backend.

    Args:
        backend (`str`): mediapipe or openface.
        options: Of [`find_mediapipe`] or [`find_openface`]. `None` stands for the default.

    Returns:
        [`Extractor`]

    Raises:
        `ExtractorUnavailableError`: if it is not installed here; says how to get it. `ValueError`: for an unknown
        backend, or an option of the other.
    """
    if backend not in OPTIONS:
        raise ValueError(f"`backend` may be {', '.join(OPTIONS)}; got {backend}.")
    options = {name: value for name, value in options.items() if value is not None}
    if "model" in options:
        warnings.warn("`model` of `find_extractor` is now `face_landmarker`.", FutureWarning, stacklevel=2)
        options["face_landmarker"] = options.pop("model")
    stray = sorted(set(options) - set(OPTIONS[backend]))
    if stray:
        raise ValueError(f"`{stray[0]}` ({options[stray[0]]}) is no option of the backend {backend}.")
    return {"mediapipe": find_mediapipe, "openface": find_openface}[backend](**options)


def extract_clips(extractor, clips, out, *, format="npz", workers=0, strict=False, watch=None, report="report"):
    """
    Writes the features of each clip to `out/<name of the clip>.<format>`, and an account of all. A clip whose features
    are there already, of the same extractor and of a file of the same size, is left alone.

    Args:
        extractor ([`Extractor`]): Sent to each process.
        clips (`tuple[list[Clip], list[Outcome]]`): As [`find_clips`] gives them.
        out (`str` or `Path`): Folder; made if need be.
        format (`str`, *optional*, defaults to `"npz"`): Or `"parquet"`.
        workers (`int`, *optional*, defaults to 0): Processes, of which one that dies takes only its clip. 0 works in
            this process, where a clip that crashes its decoder takes the run with it.
        strict (`bool`, *optional*, defaults to `False`): Stop at the first clip that is not done.
        watch (callable, *optional*): Called with each [`Outcome`] as it comes.
        report (`str`, *optional*, defaults to `"report"`): The account is in `out/<report>.json` and `.txt`.

    Returns:
        [`Report`]

    Raises:
        `MediaError`: where `out` holds features of another extractor; and under `strict`, for the first clip that is
        not done. `ExtractorUnavailableError`: if no clip can be extracted. [`WriteError`]: if `out` takes no more.
        What was done before has its account, as far as there is room for it.
    """
    if format not in FORMATS:
        raise ValueError(f"`format` may be {', '.join(FORMATS)}; got {format}.")
    run = _Run(extractor, Path(out), format)
    clear_stale(run.out)
    todo, known = list(clips[0]), list(clips[1])
    earlier = {clip: run.finished(clip) for clip in todo}
    known.extend(outcome for outcome in earlier.values() if outcome is not None)
    todo = [clip for clip in todo if earlier[clip] is None]
    if todo and isinstance(extractor, CheckedExtractor):
        extractor.check_installation()
    outcomes = []
    try:
        with closing(_outcomes(known, run, todo, workers)) as stream:
            for outcome in stream:
                outcomes.append(outcome)
                if watch is not None:
                    watch(outcome)
                if strict and outcome.is_missing:
                    raise MediaError(f"{outcome.clip} is {outcome.status}: {outcome.reason}")
    except BaseException:
        with suppress(WriteError):  # what broke the run off is told, not that the account found no room either
            run.account_for(outcomes, report)
        raise
    return run.account_for(outcomes, report)


def default_workers():
    """One process a core, shared among the processes that a launcher started on this machine."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@dataclass(frozen=True)
class _Run:
    """What every process knows of the run."""

    extractor: Extractor
    out: Path
    format: str

    def extract(self, clip):
        """Writes one clip's features and says what became of it."""
        name = str(clip.path)
        try:
            track = self.extractor.extract(clip.path)
        except ExtractorUnavailableError:
            raise
        except MediaError as error:
            return Outcome(name, "corrupt", str(error))
        except ExtractionError as error:
            return Outcome(name, "failed", str(error))
        except Exception as error:  # whatever a decoder may do on broken material; the account names clip and error
            logger.debug("%s", name, exc_info=True)
            return Outcome(name, "failed", f"{type(error).__name__}: {error}")
        path = self.table_of(clip)
        if reason := too_long(path):
            return Outcome(name, "failed", reason)
        write_features(path, track, _source(clip))
        return _judged(clip, track.success, track.doubts)

    def finished(self, clip):
        """The outcome of an earlier run, or `None` where there is none that counts."""
        path = self.table_of(clip)
        if not os.path.exists(path):  # also where the name is too long for a file
            return None
        try:
            identity, source, success = read_header(path)
        except (MediaError, ValueError):
            return None  # damaged since, or not from here: made anew
        if identity != self.extractor.identity:
            raise MediaError(
                f"{path} holds features of {identity}, not of {self.extractor.identity}. Choose another folder: --out."
            )
        expected, doubts = _source(clip), doubts_of(source)
        is_same = source == ({**expected, DOUBTS: list(doubts)} if doubts else expected)
        return replace(_judged(clip, success, doubts, BEFORE), earlier=True) if is_same else None

    def account_for(self, outcomes, name):
        """Writes what became of the clips, and returns it as a [`Report`]."""
        ordered = tuple(sorted(outcomes, key=lambda one: one.clip))
        account = Report(self.extractor.identity.to_dict(), ordered)
        write_whole(self.out / f"{name}.json", account.to_json())
        write_whole(self.out / f"{name}.txt", (account.to_text() + "\n").encode(errors="backslashreplace"))
        return account

    def table_of(self, clip):
        """Where the clip's features go."""
        return self.out / f"{clip.name}.{self.format}"


def _outcomes(known, run, todo, workers):
    yield from known
    if workers:
        yield from in_processes(run.extract, todo, workers, _died)
    else:
        yield from map(run.extract, todo)


def _died(clip):
    return Outcome(str(clip.path), "failed", "the process that worked on it died (crash, or out of memory)")


def _judged(clip, success, doubts=(), reason=""):
    frames = int(success.sum())
    if frames == 0:
        return Outcome(str(clip.path), "no_face", f"no face in {len(success)} frames")
    if doubts:
        return Outcome(str(clip.path), "doubtful", " ".join(doubts), frames)
    return Outcome(str(clip.path), "done", reason, frames)


def _source(clip):
    """What tells that a clip has changed since: not its time of change, which copies do not keep."""
    size = clip.path.stat().st_size if clip.path.exists() else -1
    return {"file": clip.path.name, "bytes": size}
