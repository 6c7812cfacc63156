"""A clip as browsers play it: small H.264 and AAC in MP4, whatever was recorded."""

import io
from fractions import Fraction

import av
import numpy as np

from ..io.media import MediaError, read_frames

TALLEST = 360  # pixels
FASTEST = 1 / 31  # seconds between pictures that are kept
MILLISECOND = Fraction(1, 1000)


def browser_video(path, sound, sampling_rate, max_seconds):
    """
    A copy of a video to be looked at, not measured: at most `TALLEST` pixels high, 30 pictures a second.

    Args:
        path (`str` or `Path`): What `read_frames` reads; its pictures are used as far as they go.
        sound (`np.ndarray` of shape `(num_samples,)`): Already decoded; may be empty.
        sampling_rate (`int`): Of the sound, in Hz.
        max_seconds (`float`): Where it ends.

    Returns:
        `bytes` of an MP4 file.

    Raises:
        `MediaError`: if there is no picture to show.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        screen = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "28"})
        screen.pix_fmt, screen.codec_context.time_base = "yuv420p", MILLISECOND
        speaker = container.add_stream("aac", rate=sampling_rate, layout="mono") if len(sound) else None
        if not _show(container, screen, path, max_seconds):
            raise MediaError("There is no picture to show.")
        if speaker is not None:
            _speak(container, speaker, sound[: round(max_seconds * sampling_rate)], sampling_rate)
    return file.getvalue()


def _show(container, stream, path, max_seconds):
    """Writes the pictures; how many."""
    last, count = -1.0, 0
    try:
        for seconds, pixels in read_frames(path):
            if seconds > max_seconds:
                break
            if seconds - last < FASTEST or seconds < 0:
                continue
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if not count:
                stream.width, stream.height = _size(frame)
            frame = frame.reformat(stream.width, stream.height, "yuv420p")
            frame.pts, frame.time_base = round(seconds * 1000), MILLISECOND
            container.mux(stream.encode(frame))
            last, count = seconds, count + 1
    except MediaError:
        pass  # damaged midway: the answer's notes say so
    if count:
        container.mux(stream.encode(None))
    return count


def _size(frame):
    """Even width and height, as H.264 wants them."""
    share = min(1.0, TALLEST / frame.height)
    return tuple(max(round(length * share / 2) * 2, 2) for length in (frame.width, frame.height))


def _speak(container, stream, sound, sampling_rate):
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None], np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts, frame.time_base = sampling_rate, 0, Fraction(1, sampling_rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
