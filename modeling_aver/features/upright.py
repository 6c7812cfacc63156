"""What OpenCV should know of a video and does not: how it is turned, when its frames are shown, where it is cut.

Programs that read videos by OpenCV, as OpenFace does, may get it rotated and at a clock of their own. For them a
lossless copy is made: upright, at a constant rate, of the picture alone, with exactly the frames that PyAV decodes.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np

from ..io.media import LOCAL_ONLY, MediaError, timed_frames

COPY = "copy.mkv"
COPY_RATE = 30  # Hz of a copy. Its own timestamps are never used
LATE = 0.1  # seconds after the container's start at which a picture counts as late
UNEVEN = 0.25  # part of the usual time between two frames by which another may differ at a constant rate
ROUNDING = 0.002  # seconds: containers round to 1 ms
TURNS = {90: [("transpose", "cclock")], 180: [("hflip", None), ("vflip", None)], 270: [("transpose", "clock")]}
# Of pictures of 32x24 grey levels, once a change of the overall brightness is taken away.
THUMBNAIL = {"width": 32, "height": 24, "format": "gray"}
CUT = 3.0  # mean change between two frames that may be a cut; people who talk before a camera stay below 0.5
CUT_RATIO = 5.0  # how many times the median of the changes around it a cut is
SPIKE_RATIO = 2.5  # how many times its nearest neighbours, which tells it from a fast movement
AROUND, NEAR = 12, 2  # frames on either side


@dataclass(frozen=True)
class PictureFacts:
    """
    What a whole pass over a video's picture found.

    Args:
        timestamps (`np.ndarray` of shape `(num_frames,)`): Seconds on the clock of [`read_audio`].
        width, height (`int`): Pixels, upright.
        is_turned (`bool`): Whether a display matrix turns it.
        sound_is_first (`bool`): Whether a sound stream comes before the picture in the file.
        cuts (`tuple[float, ...]`): Seconds of the first frame after each scene cut.
    """

    timestamps: np.ndarray
    width: int
    height: int
    is_turned: bool
    sound_is_first: bool
    cuts: tuple[float, ...]

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the last."""
        return float(self.timestamps[-1] - self.timestamps[0])

    @property
    def is_late(self) -> bool:
        """Whether the picture starts after the container does."""
        return bool(self.timestamps[0] > LATE)

    @property
    def is_uneven(self) -> bool:
        """Whether the frame rate varies."""
        gaps = np.diff(self.timestamps)
        if not len(gaps):
            return False
        usual = np.median(gaps)
        return bool(np.abs(gaps - usual).max() > max(UNEVEN * usual, ROUNDING))

    @property
    def needs_copy(self) -> bool:
        """Whether OpenCV may read other pictures, or at other times, than there are."""
        return self.is_turned or self.is_late or self.is_uneven or self.sound_is_first


def picture_facts(path: str | Path) -> PictureFacts:
    """
    Decodes all frames of a video and says what matters to programs that read it by OpenCV.

    Raises:
        `MediaError`: as [`read_frames`].
    """
    timestamps, turned, size, changes, last = [], False, (0, 0), [], None
    for seconds, frame in timed_frames(path):
        turns = _turns(frame)
        turned |= turns != 0
        if not timestamps:
            size = (frame.width, frame.height) if turns % 180 == 0 else (frame.height, frame.width)
        thumbnail = frame.reformat(**THUMBNAIL).to_ndarray().astype(np.float32)
        if last is not None:
            changes.append(_change(last, thumbnail))
        timestamps.append(seconds)
        last = thumbnail
    timestamps = np.array(timestamps)
    cuts = tuple(float(timestamps[index + 1]) for index in find_cuts(np.array(changes)))
    return PictureFacts(timestamps, *size, turned, _sound_is_first(path), cuts)


