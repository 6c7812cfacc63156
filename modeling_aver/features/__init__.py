"""From files to arrays: sound out of any media container, action units out of OpenFace's tables."""

from .media import MediaError, read_audio
from .openface import ACTION_UNITS, FaceTrack, read_openface

__all__ = ["ACTION_UNITS", "FaceTrack", "MediaError", "read_audio", "read_openface"]
