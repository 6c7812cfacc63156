"""How far the picture of a recording is from its sound, by which frames the model finds alike (CTM).

A model trained with cross-temporal matching makes frames alike that are near in time, so the similarity `s_ij` of
audio frame i and video frame j is highest where both belong together. Its mean over pairs, weighted by the affinity of
eq. 6 as it would be had the video come δ seconds late,

    score(δ) = Σ_ij w_ij s_ij / Σ_ij w_ij,   w_ij = exp(-(t_j − t_i − δ)² / 2σ²),

peaks at the offset. **Positive is video late**: what is heard at t is seen at t + δ. Rows and columns of `s` are
brought to mean 0 before, because the softmaxes of eq. 7-8, which training sees, take no notice of their means.
"""

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count

import numpy as np
import torch
from rich.console import Console

from ..analysis.dynamics import alignments, check_matching
from ..features.base import ExtractionError, FeatureIdentity
from ..features.report import missing_reasons
from ..io.atomic import write_whole
from ..io.media import MediaError
from ..modeling_aver import AverForEmotionClassification
from ..windows import cut
from .display import print_table
from .recordings import log_notes, open_recording

STEP = 0.005  # seconds between two shifts that are tried; a frame of video lasts 0.033
MAX_SHIFT = 1.0  # seconds either way
WINDOW = 10.0  # seconds of a long recording at a time
SHORTEST = 1.0  # seconds that both streams must last in a window
BATCH_SIZE = 4  # windows
SURROGATES = 32
LARGE = 0.15  # seconds. Viewers notice sound 0.125 s late or 0.045 s early (ITU-R BT.1359); estimates err by as much
CONFIDENT = 4.0  # deviations; unrelated streams rarely have more (tests/inference/test_sync.py)


@dataclass(frozen=True)
class Offset:
    """
    Args:
        seconds (`float`): That the video is late; negative where it is early.
        confidence (`float`):
            z = (p − m) / d: p is the peak of the score, m and d mean and deviation of the peaks of 32 surrogates, the
            same frames with the video played backwards from different places on, which belong together nowhere. 0
            where the score is highest at the end of the searched range. Of n windows, their sum over √n (Stouffer).
        num_windows (`int`): Parts of the recording of whose offsets `seconds` is the median.
        spread (`float`): Median distance of their offsets from it, in seconds; 0 for one.
    """

    seconds: float
    confidence: float
    num_windows: int = 1
    spread: float = 0.0

    @property
    def is_known(self):
        """Whether it is beyond chance."""
        return self.confidence > CONFIDENT

    @property
    def is_large(self):
        """Whether it is beyond what viewers take for synchronous, and beyond chance."""
        return abs(self.seconds) > LARGE and self.is_known

    def to_dict(self):
        """For JSON: all fields, with `seconds` and `spread` of `None` where the offset is not beyond chance."""
        return asdict(self) if self.is_known else {**asdict(self), "seconds": None, "spread": None}

    def to_text(self):
        """One phrase."""
        if not self.is_known:
            return "cannot tell"
        if not self.is_large:
            return "together"
        return f"video {'late' if self.seconds > 0 else 'early'}"


def estimate_offset(alignment, sigma, max_shift=MAX_SHIFT):
    """
    The offset of one window.

    Args:
        alignment ([`Alignment`])
        sigma (`float`): Of the affinity, in seconds; the model's `ctm_sigma`.
        max_shift (`float`, *optional*, defaults to 1.0):
            Seconds searched either way; half of the shorter stream at most, so that half of it always has a partner.

    Returns:
        [`Offset`], or `None` where a stream is shorter than 1 s.
    """
    heard, seen = alignment.audio_timestamps, alignment.video_timestamps
    shared = min(np.ptp(heard), np.ptp(seen))
    if shared < SHORTEST:
        return None
    count = int(min(max_shift, shared / 2) / STEP)
    shifts = STEP * np.arange(-count, count + 1)
    scores = _scores(alignment, shifts, sigma)
    peaks = scores[1:].max(axis=1)
    best = int(scores[0].argmax())
    if best in (0, len(shifts) - 1):
        return Offset(float(shifts[best]), 0.0)
    left, top, right = scores[0, best - 1 : best + 2]
    curvature = left - 2 * top + right  # of the parabola through the three
    refined = shifts[best] + (STEP * (left - right) / (2 * curvature) if curvature < 0 else 0.0)
    return Offset(float(refined), float((top - peaks.mean()) / max(peaks.std(), np.finfo(float).tiny)))


