"""Where the features of a video's face come from: the extractor that the model was trained with, or tables."""

from dataclasses import dataclass
from pathlib import Path

from modeling_aver.features.track_folder import TrackFolder

from ..features.base import Extractor, ExtractorUnavailableError, FeatureIdentity, check_same_features, face_frames
from ..features.clock import calibration_note, on_stream_clock
from ..features.extraction import find_extractor
from ..io.media import MediaError, MissingStreamError
from .recordings import outline_of

TABLES_CHOICE = "Give precomputed features (--action-units-folder FOLDER, one table per clip)."
CHOICES = (
    "Give precomputed features (--action-units-folder FOLDER, one table per clip), or use the sound alone (--streams "
    "audio)."
)
FRAMES_APART = 2  # that a table may have more or fewer than its video has packets
SECONDS_APART = 0.1  # that a table may last longer or shorter than its video
SHARE_APART = 0.02  # of either, in long videos


@dataclass(frozen=True)
class FacesOfExtractor:
    """Features that are made while the video is read."""

    extractor: Extractor

    @property
    def identity(self):
        """[`FeatureIdentity`]: who makes the features."""
        return self.extractor.identity

    def frames(self, path, name, notes=None):
        """(seconds, features, success) of one frame after another of the video at `path`; adds to `notes`."""
        return _noted(face_frames(self.extractor, path, notes), self.identity, notes)


@dataclass(frozen=True)
class FacesOfTables:
    """Features that are there already, a table a clip."""

    tables: TrackFolder

    @property
    def identity(self):
        """[`FeatureIdentity`]: who made the features."""
        return self.tables.identity

    def frames(self, path, name, notes=None):
        """
        (seconds, features, success) of one frame after another of the clip `name`, or of that file name; OpenFace's
        at the timestamps of the video at `path`. Adds to `notes`.

        Raises:
            `MissingStreamError`: for a sound file without a table. `MediaError`: if the table is missing, damaged, or
            of another length than the video at `path`.
        """
        path, outline = Path(path), outline_of(path)
        names = (f"{name}{path.suffix}", name, path.name, Path(name).name)
        table = next((one for one in names if one in self.tables), names[-1])
        if table not in self.tables and outline is not None and not outline.num_frames:
            raise MissingStreamError(f"{path.name} has no picture, and no table of features.")
        track = self.tables.read(table)
        if outline is not None and outline.num_frames and len(track.timestamps) > 1 and _is_gapless(track):
            _check_length(path.name, self.tables.members[table].name, track.timestamps, outline)
        track = on_stream_clock(track, path, f"table {table}")
        if notes is not None:
            notes.extend(track.doubts)
        yield from _noted(zip(*track, strict=True), track.identity, notes)


def _noted(frames, identity, notes):
    """The frames; then a note where OpenFace's calibration matters for a recording of their length."""
    seconds = 0.0
    for row in frames:
        seconds = row[0]
        yield row
    if notes is not None and identity is not None and (note := calibration_note(identity, seconds)):
        notes.append(note)


def find_faces(processor, action_units_folder=None, extractor=None, choices=CHOICES, **options):
    """
    The source of the features that a model was trained on.

    Args:
        processor ([`AverFeatureExtractor`]): The model's; it knows who made the features of the training clips.
        action_units_folder (`str` or `Path`, *optional*): Tables, as OpenFace or `aver extract` write them.
        extractor ([`Extractor`], *optional*): To take instead of the one that the model names.
        choices (`str`, *optional*): What to do where the features cannot be made, for errors.
        options: Of the extractor that the model names: `face_landmarker` of [`find_mediapipe`], or those of
            [`find_openface`]. `None` stands for the default. `calibration_window` has no effect where the model names
            MediaPipe, or states the window of its training clips.

    Returns:
        [`FacesOfTables`] or [`FacesOfExtractor`]

    Raises:
        `ValueError`: if these are other features than the model was trained on, or nobody knows which it was.
        `ExtractorUnavailableError`: if the extractor is not installed here. Both say the choices.
    """
    trained = processor.feature_identity and FeatureIdentity.from_dict(processor.feature_identity)
    if action_units_folder is not None:
        faces = _of_tables(action_units_folder)
        count = faces.tables.num_features
    else:
        extractor = _extractor_of(trained, options, choices) if extractor is None else extractor
        faces, count = FacesOfExtractor(extractor), len(extractor.identity.columns)
    check_same_features(trained, faces.identity)
    if count and count != processor.num_action_units:
        raise ValueError(
            f"The model was trained on {processor.num_action_units} features of the face, but {faces.identity} has "
            f"{count}."
        )
    return faces


def _of_tables(folder):
    if not Path(folder).exists():
        raise MediaError(f"`action_units_folder` ({folder}) is not there.")
    return FacesOfTables(TrackFolder(folder, name_of=str))


def _is_gapless(track):
    """Whether the rows are of all frames up to the last; those of one face of several may not be."""
    return track.frames is None or int(track.frames[-1]) + 1 == len(track.frames)


def _check_length(video, table, timestamps, outline):
    """Refuses a table that has neither about as many frames as the video nor about its duration."""
    frames, expected, expected_seconds = len(timestamps), outline.num_frames, outline.video_seconds
    seconds = (timestamps[-1] - timestamps[0]) * frames / (frames - 1)
    other_frames = abs(frames - expected) > max(FRAMES_APART, SHARE_APART * expected)
    other_seconds = abs(seconds - expected_seconds) > max(SECONDS_APART, SHARE_APART * expected_seconds)
    if other_frames and other_seconds:
        raise MediaError(
            f"{table} has {frames} frames ({seconds:.2f} s), but {video} has {expected} ({expected_seconds:.2f} s). "
            "Is it the table of another clip?"
        )


def _extractor_of(trained, options, choices):
    if trained is None:
        raise ValueError(f"The model does not say which features of the face it was trained on. {choices}")
    if trained.name not in ("mediapipe", "openface") or trained.statistic is not None:
        raise ValueError(f"The model was trained on features of {trained}, which nothing here makes. {choices}")
    try:
        return _openface_like(trained, options) if trained.name == "openface" else _mediapipe_like(options)
    except ExtractorUnavailableError as error:
        raise ExtractorUnavailableError(
            f"The model was trained on features of {trained}, which cannot be made here: {error} Otherwise: {choices}"
        ) from error


def _openface_like(trained, options):
    """OpenFace calibrated as it was for training; tried out before any clip is read."""
    window = trained.settings.get("calibration_window")
    options = {**options, "static": trained.settings.get("calibration") == "static"}
    extractor = find_extractor("openface", **options if window is None else {**options, "calibration_window": window})
    extractor.check_installation()
    return extractor


def _mediapipe_like(options):
    """MediaPipe, which needs no calibration."""
    return find_extractor("mediapipe", **{key: one for key, one in options.items() if key != "calibration_window"})