def find_cuts(changes: np.ndarray) -> list[int]:
    """
    Scene cuts: changes from one frame to the next that stand out from those around them.

    Args:
        changes (`np.ndarray` of shape `(num_frames - 1,)`): Mean absolute difference of neighbours, in grey levels.

    Returns:
        `list[int]`: indices of the changes that are cuts.
    """
    cuts = []
    for index in np.flatnonzero(changes > CUT):
        around, near = (_neighbours(changes, index, count) for count in (AROUND, NEAR))
        if not len(around) or changes[index] > max(CUT_RATIO * np.median(around), SPIKE_RATIO * near.max()):
            cuts.append(int(index))
    return cuts


def _neighbours(changes, index, count):
    return np.concatenate([changes[max(index - count, 0) : index], changes[index + 1 : index + 1 + count]])


def upright_pieces(path: str | Path, folder: Path, lengths: list[int]) -> Iterator[Path]:
    """
    A lossless copy of a video in consecutive pieces, one file at a time: the next replaces it.

    Args:
        path (`str` or `Path`)
        folder (`Path`): Where the file is written.
        lengths (`list[int]`): Frames of each piece.

    Yields:
        `Path`

    Raises:
        `MediaError`: as [`read_frames`]. `OSError`: where there is no room.
    """
    target = folder / COPY
    with closing(timed_frames(path)) as decoded:
        frames = (frame for _, frame in decoded)
        for length in lengths:
            write_copy(target, islice(frames, length))
            yield target
            target.unlink(missing_ok=True)


def write_copy(target: Path, frames: Iterator[av.VideoFrame]) -> None:
    """Writes frames upright as FFV1 in Matroska, at a constant rate, in their own pixel format where it has that."""
    writer = _Copy()
    with _as_os_error(target), av.open(str(target), "w", format="matroska") as container:
        for frame in frames:
            container.mux(writer.encode(container, frame))
        container.mux(writer.stream.encode(None))


class _Copy:
    """The encoder of one copy; set up by the first frame."""

    def __init__(self):
        self.stream, self.count, self.rotators = None, 0, {}

    def encode(self, container, frame):
        frame = self._upright(frame)
        if self.stream is None:
            self.stream = container.add_stream("ffv1", rate=COPY_RATE, options={"level": "3"})
            self.stream.width, self.stream.height = frame.width, frame.height
            known = {one.name for one in av.codec.Codec("ffv1", "w").video_formats}
            self.stream.pix_fmt = frame.format.name if frame.format.name in known else "bgr0"
        stream = self.stream
        if (frame.width, frame.height, frame.format.name) != (stream.width, stream.height, stream.pix_fmt):
            frame = frame.reformat(stream.width, stream.height, stream.pix_fmt)
        frame.pts, frame.time_base = self.count, Fraction(1, COPY_RATE)
        self.count += 1
        return stream.encode(frame)

    def _upright(self, frame):
        turns = _turns(frame)
        if not turns:
            return frame
        key = turns, frame.width, frame.height, frame.format.name
        if key not in self.rotators:
            self.rotators[key] = _rotator(frame, TURNS[turns])
        frame.pts = self.count
        self.rotators[key].push(frame)
        return self.rotators[key].pull()


def _rotator(frame, filters):
    graph = av.filter.Graph()
    rate = Fraction(1, COPY_RATE)
    last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=rate)
    for name, arguments in [*filters, ("buffersink", None)]:
        step = graph.add(name, arguments)
        last.link_to(step)
        last = step
    graph.configure()
    return graph


def _turns(frame):
    """Degrees counterclockwise that turn a frame upright: 0, 90, 180 or 270."""
    return round(frame.rotation / 90) % 4 * 90


def _change(before, after):
    difference = after - before
    return float(np.abs(difference - np.median(difference)).mean())


def _sound_is_first(path):
    with av.open(str(Path(path).resolve()), container_options=LOCAL_ONLY, metadata_errors="replace") as container:
        return container.streams[0].type == "audio"


@contextmanager
def _as_os_error(target):
    """FFmpeg's errors while a copy is written, told from those of the video that is read."""
    try:
        yield
    except MediaError:
        raise
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
