"""A media file as the two streams of a recording, decoded while they are read, on the container's clock."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import av

from ..io.media import LOCAL_ONLY, MediaError, MissingStreamError, read_sound
from ..windows import LONGEST, Recording, cut

logger = logging.getLogger(__name__)

NEAREST = 0.75  # of the time between frames at the model's frame rate; what follows sooner is passed over


@dataclass
class MediaOutline:
    """
    What the packets of a file say, without decoding them.

    Args:
        ends (`dict[str, float]`): By stream, `audio` and `video` if the file has them: seconds from the start of the
            container to the end of the last packet.
        num_frames (`int`): Packets of the picture; one per frame in nearly all formats.
        video_start (`float`): Seconds at which the picture begins.
    """

    ends: dict[str, float]
    num_frames: int = 0
    video_start: float = math.inf

    @property
    def video_seconds(self):
        """Seconds that the picture lasts."""
        return self.ends["video"] - self.video_start


def outline_of(path):
    """
    The [`MediaOutline`] of a file.

    Args:
        path (`str` or `Path`)

    Returns:
        [`MediaOutline`], or `None` for a file that cannot be read: whoever decodes it says why.
    """
    if not Path(path).is_file():  # a pipe would never end
        return None
    try:
        with av.open(str(Path(path).resolve()), container_options=LOCAL_ONLY, metadata_errors="replace") as container:
            return _outline(container)
    except (av.FFmpegError, OSError, ValueError):
        return None


def _outline(container):
    start, outline = (container.start_time or 0) / av.time_base, MediaOutline({})
    pictures = [one for one in container.streams.video if not one.disposition & av.stream.Disposition.attached_pic]
    chosen = [*container.streams.audio[:1], *pictures[:1]]
    for packet in container.demux():
        if packet.pts is None or not packet.size or packet.stream not in chosen:
            continue
        kind, begin = packet.stream.type, float(packet.pts * packet.time_base) - start
        end = begin + float((packet.duration or 0) * packet.time_base)
        outline.ends[kind] = max(outline.ends.get(kind, 0.0), end)
        if kind == "video":
            outline.num_frames += 1
            outline.video_start = min(outline.video_start, begin)
    return outline


def longest_at_once(config):
    """
    Seconds of a clip that a model reads at once.

    Args:
        config ([`AverConfig`])

    Returns:
        `float`: 30, or less where the model has a shorter table of positions.
    """
    longest, encoder = LONGEST, config.audio_config
    if encoder.model_type == "whisper":
        longest = min(longest, encoder.max_source_positions / config.audio_frame_rate)
    if config.position_embedding_type == "learnable":
        longest = min(longest, config.max_position_embeddings / max(config.audio_frame_rate, config.video_frame_rate))
    return longest


def is_longer(path, seconds, streams="both"):
    """Whether the wanted streams of a file last longer than that, by its packets; `False` where it cannot be read."""
    outline = outline_of(path)
    wanted = ("audio", "video") if streams == "both" else (streams,)
    return outline is not None and max((outline.ends.get(stream, 0.0) for stream in wanted), default=0.0) > seconds


def read_at_once(recording, longest=LONGEST):
    """
    A clip as one window.

    Args:
        recording ([`Recording`])
        longest (`float`, *optional*, defaults to 30.0): Seconds that it may last.

    Returns:
        [`Window`], or `None` for a longer recording.
    """
    windows = cut(recording, longest, longest)
    window = next(windows)
    return window if next(windows, None) is None else None


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
