"""OpenFace's tables on the video's own clock, and what their calibration means for long recordings."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..io.media import MediaError, MissingStreamError, read_timestamps
from .base import FaceTrack, FeatureIdentity

LONG = 30.0  # seconds; longer recordings are no single utterance, and are answered window by window


def on_stream_clock(track: FaceTrack, video: str | Path, name: str = "table") -> FaceTrack:
    """
    The rows of OpenFace at the timestamps of the frames that they were made of. OpenFace itself writes index divided
    by average frame rate, which is wrong where the picture starts late or its frame rate varies.

    Args:
        track ([`FaceTrack`]): Those of other extractors, and one vector per clip, are returned as they are.
        video (`str` or `Path`): The very file that OpenFace read. A sound file leaves the track as it is.
        name (`str`, *optional*, defaults to `"table"`): What to call the table in errors.

    Raises:
        `MediaError`: if the video is damaged, or has more or fewer frames than the table has rows.
    """
    identity = track.identity
    if identity is None or identity.name != "openface" or identity.statistic is not None:
        return track
    try:
        timestamps = read_timestamps(video)
    except MissingStreamError:
        return track
    frames = np.arange(len(track.timestamps)) if track.frames is None else track.frames
    last, is_gapless = int(frames[-1]) + 1, frames[-1] + 1 == len(frames)
    # Of several faces, the one that was kept may be missing from any frames, the last ones too.
    if last > len(timestamps) or (is_gapless and last < len(timestamps)):
        raise MediaError(
            f"OpenFace's {name} reaches frame {last}, but {Path(video).name} has {len(timestamps)} frames. Is it of "
            "another file, or incomplete? Run OpenFace again on this file."
        )
    return replace(track, timestamps=timestamps[frames])


def calibration_note(identity: FeatureIdentity, seconds: float) -> str | None:
    """What a reader of answers about a recording of that length should know of OpenFace's calibration, if anything."""
    settings = identity.settings
    if identity.name != "openface" or settings.get("calibration") == "static":
        return None
    if window := settings.get("calibration_window"):
        is_split = seconds > 1.5 * window
        return f"OpenFace was calibrated on each stretch of about {window:g} s alone." if is_split else None
    if seconds <= LONG:
        return None
    return (
        f"OpenFace may have been calibrated on the whole {seconds:.0f} s, while models are trained on utterances of a "
        "few seconds: expect other answers. Extract again: aver extract --backend openface --calibration-window 3."
    )
