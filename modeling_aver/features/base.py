"""What every source of features answers: when, what and whether, and who made it.

An extractor is anything with an `identity` and `extract(video)`. Values of two extractors are never comparable, nor
those of one extractor under two settings, so the identity travels with the numbers and is compared before they meet.
"""

import logging
from dataclasses import asdict, dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from ..io.media import MediaError, one_line

logger = logging.getLogger(__name__)


class ExtractorUnavailableError(ImportError):
    """No clip can be extracted: the package, program or model file is not there. Says how to get it."""


class ExtractionError(RuntimeError):
    """The extractor failed on this clip, though the clip may be sound: it crashed, hung or wrote nothing."""


@dataclass(frozen=True)
class FeatureIdentity:
    """
    Who made the features.

    Args:
        name (`str`): Of the extractor: openface, mediapipe, table.
        version (`str`, *optional*): Of its program, image or package. `None` where nobody knows, as in most tables.
        settings (`dict`, *optional*): What changes the values, as JSON holds it. A key that is absent is unknown, but
            for `statistic`: what one vector per clip is of its frames. Without it, features are of every frame.
        columns (`tuple[str, ...]`, *optional*): Names of the D features, in order.
    """

    name: str
    version: str | None = None
    settings: dict = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    @property
    def statistic(self):
        """`str`: what the one vector per clip is, such as "mean of the clip"; `None` for features of every frame."""
        return self.settings.get("statistic")

    def to_dict(self):
        """A dict that JSON can hold."""
        return {**asdict(self), "columns": list(self.columns)}

    @classmethod
    def from_dict(cls, values):
        """
        The inverse of [`~FeatureIdentity.to_dict`].

        Raises:
            `ValueError`: for a field that no identity has or that holds another kind of value, or without a name.
        """
        kinds = {"name": str, "version": str | None, "settings": dict | None, "columns": list | tuple | None}
        if not isinstance(values, dict) or set(values) - set(kinds) or "name" not in values:
            given = sorted(map(str, values)) if isinstance(values, dict) else values
            raise ValueError(f"A feature identity has name, version, settings and columns; got {one_line(given)}.")
        wrong = [name for name, value in values.items() if not isinstance(value, kinds[name])]
        if wrong:
            raise ValueError(f"`{wrong[0]}` of a feature identity must not be {one_line(repr(values[wrong[0]]))}.")
        columns = tuple(map(str, values.get("columns") or ()))
        return cls(values["name"], values.get("version"), dict(values.get("settings") or {}), columns)

    def __str__(self):
        settings = ", ".join(f"{key} {value}" for key, value in sorted(self.settings.items()))
        return " ".join(part for part in (self.name, self.version or "", f"({settings})" if settings else "") if part)


@dataclass
class FaceTrack:
    """
    One face over a clip. Unpacks as `timestamps, features, success = track`.

    Args:
        timestamps (`np.ndarray` of shape `(num_frames,)`): Seconds, float64, never decreasing.
        features (`np.ndarray` of shape `(num_frames, num_features)`): float32. A failed frame keeps its row, of zeros.
        success (`np.ndarray` of shape `(num_frames,)`): bool, whether the face was found in the frame.
        identity ([`FeatureIdentity`], *optional*): Who made the features.
        frames (`np.ndarray` of shape `(num_frames,)`, *optional*): Index of each row's frame in the video, from 0.
            `None` where it is unknown; rows are then taken for consecutive frames.
        doubts (`tuple[str, ...]`, *optional*): Why the features may be wrong, such as a cut to another person.
    """

    timestamps: np.ndarray
    features: np.ndarray
    success: np.ndarray
    identity: FeatureIdentity | None = None
    frames: np.ndarray | None = None
    doubts: tuple[str, ...] = ()

    @property
    def action_units(self):
        """The features, by the name of the datasets' column."""
        return self.features

    def __iter__(self):
        return iter((self.timestamps, self.features, self.success))


class Extractor(Protocol):
    """Anything that turns a video into a [`FaceTrack`]; small enough to be sent to another process."""

    @property
    def identity(self) -> FeatureIdentity:
        """Who makes the features."""

    def extract(self, video) -> FaceTrack:
        """
        Timestamps `(T,)` in seconds on the clock of [`read_audio`], features `(T, D)` and success `(T,)` of a video.

        Raises:
            `MediaError`: if the file cannot be used. `ExtractionError`: if the extractor failed on it.
            `ExtractorUnavailableError`: if it would fail on every file.
        """


@runtime_checkable
class CheckedExtractor(Extractor, Protocol):
    """An extractor whose installation can be tried out before any clip."""

    def check_installation(self) -> None:
        """Raises `ExtractorUnavailableError` if it would fail on every file."""


@runtime_checkable
class StreamingExtractor(Extractor, Protocol):
    """An extractor that looks at one picture after another, so that a recording may have any length."""

    def frames(self, video):
        """(seconds, features `(D,)`, success) of one frame after another; raises as [`Extractor.extract`]."""


