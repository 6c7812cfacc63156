"""Sound out of media files by PyAV, which carries its own ffmpeg."""

import io
from pathlib import Path

import av
import numpy as np

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class MediaError(ValueError):
    """A file that cannot be used, with its name and the reason."""


def read_audio(source, sampling_rate=16_000, name=None):
    """
    Sound of an audio or video file, whatever its format, rate and channels.

    Args:
        source (`str`, `Path` or `bytes`): A file, or a file's content.
        sampling_rate (`int`, *optional*, defaults to 16000): Wanted, in Hz.
        name (`str`, *optional*): What to call the clip in errors. Defaults to the file's name.

    Returns:
        `np.ndarray` of shape `(num_samples,)`: mono float32 in [-1, 1]. Sample 0 is the container's time 0: where sound
        starts later than the picture, silence fills the gap, so that both stay on one clock.

    Raises:
        `MediaError`: if the file is missing, empty, a Git-LFS pointer, damaged, or has no sound.
    """
    name = name or ("audio" if isinstance(source, bytes) else Path(source).name)
    content = source if isinstance(source, bytes) else read_bytes(source)
    check_is_media(content, name)
    try:
        with av.open(io.BytesIO(content)) as container:
            if not container.streams.audio:
                raise MediaError(f"{name} has no sound: it holds {_described(container)}.")
            chunks, start = _decode(container, sampling_rate)
    except av.FFmpegError as error:
        raise MediaError(f"{name} cannot be decoded ({error}). Is it damaged or cut short?") from error
    if not chunks:
        raise MediaError(f"{name} has an audio stream but no sample of sound in it.")
    offset = round(start * sampling_rate)
    waveform = np.concatenate(chunks)
    return np.concatenate([np.zeros(max(offset, 0), np.float32), waveform[max(-offset, 0) :]])


def read_bytes(path):
    """Content of a file; `MediaError` with its name where there is none."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise MediaError(f"{Path(path).name} cannot be read: {error.strerror} ({path}).") from error


def check_is_media(content, name):
    """Refuses empty files and Git-LFS pointers, which stand where a clone has not fetched the real file."""
    if not content:
        raise MediaError(f"{name} is empty (0 bytes).")
    if content.startswith(LFS_POINTER):
        raise MediaError(
            f"{name} is a Git-LFS pointer, not the file itself. Fetch the files in your clone: "
            "git lfs install && git lfs pull"
        )


def _decode(container, sampling_rate):
    """Chunks of mono float32 samples, and the first one's time in seconds after the container's first moment."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=sampling_rate)
    chunks, start = [], 0.0
    for frame in container.decode(container.streams.audio[0]):
        if not chunks and frame.time is not None:
            start = frame.time - (container.start_time or 0) / av.time_base
        frame.pts = None  # timestamps of old .flv files jitter; samples are what counts
        chunks.extend(part.to_ndarray()[0] for part in resampler.resample(frame))
    chunks.extend(part.to_ndarray()[0] for part in resampler.resample(None))
    return chunks, start


def _described(container):
    kinds = [stream.type for stream in container.streams]
    return f"only {', '.join(kinds)}" if kinds else "no stream at all"
