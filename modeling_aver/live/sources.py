"""Where live sound and pictures come from: microphone and camera, or a file played at real speed."""

import importlib
import threading
import time
from collections import deque
from itertools import chain

import numpy as np

from ..features.base import FeatureIdentity, PictureExtractor
from ..inference.faces import FacesOfTables, find_faces
from ..io.media import MediaError, MissingStreamError, read_frames, read_sound

BACKLOG = 5.0  # seconds of sound that may wait while the model is at work
BLOCK = 0.05  # seconds of sound that come together
PICTURES = 30  # that may wait
INSTALL = 'pip install "modeling-aver[live]"'
CHOICES = (
    "Use the sound alone (--streams audio), or play a file with precomputed features (--file FILE "
    "--action-units-folder FOLDER)."
)


def find_live_faces(processor, action_units_folder=None, face_landmarker=None):
    """
    Where features of live pictures come from.

    Args:
        processor ([`AverFeatureExtractor`]): The model's.
        action_units_folder (`Path`, *optional*): Tables of features.
        face_landmarker (`Path`, *optional*): MediaPipe's model file.

    Returns:
        [`FacesOfExtractor`] or [`FacesOfTables`]

    Raises:
        `ValueError`: if the model's features cannot be made of live pictures. `ExtractorUnavailableError`: if their
        extractor is not installed here.
    """
    trained = processor.feature_identity and FeatureIdentity.from_dict(processor.feature_identity)
    if action_units_folder is None and trained and trained.name == "openface":
        raise ValueError(
            f"The model was trained on features of {trained}, which are made of whole files, not of live pictures. "
            f"{CHOICES}"
        )
    return find_faces(processor, action_units_folder, choices=CHOICES, face_landmarker=face_landmarker)


def check_live_request(streams, file=None, action_units_folder=None):
    """
    Refuses what cannot be played, before anything is loaded.

    Args:
        streams (`str`): `both`, `audio` or `video`.
        file (`Path`, *optional*): Played in place of microphone and camera, whose libraries are not needed then.
        action_units_folder (`Path`, *optional*): Tables of features; they belong to a file.

    Raises:
        `ValueError`: for tables without a file. `ImportError`: without the libraries; says what to install.
    """
    if action_units_folder is not None and file is None:
        raise ValueError("Tables of features belong to a file: give --file too.")
    if file is None and streams != "video":
        _imported("sounddevice", "microphone", "audio")
    if file is None and streams != "audio":
        _imported("cv2", "camera", "video")


def open_source(recognize, faces, file=None, streams="both", camera=0):
    """
    A source of live sound and pictures, and what looks at the pictures.

    Args:
        recognize ([`EmotionPipeline`])
        faces ([`FacesOfExtractor`] or [`FacesOfTables`], *optional*): `None` where `streams` is `"audio"`.
        file (`Path`, *optional*): To play in place of microphone and camera.
        streams (`str`, *optional*, defaults to `"both"`): Or `"audio"` or `"video"` alone.
        camera (`int`, *optional*, defaults to 0)

    Returns:
        `tuple`: the source, and for [`LiveRecognizer`] `frames_of` or `None`.

    Raises:
        `ValueError`: if features cannot be made of live pictures. `MediaError`, `OSError`: if file or device cannot be
        used. `ImportError`: without the libraries of the devices.
    """
    rate = recognize.processor.feature_extractor.sampling_rate
    if isinstance(faces, FacesOfTables):
        if file is None:
            raise ValueError("Tables of features belong to a file: give --file too.")
        pictures = ((seconds, row) for seconds, *row in faces.frames(file, file.stem))
        return FileSource(file, rate, streams, pictures), _as_they_are
    if faces is not None and not isinstance(faces.extractor, PictureExtractor):
        raise ValueError(f"Features of {faces.identity} are made of whole files, not of live pictures. {CHOICES}")
    source = DeviceSource(rate, streams, camera) if file is None else FileSource(file, rate, streams)
    return source, faces and _awake(faces.extractor.frames_of)


def _awake(frames_of):
    """The same, which has looked at a dark picture already: at its first, an extractor loads its model."""

    def looked(pictures):
        rows = frames_of(chain([(-1.0, np.zeros((240, 320, 3), np.uint8))], pictures))
        next(rows)
        return rows

    return looked


def _as_they_are(pictures):
    return ((seconds, *row) for seconds, row in pictures)