def _scores(alignment, shifts, sigma):
    """Score of each shift, `(1 + SURROGATES, num_shifts)`: of the clip, then of the video played backwards."""
    similarity = alignment.similarity
    similarity = similarity - similarity.mean(axis=0) - similarity.mean(axis=1, keepdims=True) + similarity.mean()
    gaps = np.rint((alignment.video_timestamps - alignment.audio_timestamps[:, None]) / STEP).astype(np.int64)
    first, bins = gaps.min(), (gaps - gaps.min()).ravel()  # pairs of one gap weigh the same: they are summed first
    frames = np.arange(similarity.shape[1])
    rolls = np.linspace(0, len(frames), SURROGATES, endpoint=False).astype(np.int64)
    orders = [frames, *(np.roll(frames[::-1], roll) for roll in rolls)]
    sums = np.stack([np.bincount(bins, similarity[:, order].ravel()) for order in orders])
    seconds = STEP * (first + np.arange(sums.shape[1]))
    weights = np.exp(-((seconds[:, None] - shifts) ** 2) / (2 * sigma**2))  # (num_gaps, num_shifts)
    return (sums @ weights) / (np.bincount(bins) @ weights)


def combine(offsets):
    """
    One offset of a recording from those of its windows; see [`Offset`].

    Args:
        offsets (`list[Offset]`): `None` among them is passed over.

    Returns:
        [`Offset`], or `None` where there is none.
    """
    known = [offset for offset in offsets if offset is not None]
    if not known:
        return None
    seconds = np.array([offset.seconds for offset in known])
    middle = float(np.median(seconds))
    confidence = sum(offset.confidence for offset in known) / len(known) ** 0.5
    return Offset(middle, confidence, len(known), float(np.median(np.abs(seconds - middle))))


@contextmanager
def listening(model, every=1):
    """
    While the block runs, notes the offset of what a model answers.

    Args:
        model (callable): Nothing is noted unless it is a torch model with CTM that was trained on frames.
        every (`int`, *optional*, defaults to 1): Clips from one that is looked at to the next, for windows overlap.

    Yields:
        `list[Offset]`: grows with every clip that has both streams; `None` for one that is too short.
    """
    found, order = [], count()

    def note(module, inputs, outputs):
        chosen = [alignment for alignment in alignments(outputs) if next(order) % every == 0]
        found.extend(estimate_offset(alignment, model.config.ctm_sigma) for alignment in chosen)

    if (
        not isinstance(model, AverForEmotionClassification)
        or model.config.ctm_loss_weight == 0
        or _statistic(model.config) is not None
    ):
        yield found
        return
    handle = model.register_forward_hook(note)
    try:
        yield found
    finally:
        handle.remove()


def check_frames(config):
    """
    Refuses a model whose features have no course over time.

    Args:
        config ([`AverConfig`])

    Raises:
        `ValueError`: if it was trained on one vector per clip.
    """
    if (statistic := _statistic(config)) is not None:
        raise ValueError(
            f"The model was trained on one vector of face features per clip (statistic: {statistic}): an offset "
            "between sound and video cannot be estimated. Use a model trained on features of every frame."
        )


def _statistic(config):
    return FeatureIdentity.from_dict(config.feature_identity).statistic if config.feature_identity else None


def add_warning(answer, offset):
    """Adds a note to an answer of the pipeline whose streams are apart; `offset` is `None` where nothing is known."""
    if offset is not None and offset.is_large:
        answer["notes"].append(
            f"The video seems to be {abs(offset.seconds):.2f} s {'late' if offset.seconds > 0 else 'early'} "
            f"(confidence {offset.confidence:.1f}), and emotions are read from both streams together: see aver sync."
        )


