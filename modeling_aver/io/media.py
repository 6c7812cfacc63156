"""Sound and pictures out of media files, on one clock, by PyAV, which carries its own ffmpeg.

The clock is the container's: second 0 is its first moment, whichever stream begins it. `read_audio` puts silence
before sound that starts later, and the timestamps of frames count from the same moment, so the two can be compared.
"""

import io
import lzma
import os
import zipfile
import zlib
from itertools import chain
from pathlib import Path

import av
import numpy as np
import soundfile

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
MAX_PIXELS = 2**26  # of a frame: 8192 x 8192. A damaged header promises more, and one such frame would fill the memory
MAX_GAP = 3600.0  # seconds of nothing before sound or picture; damaged timestamps promise years of it
TOLERATED = 0.5  # seconds that timestamps of sound may be off the samples before them; more, and sound is missing
MAX_LOSS = 0.2  # seconds that a clip may end before the moment its header promises; rounding costs a frame or two
# Formats that store their duration. Elsewhere ffmpeg guesses it from the bit rate, which proves nothing.
STORED_DURATION = ("flv", "mov", "matroska", "avi", "asf")
# A playlist may name other files; nothing here fetches what it names from a network. Given to the container alone: as
# `options` of the streams too, PyAV before 18 crashes on files whose streams appear while they are read, as in FLV.
LOCAL_ONLY = {"protocol_whitelist": "file,crypto,data"}
# Bytes of one packed file: no clip or table comes near, and a damaged or hostile one promises more.
MAX_UNPACKED = 2**29
# What reading a damaged, encrypted or hostile zip raises; NotImplementedError is a RuntimeError.
ZIP_ERRORS = (
    *(OSError, EOFError, RuntimeError, KeyError, ValueError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
LONGEST_REASON = 200  # characters


class MediaError(ValueError):
    """A file that cannot be used, with its name and the reason."""


class MissingStreamError(MediaError):
    """A file that is sound, but holds no sound or no picture."""


def read_audio(source, sampling_rate=16_000, name=None):
    """
    Sound of an audio or video file, whatever its format, rate and channels.

    Args:
        source (`str`, `Path` or `bytes`): A file, or a file's content.
        sampling_rate (`int`, *optional*, defaults to 16000): Wanted, in Hz.
        name (`str`, *optional*): What to call the clip in errors. Defaults to the file's name.

    Returns:
        `np.ndarray` of shape `(num_samples,)`: float32 in [-1, 1], the mean of the channels. Sample 0 is the moment at
        which the container starts: silence fills the gap before later sound, so that both streams stay on one clock.

    Raises:
        `MediaError`: if the file is missing, empty, a Git-LFS pointer, damaged, or has no sound.
    """
    name = name or ("audio" if isinstance(source, bytes) else Path(source).name)
    content = source if isinstance(source, bytes) else read_bytes(source)
    check_is_media(content, name)
    if (samples := _plain_samples(content, sampling_rate)) is not None:
        return samples
    # ffmpeg reads a file faster than it calls back for bytes that are there.
    place = io.BytesIO(content) if isinstance(source, bytes) else _address(source)
    return _finite(np.concatenate(list(_sound(place, sampling_rate, name))), name)


def read_sound(path, sampling_rate=16_000):
    """
    What [`read_audio`] gives of a file, piece by piece and in constant memory.

    Args:
        path (`str` or `Path`): An audio or video file.
        sampling_rate (`int`, *optional*, defaults to 16000): Wanted, in Hz.

    Yields:
        `np.ndarray` of shape `(num_samples,)`: joined, they are the array of [`read_audio`].

    Raises:
        `MediaError`: as [`read_audio`], once the reading has come so far.
    """
    name = Path(path).name
    check_is_media(_head(path), name)
    yield from (_finite(piece, name) for piece in _sound(_address(path), sampling_rate, name))


def read_frames(path):
    """
    Pictures of a video file one after another, upright, in constant memory.

    Args:
        path (`str` or `Path`): A video file.

    Yields:
        `tuple[float, np.ndarray]`: seconds on the clock of [`read_audio`]; RGB of shape `(height, width, 3)`, uint8.

    Raises:
        `MediaError`: if the file is missing, empty, a Git-LFS pointer, without picture, damaged, cut short, larger
        than `MAX_PIXELS`, or runs backwards in time.
    """
    for seconds, frame in timed_frames(path):
        # ffmpeg gives the angle of the display matrix counterclockwise, as np.rot90 turns.
        yield seconds, np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def read_timestamps(path):
    """
    When each picture of a video file is shown, as [`read_frames`] tells it, at a variable rate or not.

    Returns:
        `np.ndarray` of shape `(num_frames,)`: seconds, float64, never decreasing.
    """
    return np.array([seconds for seconds, _ in timed_frames(path)])


def read_bytes(path):
    """Content of a file; `MediaError` with its name where there is none."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise MediaError(f"{Path(path).name} cannot be read: {error.strerror} ({path}).") from error


def one_line(error):
    """What an error says, for the one line that a user reads: decoders quote the bytes that they stumble on."""
    words = " ".join(str(error).split()) or type(error).__name__
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in words)
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"


def check_is_media(content, name):
    """Refuses empty files and Git-LFS pointers, which stand where a clone has not fetched the real file."""
    if not content:
        raise MediaError(f"{name} is empty (0 bytes).")
    if content.startswith(LFS_POINTER):
        raise MediaError(
            f"{name} is a Git-LFS pointer, not the file itself. Fetch the files in your clone: "
            "git lfs install && git lfs pull"
        )


def _plain_samples(content, sampling_rate):
    """
    What [`_sound`] gives of a whole 16-bit WAV file at the wanted rate, by libsndfile: in a twentieth of the time, for
    ffmpeg first looks what it might be. That is what the rows of a dataset hold. `None` for anything else.
    """
    if content[:4] != b"RIFF" or int.from_bytes(content[4:8], "little") + 8 != len(content):
        return None
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if file.subtype != "PCM_16" or file.samplerate != sampling_rate or not file.frames:
                return None
            return file.read(dtype="float32", always_2d=True).mean(axis=1)  # (num_samples, channels)
    except soundfile.LibsndfileError:
        return None


def _sound(source, sampling_rate, name):
    """Pieces (num_samples,) of float32; the first sample is the container's first moment."""
    try:
        with av.open(source, container_options=LOCAL_ONLY, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise MissingStreamError(f"{name} has no sound: it holds {_described(container)}.")
            _check_decoder(container.streams.audio[0], name)
            yield from _on_the_clock(_decode_audio(container, sampling_rate, name), sampling_rate, name)
    except av.FFmpegError as error:
        raise MediaError(f"{name} cannot be decoded ({error}). Is it damaged or cut short?") from error


def _finite(samples, name):
    """The samples themselves. One look at many costs what one at a few does, and codecs give tens of pieces."""
    if not np.isfinite(samples.sum()):
        raise MediaError(f"{name} holds sound that is not finite (NaN or infinite samples). Make it again.")
    return samples


def _on_the_clock(pieces, sampling_rate, name):
    """Pieces with silence before sound that starts late, and without what comes before the container's start."""
    early = None
    for start, piece in pieces:
        if early is None:
            if abs(start) > MAX_GAP:
                raise MediaError(
                    f"{name}: sound starts {start:.0f} s after the container. Its timestamps are damaged."
                )
            offset = round(start * sampling_rate)
            early = max(-offset, 0)
            yield np.zeros(max(offset, 0), np.float32)
        if early:
            piece, early = piece[early:], max(early - len(piece), 0)
        yield piece
    if early is None:
        raise MissingStreamError(f"{name} has an audio stream but no sample of sound in it.")


def _decode_audio(container, sampling_rate, name):
    """(seconds from the container's start to the first sample, mean of the channels) of one piece after another."""
    resampler = MonoResampler(sampling_rate)
    origin, start, due, last = _first_moment(container), None, 0.0, 0.0
    for frame in chain(container.decode(container.streams.audio[0]), [None]):  # None: what the resampler holds back
        moment = None if frame is None or frame.time is None else frame.time - origin
        if start is None:
            start = due = last = moment or 0.0
        elif moment is not None:
            _check_step(moment, last, name)
            lost = _silence(moment - due, sampling_rate)
            yield from ((start, silence) for silence in lost)
            due, last = (moment if lost else due), moment
        if frame is not None:
            due += frame.samples / frame.sample_rate
            frame.pts = None  # timestamps of old .flv files jitter; samples are what counts
        try:
            pieces = resampler(frame)
        except ValueError as error:
            raise MediaError(f"{name} is damaged: its sound changes rate or channels midway ({error}).") from error
        yield from ((start, piece) for piece in pieces if piece.size)


def _check_step(moment, last, name):
    if last - moment > TOLERATED:
        raise MediaError(f"{name} runs backwards in time: sound of {moment:.2f} s comes after that of {last:.2f} s.")
    if moment - last > MAX_GAP:
        raise MediaError(f"{name}: sound leaps from {last:.0f} to {moment:.0f} s. Its timestamps are damaged.")


def _silence(seconds, sampling_rate):
    """
    Silence for sound that was lost, so that what follows stays with the picture: an array a second at most. None for
    less than `TOLERATED`, nor where there are more samples than time: then a clock is a little fast, and none is lost.
    """
    if seconds <= TOLERATED:
        return []
    count = round(seconds * sampling_rate)
    return [np.zeros(min(sampling_rate, count - start), np.float32) for start in range(0, count, sampling_rate)]


class MonoResampler:
    """
    Frames of sound to pieces `(num_samples,)` of float32 at one rate, the mean of the channels. `None` asks for what
    is held back. Channels are averaged here, and first: ffmpeg's own way to mono adds them up, and leaves [-1, 1].
    They come packed, for PyAV ends the process on eight planes or more, as arrays of microphones have.
    """

    def __init__(self, sampling_rate):
        self.channels = av.AudioResampler(format="flt")
        self.rate = av.AudioResampler(format="fltp", layout="mono", rate=sampling_rate)

    def __call__(self, frame):
        is_mono = frame is None or frame.layout.nb_channels == 1
        frames = [frame] if is_mono else map(self._averaged, self.channels.resample(frame))
        return [piece.to_ndarray()[0] for part in frames for piece in self.rate.resample(part)]

    @staticmethod
    def _averaged(frame):
        samples = frame.to_ndarray().reshape(frame.samples, -1)
        mono = av.AudioFrame.from_ndarray(samples.mean(axis=1)[None], "fltp", "mono")
        mono.sample_rate = frame.sample_rate
        return mono


def timed_frames(path):
    """(seconds, `av.VideoFrame`) of each picture; see [`read_frames`]."""
    name = Path(path).name
    check_is_media(_head(path), name)
    try:
        with av.open(_address(path), container_options=LOCAL_ONLY, metadata_errors="replace") as container:
            yield from _checked_frames(container, name)
    except av.FFmpegError as error:
        raise MediaError(f"{name} cannot be decoded ({error.strerror}). Is it damaged or cut short?") from error


def _checked_frames(container, name):
    stream, origin = _picture(container, name), _first_moment(container)
    rate = stream.average_rate or stream.guessed_rate
    count, last, end = 0, -np.inf, 0.0
    for packet in container.demux():
        if packet.pts is not None and packet.time_base:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - origin)
        for frame in packet.decode() if packet.stream_index == stream.index else ():
            seconds = _seconds(frame, origin, count, rate, name)
            _check_frame(frame, packet, seconds, last, name, count)
            yield seconds, frame
            count, last = count + 1, seconds
    if not count:
        raise MissingStreamError(f"{name} has a video stream but no picture in it.")
    _check_whole(container, end, name)


def _head(path):
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise MediaError(f"{Path(path).name} is not a file ({path}).")  # a pipe would never end
        with open(path, "rb") as file:
            return file.read(len(LFS_POINTER))
    except OSError as error:
        raise MediaError(f"{Path(path).name} cannot be read: {error.strerror} ({path}).") from error


def _address(path):
    """The whole path: one such as `--x` or `concat:x` would mean something else to ffmpeg."""
    address = str(Path(path).resolve())
    try:
        address.encode()
    except UnicodeEncodeError:
        raise MediaError(f"The name of {address} is not UTF-8, which ffmpeg wants. Rename it.") from None
    return address


def _picture(container, name):
    """The first video stream that moves: not the cover that music files carry."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            _check_decoder(stream, name)
            _check_size(stream.codec_context, name)
            return stream
    raise MissingStreamError(f"{name} has no picture: it holds {_described(container)}.")


def _check_decoder(stream, name):
    if stream.codec_context is None:
        raise MediaError(f"{name} holds {stream.type} that nothing here can decode. Is it damaged or cut short?")


def _seconds(frame, origin, index, rate, name):
    if frame.time is not None:
        return frame.time - origin
    if not rate:
        raise MediaError(f"{name} has neither timestamps nor a frame rate. Remux it: ffmpeg -i {name} -c copy …")
    return float(index / rate)


def _check_frame(frame, packet, seconds, last, name, index):
    _check_size(frame, name)
    if packet.is_corrupt or frame.is_corrupt:
        raise MediaError(f"{name} is damaged at frame {index} ({seconds:.2f} s).")
    if seconds - max(last, 0.0) > MAX_GAP:
        raise MediaError(f"{name} leaps to {seconds:.0f} s at frame {index}. Its timestamps are damaged.")
    if seconds < last:
        raise MediaError(f"{name} runs backwards in time: frame {index} is at {seconds:.3f} s, after {last:.3f} s.")


def _check_size(picture, name):
    if picture.width * picture.height > MAX_PIXELS:
        raise MediaError(
            f"{name} claims {picture.width}x{picture.height} pixels, more than {MAX_PIXELS}. Is it damaged?"
        )


def _check_whole(container, end, name):
    """Refuses a file that ends long before the moment its header promises, as a broken download does."""
    promised = (container.duration or 0) / av.time_base
    end = max(end, end + _first_moment(container))  # some formats count from zero, not from their first moment
    if container.format.name.startswith(STORED_DURATION) and promised - end > max(MAX_LOSS, 0.1 * promised):
        raise MediaError(f"{name} ends after {end:.2f} s of the {promised:.2f} s in its header. Is it cut short?")


def _first_moment(container):
    return (container.start_time or 0) / av.time_base


def _described(container):
    kinds = {stream.type for stream in container.streams}
    doubt = "" if kinds & {"audio", "video"} else " (is it damaged or cut short?)"
    return (f"only {', '.join(sorted(kinds))}" if kinds else "no stream at all") + doubt
