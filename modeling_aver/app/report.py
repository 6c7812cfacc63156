"""All that the web page says of one clip: emotions over time, what each stream says alone, which moments match.

Nothing here knows the page. What a stranger gives is bounded in size and seconds, read once and never run.
"""

import io
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..analysis.dynamics import alignments, plot_alignment
from ..inference.faces import FacesOfExtractor
from ..inference.predict import WINDOW
from ..inference.recordings import open_recording
from ..io.media import MediaError
from ..windows import LONGEST, ONE_FRAME, Recording, whole
from .face_count import SEVERAL, shows_several_faces
from .preview import browser_video

SHORTEST_WINDOW = 1.0  # seconds
HOPS = 4  # in a window
BATCH = 8  # windows that the model hears and sees together
NO_FACE = "this page cannot extract features of the face for this model"
SOUND_ALONE = f"Answered by the sound alone: {NO_FACE}, and no table was uploaded beside the video."


@dataclass(frozen=True)
class Limits:
    """What a clip may be: bytes of its file, and seconds."""

    max_bytes: int = 100 * 2**20
    max_seconds: float = 120.0

    def __post_init__(self):
        if self.max_bytes < 1 or not self.max_seconds > 0:
            raise ValueError(
                f"A clip may have {self.max_bytes} bytes and {self.max_seconds} s: both must be positive."
            )

    def check_file(self, path, name):
        """Refuses a file that is too large, before it is read."""
        size = Path(path).stat().st_size
        if size > self.max_bytes:
            raise MediaError(
                f"{name} has {size / 2**20:.1f} MB, more than the {self.max_bytes / 2**20:g} MB that this page takes."
            )

    def check_seconds(self, seconds, name):
        """Refuses what goes on too long, as soon as it does; what headers promise is not believed."""
        if seconds > self.max_seconds:
            raise MediaError(
                f"{name} is longer than the {self.max_seconds:g} s that this page takes. Upload a part of it."
            )


@dataclass(frozen=True)
class ClipReport:
    """
    What is known of one clip.

    Args:
        name (`str`): Of the file, without suffix.
        labels (`list[str]`): Emotions, in the model's order.
        timeline (`dict`): The pipeline's answer over time.
        streams (`dict[str, dict]`): The pipeline's answer to the whole clip by `both`, `audio` and `video`; a stream
            that is missing has none, and `both` is there where both are.
        alignment (`bytes`, *optional*): PNG of how alike sound and face are, frame by frame.
        preview (`bytes`, *optional*): MP4 to look at; `None` without pictures.
        profile_clips (`int`, *optional*, defaults to 0): How many clips of the person the answers are calibrated on.
    """

    name: str
    labels: list[str]
    timeline: dict
    streams: dict[str, dict]
    alignment: bytes | None = None
    preview: bytes | None = None
    profile_clips: int = 0

    @property
    def answer(self):
        """`dict`: by both streams, or by the one that there is."""
        return next(iter(self.streams.values()))


def report_clip(recognize, path, faces, limits, speaker_profile=None, name=None):
    """
    Reads a clip once and answers all questions about it.

    Args:
        recognize ([`EmotionPipeline`])
        path (`str` or `Path`): A media file.
        faces ([`FacesOfExtractor`] or [`FacesOfTables`], *optional*): Without it, the sound alone answers.
        limits ([`Limits`])
        speaker_profile ([`SpeakerProfile`], *optional*): Of the one person in it.
        name (`str`, *optional*): Defaults to the file's.

    Returns:
        [`ClipReport`]

    Raises:
        `MediaError`: if it is too large, too long or cannot be read. `ExtractionError`: if the extractor failed.
        `ValueError`: if it has neither sound nor a face.
    """
    name = Path(path).name if name is None else name
    limits.check_file(path, name)
    recording = _in_memory(open_clip(recognize, path, faces, name), limits)
    if faces is None and not recording.sound:
        raise MediaError(f"{name} has no sound, and {NO_FACE}. Upload a table of its face features beside it.")
    ask = {} if speaker_profile is None else {"speaker_profile": speaker_profile}
    seconds = _seconds(recording)
    window = min(WINDOW, max(round(seconds / 2, 1), SHORTEST_WINDOW))
    timing = {"window": window, "hop": window / HOPS, "batch_size": BATCH}
    timeline = recognize(recording, **timing, **ask)
    streams = _by_stream(recognize, recording, timeline, {} if seconds < LONGEST else timing, ask)
    preview = _preview(path, recording, limits)
    notes = [*timeline["notes"], *_notes_on_faces(faces, preview, seconds)]
    return ClipReport(
        Path(name).stem,
        list(recognize.model.config.id2label.values()),
        {**timeline, "notes": notes, "emotions": next(iter(streams.values()))["emotions"]},
        streams,
        _alignment(recognize, recording, speaker_profile),
        preview,
        0 if speaker_profile is None else speaker_profile.num_clips,
    )