def find_offsets(recognize, found, faces, max_shift=MAX_SHIFT, watch=None):
    """
    How far apart the streams of each recording are, by windows of 10 s.

    Args:
        recognize ([`EmotionPipeline`]): Its model was trained with CTM.
        found (`tuple[list[Clip], list[Outcome]]`): As [`find_clips`] gives them.
        faces ([`FacesOfExtractor`] or [`FacesOfTables`]): Where the features of the face come from.
        max_shift (`float`, *optional*, defaults to 1.0): Seconds searched either way.
        watch (callable, *optional*): Called with a clip's name and `None` when it is over.

    Returns:
        `tuple[dict[str, Offset], dict[str, str]]`: by name of the clip, and the reason of each that has none.

    Raises:
        `ValueError`: if the model was trained without CTM or on one vector per clip, or `max_shift` is not positive.
    """
    check_matching(recognize.model.config)
    check_frames(recognize.model.config)
    if not 0 < max_shift <= WINDOW / 2:
        raise ValueError(f"`max_shift` ({max_shift} s) must be positive, and {WINDOW / 2:.0f} s at most.")
    done, failed = {}, missing_reasons(found[1])
    for clip in found[0]:
        try:
            done[clip.name] = _offset_of_clip(recognize, clip, faces, max_shift)
        except (MediaError, ExtractionError, ValueError) as error:
            failed[str(clip.path)] = str(error)
        if watch is not None:
            watch(clip.name, None)
    return done, failed


def _offset_of_clip(recognize, clip, faces, max_shift):
    extractor = recognize.processor.feature_extractor
    rates = {"sampling_rate": extractor.sampling_rate, "frame_rate": extractor.video_frame_rate}
    recording = open_recording(clip.path, faces, damage="note", name=clip.name, **rates)
    offsets, batch = [], []
    for window in cut(recording, WINDOW, WINDOW):
        if recognize._heard(window) and window.success.any():
            batch.append(window)
        if len(batch) == BATCH_SIZE:
            offsets += _offsets_of_windows(recognize, batch, max_shift)
            batch = []
    offsets += _offsets_of_windows(recognize, batch, max_shift)
    log_notes(clip.name, recording.notes)
    if (offset := combine(offsets)) is None:
        notes = " ".join(recording.notes)
        raise ValueError(f"It has no {SHORTEST:.0f} s with both sound and a face to compare. {notes}".strip())
    return offset


@torch.inference_mode()
def _offsets_of_windows(recognize, windows, max_shift):
    if not windows:
        return []
    inputs = recognize._inputs(windows, [(True, True)] * len(windows), None)
    outputs = recognize.model(**inputs.to(recognize.device))
    return [estimate_offset(one, recognize.model.config.ctm_sigma, max_shift) for one in alignments(outputs)]


def print_offsets(done, failed):
    """Prints a row a clip, and every clip without an offset with the reason."""
    console = Console(soft_wrap=True)
    if done:
        names = ("clip", "verdict", "late (s)", "confidence", "windows", "spread (s)")
        print_table(names, (_row(name, one) for name, one in sorted(done.items())))
    for name, reason in sorted(failed.items()):
        console.print(f"no offset for {name}: {reason}", markup=False, highlight=False)


def _row(name, offset):
    seconds, spread = (f"{offset.seconds:+.2f}", f"{offset.spread:.2f}") if offset.is_known else ("-", "-")
    return [name, offset.to_text(), seconds, f"{offset.confidence:.1f}", str(offset.num_windows), spread]


def write_offsets(done, failed, path):
    """Writes what [`find_offsets`] found as JSON; a clip of which it cannot tell has no `seconds` (null)."""
    clips = [{"clip": name, **one.to_dict(), "verdict": one.to_text()} for name, one in sorted(done.items())]
    lost = [{"clip": name, "reason": reason} for name, reason in sorted(failed.items())]
    write_whole(path, json.dumps({"clips": clips, "failed": lost}, indent=1) + "\n")
