"""The real clips made anew by PyAV: at other frame rates, without a stream, dark, doubled, joined to long ones."""

from fractions import Fraction

import av
import numpy as np

from datasets_scripts import SAMPLE_DIR
from modeling_aver.io.media import read_audio, read_frames

CLIPS = sorted((SAMPLE_DIR / "VideoFlash").glob("*.flv"))
RATE = 16_000
MILLISECOND = Fraction(1, 1000)


def remake(path, frames, sound, codec="libx264"):
    """
    Writes a video.

    Args:
        path (`Path`): Its suffix says the container.
        frames (iterable of `(seconds, pixels)`): RGB of shape `(height, width, 3)`; `None` for none.
        sound (`np.ndarray` of shape `(num_samples,)` or an iterable of such): At 16 kHz; `None` for none.
    """
    with av.open(str(path), "w") as container:
        speaker = None if sound is None else container.add_stream("aac", rate=RATE, layout="mono")
        screen = None if frames is None else container.add_stream(codec, rate=30, options={"preset": "ultrafast"})
        if screen is not None:
            screen.pix_fmt, screen.codec_context.time_base = "yuv420p", MILLISECOND
            _show(container, screen, frames)
        if speaker is not None:
            _speak(container, speaker, [sound] if isinstance(sound, np.ndarray) else sound)
    return path


def clip(index=0):
    """(frames, sound) of a real clip."""
    return list(read_frames(CLIPS[index])), read_audio(CLIPS[index])


def at_rate(frames, rate):
    """The frames shown at an even rate (Hz), each moment with the picture that was there."""
    times = np.array([seconds for seconds, _ in frames])
    end = times[-1] + np.median(np.diff(times))
    moments = times[0] + np.arange(int((end - times[0]) * rate)) / rate
    return [(second, frames[np.searchsorted(times, second + 1e-6, side="right") - 1][1]) for second in moments]


def unevenly(frames, seed=0):
    """About a third of the frames left out, the first and the last kept: a variable frame rate."""
    kept = np.random.default_rng(seed).random(len(frames)) > 1 / 3
    kept[[0, -1]] = True
    return [frame for frame, keep in zip(frames, kept, strict=True) if keep]


def joined(seconds):
    """(frames, sound) of the six clips one after another, again and again; nothing is held but one clip."""
    return _frames_for(seconds), _sound_for(seconds)


def _frames_for(seconds):
    for start, index, length in _turns(seconds):
        for second, pixels in read_frames(CLIPS[index]):
            if second < length and start + second < seconds:
                yield start + second, pixels


def _sound_for(seconds):
    for start, index, length in _turns(seconds):
        sound = read_audio(CLIPS[index])[: round(length * RATE)]
        sound = np.pad(sound, (0, max(round(length * RATE) - len(sound), 0)))
        yield sound[: round((seconds - start) * RATE)]


def _turns(seconds):
    """(start, index of the clip, seconds of it) of each clip in a long recording."""
    start, turn = 0.0, 0
    while start < seconds:
        index = turn % len(CLIPS)
        length = 2.0
        yield start, index, length
        start, turn = start + length, turn + 1


def _show(container, stream, frames):
    for second, pixels in frames:
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        if not stream.codec_context.is_open:
            stream.width, stream.height = frame.width, frame.height
        frame.pts, frame.time_base = round(second * 1000), MILLISECOND
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _speak(container, stream, pieces):
    position, fifo = 0, av.AudioFifo()
    for piece in pieces:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece[None], np.float32), "flt", "mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, position, Fraction(1, RATE)
        position += len(piece)
        fifo.write(frame)
        while (ready := fifo.read(1024)) is not None:
            _encode(container, stream, ready)
    if (rest := fifo.read(0, partial=True)) is not None:
        _encode(container, stream, rest)
    container.mux(stream.encode(None))


def _encode(container, stream, frame):
    container.mux(stream.encode(frame))