def open_clip(recognize, path, faces, name):
    """The [`Recording`] of a file that may have lost its name on the way; a table of features is found by it."""
    extractor = recognize.processor.feature_extractor
    streams = "audio" if faces is None else "both"
    rates = extractor.sampling_rate, extractor.video_frame_rate
    return open_recording(path, faces, rates[0], streams, "note", Path(name).stem, rates[1])


def _in_memory(recording, limits):
    """The same with all of its sound and frames, to be read again and again."""
    rate, name, pieces, count, rows = recording.sampling_rate, recording.name, [], 0, []
    for row in recording.faces:
        limits.check_seconds(row[0], name)
        rows.append(row)
    for piece in recording.sound:
        count += len(piece)
        limits.check_seconds(count / rate, name)
        pieces.append(piece)
    return Recording(name, rate, pieces, rows, list(dict.fromkeys(recording.notes)))


def _seconds(recording):
    heard = sum(map(len, recording.sound)) / recording.sampling_rate
    return max(heard, recording.faces[-1][0] + ONE_FRAME if recording.faces else 0.0)


def _by_stream(recognize, recording, timeline, timing, ask):
    """Answers to the whole clip: at once, or with `timing` as the mean over time, where it is too long for that."""
    parts = {"both": recording, "audio": replace(recording, faces=[]), "video": replace(recording, sound=[])}
    used = timeline["streams"] if len(timeline["streams"]) == 1 else list(parts)
    known = {used[0]: timeline} if timing else {}
    return {stream: known.get(stream) or recognize(parts[stream], **timing, **ask) for stream in used}


@torch.inference_mode()
def _alignment(recognize, recording, speaker_profile):
    """PNG of the first `LONGEST` seconds, where both streams are there and the model compares them."""
    if recognize.model.config.ctm_loss_weight == 0:
        return None
    window = whole(_beginning(recording, LONGEST))
    if not recognize._heard(window) or not window.success.any():
        return None
    inputs = recognize._inputs([window], [(True, True)], speaker_profile)
    found = alignments(recognize.model(**inputs.to(recognize.device)))
    if not found:
        return None
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context({"font.size": 13}):  # read on a phone too
        plot_alignment(found[0], file)
    return file.getvalue()


def _beginning(recording, seconds):
    sound = np.concatenate([np.zeros(0, np.float32), *recording.sound])
    rows = itertools.takewhile(lambda row: row[0] < seconds - ONE_FRAME, recording.faces)
    return replace(recording, sound=[sound[: round(seconds * recording.sampling_rate)]], faces=list(rows))


def _notes_on_faces(faces, preview, seconds):
    """What a reader should know about the face in the picture, if there is a picture."""
    if preview is None:
        return []
    if faces is None:
        return [SOUND_ALONE]
    several = isinstance(faces, FacesOfExtractor) and shows_several_faces(faces.extractor, preview, seconds)
    return [SEVERAL] if several else []


def _preview(path, recording, limits):
    try:
        sound = np.concatenate([np.zeros(0, np.float32), *recording.sound])
        return browser_video(path, sound, recording.sampling_rate, limits.max_seconds)
    except MediaError:
        return None  # a sound file
