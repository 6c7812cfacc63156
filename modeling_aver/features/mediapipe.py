"""52 blendshapes a frame by MediaPipe's Face Landmarker: Apache-2.0, from pip, for people without OpenFace.

Nothing here imports `mediapipe` before the first clip. Its wheels need libGL, libEGL and libGLESv2 of the system
(Debian: `apt-get install libgl1 libegl1 libgles2`), though it computes on the CPU.
"""

import hashlib
import http.client
import importlib.metadata
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..io.atomic import clear_stale, write_whole
from ..io.media import read_frames
from .base import ExtractorUnavailableError, FaceTrack, FeatureIdentity

MODEL_URL = (
    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task"
)
MODEL_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
MODEL_VARIABLE = "AVER_FACE_LANDMARKER"
TIMEOUT = 60.0  # seconds without a byte of the model file
INSTALL = 'pip install "modeling-aver[mediapipe]"'
HOW_TO_GIVE = (
    f"Download {MODEL_URL} and give its path: --face-landmarker FILE, or the environment variable {MODEL_VARIABLE}."
)

BLENDSHAPES = tuple(
    """
    _neutral browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft
    cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight
    eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft eyeWideRight
    jawForward jawLeft jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft mouthFrownRight
    mouthFunnel mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight mouthPucker mouthRight
    mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft mouthSmileRight mouthStretchLeft
    mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft noseSneerRight
    """.split()
)


@dataclass(frozen=True)
class MediaPipeExtractor:
    """
    The blendshapes `BLENDSHAPES` of the clearest face, each 0 to 1; made by [`find_mediapipe`].

    Args:
        model (`str`): Path of `face_landmarker.task`.
        version (`str`): Of the package.
    """

    model: str
    version: str

    @property
    def identity(self):
        """Package and model file. The landmarker follows the face from frame to frame (`VIDEO`)."""
        settings = {"model_sha256": MODEL_SHA256, "running_mode": "VIDEO"}
        return FeatureIdentity("mediapipe", self.version, settings, BLENDSHAPES)

    def extract(self, video):
        """Blendshapes of each frame of a video: see [`Extractor.extract`]."""
        timestamps, features, success = zip(*self.frames(video), strict=True)
        return FaceTrack(np.array(timestamps), np.stack(features), np.array(success), self.identity)

    def frames(self, video):
        """As [`StreamingExtractor.frames`]. A new landmarker a clip: none remembers."""
        yield from self.frames_of(read_frames(video))

    def frames_of(self, pictures):
        """As [`PictureExtractor.frames_of`]."""
        package, vision, base = _imported()
        options = vision.FaceLandmarkerOptions(
            base_options=base(model_asset_path=self.model),
            running_mode=vision.RunningMode.VIDEO,
            output_face_blendshapes=True,
            num_faces=1,
        )
        first, clock = None, -1
        with _landmarker(vision, options) as landmarker:
            for seconds, pixels in pictures:
                first = seconds if first is None else first
                # It wants whole milliseconds that always grow, which two frames of one millisecond would not.
                clock = max(clock + 1, round((seconds - first) * 1000))
                image = package.Image(image_format=package.ImageFormat.SRGB, data=pixels)
                faces = landmarker.detect_for_video(image, clock).face_blendshapes
                yield seconds, _scores(faces[0]) if faces else np.zeros(len(BLENDSHAPES), np.float32), bool(faces)


def find_mediapipe(face_landmarker=None):
    """
    MediaPipe's Face Landmarker with its model file: what is given, else `$AVER_FACE_LANDMARKER`, else the official
    file (3.8 MB), downloaded once to the user's cache folder.

    Args:
        face_landmarker (`str` or `Path`, *optional*): `face_landmarker.task`.

    Returns:
        [`MediaPipeExtractor`]

    Raises:
        `ExtractorUnavailableError`: if the package is not installed, or the model file is missing, cannot be
        downloaded, or is not the one whose SHA-256 is `MODEL_SHA256`.
    """
    try:
        version = importlib.metadata.version("mediapipe")
    except importlib.metadata.PackageNotFoundError as error:
        raise ExtractorUnavailableError(f"The backend mediapipe needs the package mediapipe: {INSTALL}") from error
    given = face_landmarker or os.environ.get(MODEL_VARIABLE)
    path = Path(given) if given else _downloaded()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExtractorUnavailableError(
            f"MediaPipe's model file {path} cannot be read: {error.strerror}. {HOW_TO_GIVE}"
        ) from error
    _check_digest(content, path)
    return MediaPipeExtractor(str(path.resolve()), version)


def _downloaded():
    """Path of the official model in the cache, fetched if it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modeling-aver"
    path = cache / f"face_landmarker-{MODEL_SHA256[:12]}.task"
    if path.exists():
        return path
    try:
        with urllib.request.urlopen(MODEL_URL, timeout=TIMEOUT) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ExtractorUnavailableError(
            f"MediaPipe's model file cannot be downloaded ({error}). {HOW_TO_GIVE}"
        ) from error
    _check_digest(content, MODEL_URL)
    write_whole(path, content)
    clear_stale(cache)
    return path


def _check_digest(content, where):
    digest = hashlib.sha256(content).hexdigest()
    if digest != MODEL_SHA256:
        raise ExtractorUnavailableError(
            f"{where} ({len(content)} bytes) has SHA-256 {digest}, not {MODEL_SHA256}: damaged, or another model, "
            f"whose blendshapes would be other features. {HOW_TO_GIVE}"
        )


def _imported():
    try:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision
    except ImportError as error:
        raise ExtractorUnavailableError(
            f"mediapipe cannot be imported ({error}). Install it ({INSTALL}) and the libraries of the system that it "
            "needs (Debian: apt-get install libgl1 libegl1 libgles2)."
        ) from error
    return mediapipe, vision, BaseOptions


def _landmarker(vision, options):
    try:
        return vision.FaceLandmarker.create_from_options(options)
    except OSError as error:
        raise ExtractorUnavailableError(
            f"mediapipe cannot load a library ({error}). Debian: apt-get install libgl1 libegl1 libgles2"
        ) from error


def _scores(face):
    """float32 (52,) in the order of `BLENDSHAPES`."""
    return np.array([shape.score for shape in face], np.float32)
