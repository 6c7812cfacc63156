"""Small real media files, whole and broken, made by PyAV in a test's own folder."""

from fractions import Fraction

import av
import numpy as np

MILLISECOND = Fraction(1, 1000)


def write_video(
    path, milliseconds=range(0, 400, 40), size=(64, 48), sound=None, sound_start=0, codec="mpeg4", **options
):
    """A video whose frame `i` is shown at `milliseconds[i]` and is as bright as `i`; `sound` from `tone`, if any."""
    with av.open(str(path), "w", options={key: str(value) for key, value in options.items()}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = MILLISECOND
        speaker = None if sound is None else _add_sound(container, sound)
        for index, pts in enumerate(milliseconds):
            pixels = np.full((size[1], size[0], 3), 10 * index % 250, np.uint8)
            pixels[: size[1] // 2, : size[0] // 2] = 255  # the upper left is white: which way is up
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = pts, MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _write_sound(container, speaker, sound, sound_start)
    return path


def tone(seconds=0.4, rate=16_000, layout="mono", hertz=440.0):
    """An `av.AudioFrame` of a sine at half of full scale, the same in each channel."""
    samples = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)
    count = av.AudioLayout(layout).nb_channels
    frame = av.AudioFrame.from_ndarray(
        np.tile((samples * 32767).astype(np.int16), (count, 1)).T.reshape(1, -1), "s16", layout
    )
    frame.sample_rate = rate
    return frame


def write_sound(path, sound):
    """A file of sound alone."""
    with av.open(str(path), "w") as container:
        _write_sound(container, _add_sound(container, sound), sound, 0)
    return path


def cut(path, share=0.5):
    """The first part of a file, as a broken download leaves it."""
    content = path.read_bytes()
    path.write_bytes(content[: round(len(content) * share)])
    return path


def flip(path, count=200, seed=0):
    """Turns bytes over, anywhere in the file."""
    content = bytearray(path.read_bytes())
    for place in np.random.default_rng(seed).integers(0, len(content), count):
        content[place] ^= 0xFF
    path.write_bytes(content)
    return path


def _add_sound(container, sound):
    stream = container.add_stream("pcm_s16le", rate=sound.sample_rate)
    stream.codec_context.layout = sound.layout
    return stream


def _write_sound(container, stream, sound, start):
    sound.pts, sound.time_base = round(start * sound.sample_rate), Fraction(1, sound.sample_rate)
    container.mux(stream.encode(sound))
    container.mux(stream.encode(None))
