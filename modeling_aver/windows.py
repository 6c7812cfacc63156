"""A recording of any length in windows, and the answers to its windows as one track over time.

Both streams come in pieces and only the window at work is kept. Windows are cut by time, on the recording's own clock:
window k covers `[k × hop, k × hop + window)`, and its frames count their seconds from its start, as its samples do.
Nothing here knows a model, a file or a label.
"""

import math
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

LONGEST = 30.0  # seconds heard and seen at once: as much as whisper's encoder and the learnable positions reach
LEVELS = 10  # of the loudness, for each step of the track
ONE_FRAME = 0.1  # seconds that a picture is shown at most, for all that is known


@dataclass
class Recording:
    """
    Both streams of one recording, piece by piece. Each can be read once.

    Args:
        name (`str`): For errors.
        sampling_rate (`int`): Of the sound, in Hz.
        sound (iterable of `np.ndarray` of shape `(num_samples,)`): Mono; sample 0 is second 0. Empty without sound.
        faces (iterable of `(seconds, features, success)`): One frame after another, never back in time; features
            `(num_features,)`. Empty without picture.
        notes (`list[str]`, *optional*): What a reader of the answer should know, such as a missing stream. Whoever
            reads the streams may add to it on the way.
    """

    name: str
    sampling_rate: int
    sound: Iterable[np.ndarray] = ()
    faces: Iterable[tuple[float, np.ndarray, bool]] = ()
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """
    One step of the track: a stretch of time that belongs to one window alone, though others cover it.

    Args:
        start, end (`float`): Seconds.
        num_frames, num_faces (`int`): Pictures in it, and those where a face was found.
        levels (`tuple[float, ...]`): Loudest sample in each of `LEVELS` equal parts, 0 to 1. Empty without sound.
    """

    start: float
    end: float
    num_frames: int
    num_faces: int
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Window:
    """
    What a model hears and sees at once.

    Args:
        start, end (`float`): Seconds on the recording's clock. The last window ends where the recording does.
        steps (`tuple[Step, ...]`): The first `hop` seconds of the window; all that is left for the last one.
        sound (`np.ndarray` of shape `(num_samples,)`)
        features (`np.ndarray` of shape `(num_frames, num_features)`): float32.
        success (`np.ndarray` of shape `(num_frames,)`): bool.
        timestamps (`np.ndarray` of shape `(num_frames,)`): Seconds from the start of the window.
        recording (`str`): Name of the recording.
        notes (`list[str]`): The recording's, which may still grow.
    """

    start: float
    end: float
    steps: tuple[Step, ...]
    sound: np.ndarray
    features: np.ndarray
    success: np.ndarray
    timestamps: np.ndarray
    recording: str
    notes: list[str]

    def outline(self):
        """The window without its streams: what is worth keeping once it has its answer."""
        nothing = np.zeros(0, np.float32)
        return replace(self, sound=nothing, features=nothing, success=nothing, timestamps=nothing)


def check_window(window, hop):
    """Refuses windows (s) that no model takes, and hops (s) that leave gaps."""
    if not 0 < window <= LONGEST:
        raise ValueError(f"`window` ({window} s) must be positive, and {LONGEST:.0f} s at most.")
    if not 0 < hop <= window:
        raise ValueError(f"`hop` ({hop} s) must be positive, and no longer than `window` ({window} s).")


def whole(recording):
    """
    The one window that a clip is.

    Raises:
        `ValueError`: if the recording is longer than `LONGEST`.
    """
    window = next(windows := cut(recording, LONGEST, LONGEST))
    if next(windows, None) is not None:
        raise ValueError(
            f"{recording.name} is longer than {LONGEST:.0f} s, the most that is read at once. Pass `window=3.0` for "
            "its emotions over time."
        )
    return window


def cut(recording, window, hop):
    """
    Windows of a recording, one after another, in memory for one. A recording no longer than one window is one window.

    Args:
        recording ([`Recording`])
        window, hop (`float`): Seconds.

    Yields:
        [`Window`]: the last one reaches the end of the recording.
    """
    check_window(window, hop)
    sound, faces = _Sound(recording.sound, recording.sampling_rate), _Faces(recording.faces)
    index, is_last = 0, False
    while not is_last:
        start, end = index * hop, index * hop + window
        is_last = all([sound.ends_by(end), faces.ends_by(end)])  # a list: both read on
        heard, rows = sound.between(start, end), faces.between(start, end)
        if is_last:
            end = min(end, max(sound.end, faces.end, start))
        seconds, features, success = zip(*rows, strict=True) if rows else ((), (), ())
        yield Window(
            start,
            end,
            _steps(start, end if is_last else start + hop, hop, heard, rows, recording.sampling_rate),
            heard,
            np.array(features, np.float32),
            np.array(success, bool),
            np.array(seconds, np.float64) - start,
            recording.name,
            recording.notes,
        )
        index += 1
        sound.forget(index * hop)
        faces.forget(index * hop)