class FileSource:
    """
    A file played at real speed, decoded as far as the clock has come.

    Args:
        path (`str` or `Path`)
        sampling_rate (`int`): Wanted, in Hz.
        streams (`str`, *optional*, defaults to `"both"`): Or `"audio"` or `"video"` alone.
        pictures (iterable of `(seconds, picture)`, *optional*): Defaults to those of the file.
    """

    def __init__(self, path, sampling_rate, streams="both", pictures=None):
        self.rate, self.count = sampling_rate, 0
        pictures = read_frames(path) if pictures is None else pictures
        self.sound = _Ahead(iter(()) if streams == "video" else read_sound(path, sampling_rate))
        self.pictures = _Ahead(iter(()) if streams == "audio" else pictures)
        if self.is_over:
            raise MediaError(f"{path} has nothing to play for `streams` {streams!r}.")

    @property
    def is_over(self):
        """Whether all has been given."""
        return self.sound.next is None and self.pictures.next is None

    def until(self, now):
        """`(end, samples)` that ended and `(seconds, picture)` that were shown by `now` (s), since the last call."""
        sounds, pictures = [], []
        while self.sound.next is not None and (self.count + len(self.sound.next)) / self.rate <= now:
            samples = self.sound.take()
            self.count += len(samples)
            sounds.append((self.count / self.rate, samples))
        while self.pictures.next is not None and self.pictures.next[0] <= now:
            pictures.append(self.pictures.take())
        return sounds, pictures

    def close(self):
        """Closes the file."""
        self.sound.close()
        self.pictures.close()


class _Ahead:
    """An iterator that shows what comes next; a stream that the file has not is empty."""

    def __init__(self, items):
        self.items = items
        self.take()

    def take(self):
        taken = getattr(self, "next", None)
        try:
            self.next = next(self.items, None)
        except MissingStreamError:
            self.next = None
        return taken

    def close(self):
        self.next = None
        if hasattr(self.items, "close"):
            self.items.close()


class DeviceSource:
    """
    Microphone and camera. What waits too long is given up: nothing grows while the model is at work.

    Args:
        sampling_rate (`int`): Of the sound, in Hz.
        streams (`str`): `both`, `audio` or `video`.
        camera (`int`, *optional*, defaults to 0): Number of the camera.
        microphone (`int` or `str`, *optional*): Of sounddevice; defaults to the system's.
    """

    def __init__(self, sampling_rate, streams="both", camera=0, microphone=None):
        self.is_over = False
        self.blocks, self.pictures = deque(maxlen=round(BACKLOG / BLOCK)), deque(maxlen=PICTURES)
        self.microphone = None if streams == "video" else self._opened_microphone(sampling_rate, microphone)
        self.camera = None if streams == "audio" else self._opened_camera(camera)

    def until(self, now):
        """`(end, samples)` and `(seconds, picture)` that came since the last call, at `now` (s)."""
        origin = time.monotonic() - now
        waiting = len(self.blocks), len(self.pictures)  # those that come meanwhile are for the next call
        sounds = [self.blocks.popleft() for _ in range(waiting[0])]
        pictures = [self.pictures.popleft() for _ in range(waiting[1])]
        return tuple([(when - origin, one) for when, one in some if when >= origin] for some in (sounds, pictures))

    def close(self):
        """Gives the devices back."""
        self.is_over = True
        if self.microphone is not None:
            self.microphone.close()
        if self.camera is not None:
            self.watcher.join(timeout=2)
            self.camera.release()

    def _opened_microphone(self, rate, device):
        sounddevice = _imported("sounddevice", "microphone", "audio")
        try:
            stream = sounddevice.InputStream(
                **{"samplerate": rate, "channels": 1, "dtype": "float32", "device": device},
                **{"blocksize": round(BLOCK * rate), "callback": self._heard},
            )
            stream.start()
        except sounddevice.PortAudioError as error:
            raise OSError(f"The microphone cannot be opened ({error}). Without it: --streams video.") from error
        return stream

    def _heard(self, block, frames, when, status):
        self.blocks.append((time.monotonic(), block[:, 0].copy()))

    def _opened_camera(self, number):
        cv2 = _imported("cv2", "camera", "video")
        camera = cv2.VideoCapture(number)
        if not camera.isOpened():
            raise OSError(f"There is no camera {number}. Name another (--camera), or go without it: --streams audio.")
        self.watcher = threading.Thread(target=self._watch, args=(camera,), daemon=True)
        self.watcher.start()
        return camera

    def _watch(self, camera):
        while not self.is_over:
            there, pixels = camera.read()
            if not there:
                return
            self.pictures.append((time.monotonic(), pixels[:, :, ::-1].copy()))  # BGR to RGB


def _imported(library, device, other):
    """A library of the extra `live`."""
    try:
        return importlib.import_module(library)
    except (ImportError, OSError) as error:  # OSError: sounddevice does not find PortAudio
        hint = " and PortAudio (Debian: apt-get install libportaudio2)" if library == "sounddevice" else ""
        without = "video" if other == "audio" else "audio"
        raise ImportError(
            f"The {device} needs {library}{hint}: {INSTALL}. Without it: --streams {without}, or play a file: --file."
        ) from error