@runtime_checkable
class PictureExtractor(StreamingExtractor, Protocol):
    """An extractor that takes pictures from anywhere, such as a camera."""

    def frames_of(self, pictures):
        """
        (seconds, features `(D,)`, success) of each of some `(seconds, pixels)`; takes the next picture only when the
        next answer is asked for. Pixels are RGB of shape `(height, width, 3)`, uint8; seconds never go back.
        """


def face_frames(extractor, video, notes=None):
    """
    Features of a video frame by frame: in constant memory where the extractor can, else after it has seen the whole.

    Args:
        extractor ([`Extractor`])
        video (`str` or `Path`)
        notes (`list[str]`, *optional*): Doubts about the features are appended to it.

    Yields:
        `tuple[float, np.ndarray, bool]`: seconds, features of shape `(num_features,)`, whether the face was found.
    """
    if isinstance(extractor, StreamingExtractor):
        yield from extractor.frames(video)
    else:
        track = extractor.extract(video)
        if notes is not None:
            notes.extend(track.doubts)
        yield from zip(*track, strict=True)


def checked_track(name, timestamps, features, success, identity):
    """
    A [`FaceTrack`] of arrays that came from outside: failed frames are zeros, everything else is finite and in order.

    Raises:
        `MediaError`: that names the file, the row and the value.
    """
    timestamps, features = _as_numbers(name, timestamps, np.float64), _as_numbers(name, features, np.float32)
    success = np.asarray(success).astype(bool)
    if features.ndim != 2 or timestamps.shape != features.shape[:1] or success.shape != features.shape[:1]:
        raise MediaError(
            f"{name} must have a timestamp and a success for each row of features (T, D), but timestamps have shape "
            f"{timestamps.shape}, features {features.shape} and success {success.shape}."
        )
    if len(features) == 0:
        raise MediaError(f"{name} has a header but no frames.")
    features = np.where(success[:, None], features, np.float32(0.0))
    for kind, bad in {
        "timestamp": ~np.isfinite(timestamps),
        "features": ~np.isfinite(features).all(axis=1),
    }.items():
        if bad.any():
            raise MediaError(f"{name} holds values that are not finite numbers: {kind} of frame {int(bad.argmax())}.")
    backwards = np.diff(timestamps) < 0
    if backwards.any():
        frame = int(backwards.argmax()) + 1
        raise MediaError(
            f"{name} runs backwards in time: frame {frame} is at {timestamps[frame]:.3f} s, after "
            f"{timestamps[frame - 1]:.3f} s."
        )
    return FaceTrack(timestamps, features, success, identity)


def check_same_features(trained, given):
    """
    Refuses features of another extractor than a model was trained on, and features of every frame where it was trained
    on one vector per clip, or the other way round. What either side does not know (an identity of `None`, a setting
    that is absent) cannot be compared and passes; another version only warns.

    Args:
        trained, given ([`FeatureIdentity`], `dict` or `None`): Of the model and of the data.

    Raises:
        `ValueError`: if the extractor, its columns or a setting that both state differs. Says what to do.
    """
    if trained is None or given is None:
        return
    trained, given = (
        one if isinstance(one, FeatureIdentity) else FeatureIdentity.from_dict(one) for one in (trained, given)
    )
    if trained.name == given.name and trained.statistic != given.statistic:
        raise ValueError(
            f"The model needs {_amount(trained)} of {trained.name}, but these features are {_amount(given)}. Give "
            "tables of such features, or load a model trained on features like these."
        )
    difference = _difference(trained, given)
    if difference:
        extract = f"Extract the clips again (aver extract … --backend {trained.name}) and give that folder"
        remedy = extract if trained.name in ("mediapipe", "openface") and not trained.statistic else "Give such tables"
        raise ValueError(
            f"The model was trained on features of {trained}, but these are of {given}: {difference}. {remedy}, or "
            "load a model trained on features like these."
        )
    if None not in (trained.version, given.version) and trained.version != given.version:
        logger.warning("The model was trained on features of %s, but these are of %s.", trained, given)


def _amount(identity):
    if identity.statistic is None:
        return "features of every frame"
    return f"one vector per clip (statistic: {identity.statistic})"


def _difference(trained, given):
    """The first thing in which two identities differ, in words, or `None`."""
    if trained.name != given.name:
        return f"the extractor is {given.name}, not {trained.name}"
    for key in sorted(trained.settings.keys() & given.settings.keys()):
        if trained.settings[key] != given.settings[key]:
            return f"{key} is {given.settings[key]}, not {trained.settings[key]}"
    if not trained.columns or not given.columns or trained.columns == given.columns:
        return None
    if sorted(trained.columns) == sorted(given.columns):
        return "the columns are in another order"
    if len(trained.columns) != len(given.columns):
        return f"{len(given.columns)} columns, not {len(trained.columns)}"
    first = next(pair for pair in zip(trained.columns, given.columns, strict=True) if pair[0] != pair[1])
    return f"column {first[1]} stands where {first[0]} should"


def _as_numbers(name, values, dtype):
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
            return np.asarray(values).astype(dtype)
    except (TypeError, ValueError) as error:
        raise MediaError(f"{name} holds values that are no numbers: {error}.") from error
