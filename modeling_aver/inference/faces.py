"""Where the features of a video's face come from: the extractor that the model was trained with, or tables."""

from dataclasses import dataclass
from pathlib import Path

from datasets_scripts.tracks import TrackFolder

from ..features import (
    Extractor,
    ExtractorUnavailableError,
    FeatureIdentity,
    MediaError,
    check_same_features,
    face_frames,
    find_extractor,
)
from ..features.clock import calibration_note, on_stream_clock

CHOICES = (
    "Give features that are there already (--action-units-folder FOLDER, a table a clip), or go by the sound alone "
    "(--streams audio)."
)


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
        """
        path = Path(path)
        names = (f"{name}{path.suffix}", name, path.name, Path(name).name)
        found = next((one for one in names if one in self.tables), names[-1])
        track = on_stream_clock(self.tables.read(found), path, f"table {found}")
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


def find_faces(processor, action_units_folder=None, extractor=None, **options):
    """
    The source of the features that a model was trained on.

    Args:
        processor ([`AverFeatureExtractor`]): The model's; it knows who made the features of the training clips.
        action_units_folder (`str` or `Path`, *optional*): Tables, as OpenFace or `aver extract` write them.
        extractor ([`Extractor`], *optional*): To take instead of the one that the model names.
        options: Of [`find_openface`], for a model trained on OpenFace's features.

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
        extractor = _extractor_of(trained, options) if extractor is None else extractor
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


def _extractor_of(trained, options):
    if trained is None:
        raise ValueError(f"The model does not say which features of the face it was trained on. {CHOICES}")
    if trained.name not in ("mediapipe", "openface"):
        raise ValueError(f"The model was trained on features of {trained}, which nothing here makes. {CHOICES}")
    try:
        return _openface_like(trained, options) if trained.name == "openface" else find_extractor(trained.name)
    except ExtractorUnavailableError as error:
        raise ExtractorUnavailableError(
            f"The model was trained on features of {trained}, which cannot be made here: {error} Otherwise: {CHOICES}"
        ) from error


def _openface_like(trained, options):
    """OpenFace calibrated as it was for training; tried out before any clip is read."""
    window = trained.settings.get("calibration_window")
    options = {**options, "static": trained.settings.get("calibration") == "static"}
    extractor = find_extractor("openface", **options if window is None else {**options, "calibration_window": window})
    extractor.check_installation()
    return extractor