def merge(windows, answers):
    """
    One answer for each step of the track: the weighted mean of the windows that cover the step's middle. A window
    weighs most at its own middle and nothing at its edges: sin² from edge to edge (a Hann window).

    Args:
        windows (`list[Window]`): All of a recording, in order.
        answers (`np.ndarray` of shape `(num_windows, num_labels)`): Their probabilities; NaN where there is none.

    Returns:
        `np.ndarray` of shape `(num_steps, num_labels)`: float64; NaN where no window has an answer. A step under one
        window alone has exactly that window's answer.
    """
    answers = np.asarray(answers, np.float64)
    steps = [step for window in windows for step in window.steps]
    middles = np.array([(step.start + step.end) / 2 for step in steps])
    covers = []  # (window, its steps, their weights)
    totals = np.zeros(len(steps))
    for index, window in enumerate(windows):
        if np.isnan(answers[index]).any():
            continue
        covered = np.flatnonzero((window.start <= middles) & (middles <= window.end))
        share = (middles[covered] - window.start) / max(window.end - window.start, sys.float_info.min)
        weights = np.sin(np.pi * np.clip(share, 1e-3, 1 - 1e-3)) ** 2
        totals[covered] += weights
        covers.append((index, covered, weights))
    track = np.where(totals[:, None] > 0, 0.0, np.full((len(steps), answers.shape[1]), np.nan))
    for index, covered, weights in covers:
        track[covered] += (weights / totals[covered])[:, None] * answers[index]
    return track


class _Sound:
    """Samples read so far that are still needed."""

    def __init__(self, pieces, sampling_rate):
        self.pieces, self.sampling_rate = iter(pieces), sampling_rate
        self.buffer, self.first, self.total = np.zeros(0, np.float32), 0, 0

    @property
    def end(self):
        return self.total / self.sampling_rate

    def ends_by(self, seconds):
        """Reads to `seconds` and one sample on; whether there is none."""
        wanted, new = self._sample(seconds), []
        while self.total <= wanted and (piece := next(self.pieces, None)) is not None:
            new.append(piece)
            self.total += len(piece)
        self.buffer = np.concatenate([self.buffer, *new]) if new else self.buffer
        return self.total <= wanted

    def between(self, start, end):
        return self.buffer[self._sample(start) - self.first : max(self._sample(end) - self.first, 0)]

    def forget(self, seconds):
        drop = min(max(self._sample(seconds) - self.first, 0), len(self.buffer))
        self.buffer, self.first = self.buffer[drop:], self.first + drop

    def _sample(self, seconds):
        return round(seconds * self.sampling_rate)


class _Faces:
    """Frames read so far that are still needed."""

    def __init__(self, frames):
        self.frames, self.rows = iter(frames), deque()
        self.last, self.gap = -math.inf, ONE_FRAME

    @property
    def end(self):
        """When the last frame read has been shown as long as the one before it, or for `ONE_FRAME`."""
        return self.last + self.gap

    def ends_by(self, seconds):
        """Reads to `seconds` and one frame on; whether there is none."""
        while self.last < seconds and (row := next(self.frames, None)) is not None:
            self.gap = min(row[0] - self.last, ONE_FRAME) or ONE_FRAME
            self.last = row[0]
            self.rows.append(row)
        return self.last < seconds

    def between(self, start, end):
        return [row for row in self.rows if row[0] < end and (row[0] >= start or start == 0)]

    def forget(self, seconds):
        while self.rows and self.rows[0][0] < seconds:
            self.rows.popleft()


def _steps(start, end, hop, heard, rows, sampling_rate):
    """The steps from `start` to `end`, each `hop` seconds long but the last."""
    count = max(math.ceil((end - start) / hop - 1e-9), 1)
    edges = [start + index * hop for index in range(count)] + [end]
    return tuple(_step(start, *pair, heard, rows, sampling_rate) for pair in zip(edges, edges[1:], strict=False))


def _step(origin, start, end, heard, rows, sampling_rate):
    first, last = (round((seconds - origin) * sampling_rate) for seconds in (start, end))
    found = [row[2] for row in rows if start <= row[0] < end]
    parts = [part for part in np.array_split(np.abs(heard[first:last]), LEVELS) if len(part)]
    return Step(start, end, len(found), int(np.sum(found)), tuple(float(part.max()) for part in parts))
