"""Emotions while they happen: the last seconds of sound and face, answered again and again, never falling behind.

One clock, one loop, bounded memory. The loop takes what has arrived, looks at one picture, and answers when it is
time; a picture that has waited too long is dropped, and an answer whose time has passed is left out. Where sound and
pictures come from is in `live_sources.py`.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..windows import Step, Window, check_window

OLDEST = 0.25  # seconds that a picture may wait to be looked at
SILENCE = 0.15  # seconds of sound that may be late; what is later was lost, and silence stands in its place
HOW = {"audio": "heard", "video": "seen"}
NAP = 0.01  # seconds between two looks at a source that has nothing new


@dataclass(frozen=True)
class LiveAnswer:
    """
    What was heard and seen just now.

    Args:
        seconds (`float`): Moment that the window reaches to, on the source's clock.
        emotions (`list[dict]`): As of the pipeline; empty where there was neither sound nor a face.
        streams (`list[str]`): Those that were heard or seen.
        lag (`float`): Seconds from that moment to when the answer was there.
    """

    seconds: float
    emotions: list[dict]
    streams: list[str]
    lag: float

    def to_text(self):
        """One line."""
        if not self.emotions:
            return f"{self.seconds:6.1f} s  neither sound nor a face"
        best, used = self.emotions[0], " and ".join(HOW[stream] for stream in self.streams)
        bar = "█" * round(best["score"] * 20)
        return (
            f"{self.seconds:6.1f} s  {best['label']:<12} {best['score']:4.0%}  {bar:<20}  lag {self.lag:.2f} s, {used}"
        )


@dataclass
class LiveStatistics:
    """How a session went; memory does not grow with it but by the lags, of which the last 1,000 are kept."""

    answers: int = 0
    skipped: int = 0
    seen: int = 0
    dropped: int = 0
    start: float | None = None
    end: float = 0.0
    lags: deque = field(default_factory=lambda: deque(maxlen=1000))

    def to_text(self):
        """One line."""
        seconds = self.end - (self.start or 0.0)
        rate = (
            f"{(self.answers - 1) / seconds:.1f} a second"
            if self.answers > 1 and seconds > 0
            else "too few for a rate"
        )
        lags = np.array(self.lags or [0.0])
        return (
            f"{self.answers} answers ({rate}), lag {np.median(lags):.2f} s in the median and {lags.max():.2f} s at "
            f"most; to keep up, {self.dropped} of {self.seen + self.dropped} pictures were dropped and {self.skipped} "
            "answers left out."
        )


class SoundRing:
    """
    The last samples of a stream of sound.

    Args:
        seconds (`float`): How much is kept.
        sampling_rate (`int`): In Hz.
    """

    def __init__(self, seconds, sampling_rate):
        self.sampling_rate, self.total = sampling_rate, 0
        self.ring = np.zeros(round(seconds * sampling_rate), np.float32)

    @property
    def end(self):
        """Seconds up to which it has heard."""
        return self.total / self.sampling_rate

    def add(self, samples, end):
        """Appends `samples (num_samples,)` that end at second `end`; the oldest are overwritten."""
        lost = round(end * self.sampling_rate) - self.total - len(samples)
        if lost > SILENCE * self.sampling_rate:
            samples = np.concatenate([np.zeros(min(lost, len(self.ring)), np.float32), samples])
            self.total += lost - min(lost, len(self.ring))
        self.total += len(samples)
        samples = samples[-len(self.ring) :]
        places = (self.total - len(samples) + np.arange(len(samples))) % len(self.ring)
        self.ring[places] = samples

    def between(self, start, end):
        """Samples from `start` to `end` (s), as far as they are there."""
        first, last = (round(seconds * self.sampling_rate) for seconds in (start, end))
        first, last = max(first, self.total - len(self.ring), 0), min(last, self.total)
        return self.ring[np.arange(first, max(last, first)) % len(self.ring)]


class LiveRecognizer:
    """
    Answers over the last seconds of two streams.

    Args:
        recognize ([`EmotionPipeline`])
        frames_of (callable, *optional*): Features of pictures, see [`PictureExtractor.frames_of`]. Without it, nothing
            is seen.
        window (`float`, *optional*, defaults to 3.0): Seconds that an answer is about.
        hop (`float`, *optional*, defaults to 0.5): Seconds from one answer to the next.
    """

    def __init__(self, recognize, frames_of=None, window=3.0, hop=0.5):
        check_window(window, hop)
        extractor = recognize.processor.feature_extractor
        self.recognize, self.window, self.hop = recognize, window, hop
        self.sound = SoundRing(window, extractor.sampling_rate)
        self.gap = (
            0.75 / extractor.video_frame_rate
        )  # of pictures that come faster than in training, some are passed over
        self.waiting, self.last = deque(), -1.0
        self.rows = deque()  # (seconds, features, success) within the window
        self.looked = None if frames_of is None else frames_of(self._one_after_another())
        self.statistics = LiveStatistics()

    def warm_up(self):
        """Lets the model answer to silence: the first answer takes longest, and the clock should not wait for it."""
        self.recognize(np.zeros(len(self.sound.ring), np.float32))

    def hear(self, end, samples):
        """Takes new sound, `(num_samples,)`, that ends at second `end`."""
        self.sound.add(samples, end)

    def see(self, seconds, pixels):
        """Takes a new picture; it is looked at later, see [`~LiveRecognizer.look`]."""
        if self.looked is not None and seconds - self.last >= self.gap - 1e-6:
            self.waiting.append((seconds, pixels))
            self.last = seconds

    def look(self, now):
        """Looks at the picture that has waited longest, and drops those that have waited too long; whether one was."""
        while self.waiting and now - self.waiting[0][0] > OLDEST:
            self.waiting.popleft()
            self.statistics.dropped += 1
        if not self.waiting:
            return False
        self.rows.append(next(self.looked))
        self.statistics.seen += 1
        while self.rows and self.rows[0][0] < now - self.window - OLDEST:
            self.rows.popleft()
        return True

    def answer(self, now):
        """
        The pipeline's answer for the window that ends at `now` (s).

        Returns:
            `tuple[list[dict], list[str]]`: emotions and streams, both empty where there is neither sound nor a face.
        """
        window = self._window(max(now - self.window, 0.0), now)
        if not len(window.sound) and not window.success.any():
            return [], []
        try:
            answer = self.recognize(window)
        except ValueError:  # too little sound for the encoder
            return [], []
        return answer["emotions"], answer["streams"]

    def _window(self, start, end):
        rows = [row for row in self.rows if start <= row[0] < end]
        seconds, features, success = zip(*rows, strict=True) if rows else ((), (), ())
        sound = self.sound.between(start, end)
        steps = (Step(start, end, len(rows), sum(map(bool, success)), ()),)
        arrays = np.array(features, np.float32), np.array(success, bool), np.array(seconds, np.float64) - start
        return Window(start, end, steps, sound, *arrays, "the live stream", [])

    def _one_after_another(self):
        while True:
            yield self.waiting.popleft()


def run_live(live, source, show: Callable[[LiveAnswer], None], clock=time.monotonic, sleep=time.sleep):
    """
    Answers until the source is over, or until Ctrl-C.

    Args:
        live ([`LiveRecognizer`])
        source ([`FileSource`] or [`DeviceSource`]): Its `until(now)` gives `(end, samples)` and `(seconds, picture)`
            that are new at `now` (s).
        show (callable): Called with each [`LiveAnswer`].
        clock, sleep (callable, *optional*): Seconds, and waiting for some of them.

    Returns:
        [`LiveStatistics`]
    """
    origin, due, statistics = clock(), live.hop, live.statistics
    try:
        while not source.is_over:
            now = clock() - origin
            sounds, pictures = source.until(now)
            for sound in sounds:
                live.hear(*sound)
            for picture in pictures:
                live.see(*picture)
            looked = live.look(now)
            if now >= due:
                _answer(live, now, show, lambda: clock() - origin)
                late = int((clock() - origin - due) / live.hop)  # answers whose time has passed meanwhile
                statistics.skipped += late
                due += live.hop * (late + 1)
            elif not looked:
                sleep(min(NAP, max(due - now, 0.0)))
    except KeyboardInterrupt:
        pass
    finally:
        source.close()
    return statistics


def _answer(live, now, show, clock):
    statistics = live.statistics
    emotions, streams = live.answer(now)
    done = clock()
    statistics.start = now if statistics.start is None else statistics.start
    statistics.answers, statistics.end = statistics.answers + 1, now
    statistics.lags.append(done - now)
    show(LiveAnswer(now, emotions, streams, done - now))
