"""From files to arrays: sound and pictures out of any media container, features of the face out of videos and tables.

Nothing here needs OpenFace or MediaPipe to be imported.
"""

from .clips import Clip, find_clips
from .extract import extract_clips, find_extractor
from .extractor import (
    ExtractionError,
    Extractor,
    ExtractorUnavailableError,
    FaceTrack,
    FeatureIdentity,
    PictureExtractor,
    check_same_features,
    face_frames,
)
from .media import MediaError, MissingStreamError, read_audio, read_frames, read_sound, read_timestamps
from .openface import ACTION_UNITS, read_openface
from .table import read_features, write_features

__all__ = [
    "ACTION_UNITS",
    "Clip",
    "ExtractionError",
    "Extractor",
    "ExtractorUnavailableError",
    "FaceTrack",
    "FeatureIdentity",
    "MediaError",
    "MissingStreamError",
    "PictureExtractor",
    "check_same_features",
    "extract_clips",
    "face_frames",
    "find_clips",
    "find_extractor",
    "read_audio",
    "read_features",
    "read_frames",
    "read_openface",
    "read_sound",
    "read_timestamps",
    "write_features",
]
