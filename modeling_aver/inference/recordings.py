"""A media file as the two streams of a recording, decoded while they are read, on the container's clock."""

import logging
import math
from pathlib import Path

from ..features import MediaError, MissingStreamError, read_sound
from ..windows import Recording

logger = logging.getLogger(__name__)

NEAREST = 0.75  # of the time between frames at the model's frame rate; what follows sooner is passed over


def open_recording(path, faces, sampling_rate=16_000, streams="both", damage="refuse", name=None, frame_rate=None):
    """
    Both streams of a video, or the one that there is. Nothing is read before the streams are.

    Args:
        path (`str` or `Path`)
        faces ([`FacesOfExtractor`] or [`FacesOfTables`]): Where the features of the face come from.
        sampling_rate (`int`, *optional*, defaults to 16000): Wanted, in Hz.
        streams (`str`, *optional*, defaults to `"both"`): Or `"audio"` or `"video"` alone.
        damage (`str`, *optional*, defaults to `"refuse"`):
            What becomes of a stream that is damaged midway. `"refuse"`: a `MediaError`. `"note"`: it ends there, and
            the recording's notes say so, which is right for long ones.
        name (`str`, *optional*): Of the clip, by which its table is found. Defaults to the file's, without suffix.
        frame_rate (`float`, *optional*):
            The model's, in Hz. Faster video is thinned to about that: twice the frames would weigh twice as much
            beside the sound, in attention and in the mean over both streams, as they did in no training clip.

    Returns:
        [`Recording`]: while it is read, it raises `MediaError` for a file that cannot be used and `ExtractionError`
        where the extractor fails.
    """
    path = Path(path)
    recording = Recording(path.name, sampling_rate)
    if streams != "video":
        recording.sound = _as_far_as_it_goes(read_sound(path, sampling_rate), recording.notes, damage)
    if streams != "audio":
        frames = faces.frames(path, path.stem if name is None else name, recording.notes)
        frames = frames if frame_rate is None else _thinned(frames, NEAREST / frame_rate)
        recording.faces = _as_far_as_it_goes(frames, recording.notes, damage)
    return recording


def log_notes(name: str, notes: list[str]) -> None:
    """Warns of what was noted while a recording was read, where no answer carries it."""
    for note in notes:
        logger.warning("%s: %s", name, note)


def _thinned(frames, gap):
    """Frames that come at least `gap` seconds after the one before them."""
    last = -math.inf
    for row in frames:
        if row[0] - last >= gap - 1e-6:
            last = row[0]
            yield row


def _as_far_as_it_goes(pieces, notes, damage):
    """The pieces of a stream; a missing stream, and one that may be cut short, has none or fewer, and a note."""
    begun = False
    try:
        for piece in pieces:
            yield piece
            begun = True
    except MissingStreamError as error:
        notes.append(str(error))
    except MediaError as error:
        if damage == "refuse" or not begun:
            raise
        notes.append(f"{error} The stream was used as far as it goes.")
