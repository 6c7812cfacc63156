"""A person's profile from recordings of them, whoever says what in which emotion."""

import torch
from rich.console import Console

from ..features.base import ExtractionError
from ..io.media import MediaError
from ..io.progress import count_progress
from ..pipeline_aver import STREAMS
from ..training.speaker_statistics import ProfileEstimator
from ..windows import cut
from .recordings import log_notes, open_recording

WINDOW = 10.0  # seconds; a longer recording counts as several clips
SHORTEST = 1.0  # seconds of the rest of a recording that still count as a clip
SHORTEST_SOUND = 0.1  # seconds; every encoder makes a frame of them
ENOUGH = 10  # clips


def enroll_speaker(model, processor, clips, faces, streams="both", batch_size=8):
    """
    The profile of the person in some recordings, of any length: they are cut into windows of 10 s, each of which
    counts as a clip. One window after another is read, nothing is kept.

    Args:
        model ([`AverForEmotionClassification`]), processor ([`AverProcessor`]): Whose profile it becomes.
        clips (`list[Clip]`): Recordings of this one person, see [`find_clips`].
        faces ([`FacesOfExtractor`] or [`FacesOfTables`]): `None` where `streams` is `"audio"`.
        streams (`str`, *optional*, defaults to `"both"`): Or `"audio"` or `"video"` alone.
        batch_size (`int`, *optional*, defaults to 8): Windows at a time.

    Returns:
        `tuple[SpeakerProfile, dict[str, str]]`: the profile, and of each recording that cannot be used (from some
        place on) the reason.

    Raises:
        `ValueError`: if a profile would change nothing for this model, or no recording can be used.
    """
    estimator, failed = ProfileEstimator(model, processor), {}
    windows = []
    for window in _windows(clips, faces, processor.feature_extractor.sampling_rate, streams, failed):
        windows.append(window)
        if len(windows) == batch_size:
            _add(estimator, processor, windows)
            windows = []
    _add(estimator, processor, windows)
    return estimator.profile(), failed


def _windows(clips, faces, sampling_rate, streams, failed):
    with count_progress("enroll", len(clips)) as advance:
        for clip in clips:
            recording = open_recording(clip.path, faces, sampling_rate, streams, name=clip.name)
            try:
                for window in cut(recording, WINDOW, WINDOW):
                    if window.start == 0 or window.end - window.start >= SHORTEST:
                        yield window
            except (MediaError, ExtractionError) as error:
                failed[str(clip.path)] = str(error)
            log_notes(clip.name, recording.notes)
            advance()


def _add(estimator, processor, windows):
    faces = [torch.from_numpy(window.features[window.success]) for window in windows]
    rate = processor.feature_extractor.sampling_rate
    sounds = [window.sound for window in windows if len(window.sound) >= SHORTEST_SOUND * rate]
    estimator.add(faces, processor(audio=sounds, sampling_rate=rate) if sounds and estimator.hears else {})


def check_streams(streams):
    """Refuses a word that names no streams."""
    if streams not in STREAMS:
        raise ValueError(f"`streams` ({streams!r}) may be {', '.join(STREAMS)}.")


def print_enrollment(profile, failed, path):
    """Prints what entered a profile, what did not (`failed`, with reasons), and whether it is enough."""
    console = Console(highlight=False, soft_wrap=True)
    clips = f"{profile.num_clips} clip{'' if profile.num_clips == 1 else 's'}"
    heard = "" if profile.audio_mean is None else f", {profile.audio_seconds:.1f} s of sound"
    seen = "" if profile.action_unit_mean is None else f", {profile.num_faces:,} pictures with a face"
    console.print(f"{path}: {clips}{heard}{seen}.", markup=False)
    for name, reason in failed.items():
        console.print(f"{name} is left out: {reason}", markup=False)
    if profile.num_clips < ENOUGH:
        console.print(
            f"That is less than {ENOUGH} clips: what was said in them enters the profile with who said it. Give more, "
            "and in many moods: a profile of one mood takes it for the person.",
            markup=False,
        )
