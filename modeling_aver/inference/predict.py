"""Many clips, one answer each or one over time: in batches, from where it stopped, with an account of the rest."""

import csv
import hashlib
import io
import json
import logging
import math
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoConfig, pipeline

from ..configuration_aver import AverConfig
from ..features.base import ExtractionError, ExtractorUnavailableError
from ..features.report import missing_reasons
from ..features.speaker_profile import SpeakerProfile
from ..io.atomic import WriteError, alone, clear_stale, too_long, write_whole
from ..io.media import MediaError, read_bytes
from ..pipeline_aver import HOPS, STREAMS, TASK, EmotionPipeline
from ..processing_aver import AverProcessor
from ..training.model_source import check_model_source
from ..windows import check_window
from .onnx_model import OnnxModel, runtime_of
from .recordings import is_longer, longest_at_once, open_recording, read_at_once
from .sync import add_warning, combine, listening
from .timeline_formats import FORMATS, check_formats, write_timeline

logger = logging.getLogger(__name__)

WINDOW = 3.0  # seconds. Clips of CREMA-D last two to three, of RAVDESS three to five
TIMELINES = "timelines"  # folder of the timelines, so that no clip's name is that of another file
_TOO_LONG = object()  # in place of the one window of a clip
LOCK = ".predicting"  # of two runs into one folder, the later would write over the answers of the other
SAVE_EVERY = 5.0  # seconds between two savings of what is done


@dataclass
class Predictions:
    """
    What is known of each clip.

    Args:
        settings (`dict`): What changes the answers; answers under other settings are not mixed with these.
        labels (`list[str]`): Names of the emotions.
        done (`dict[str, dict]`): By name of the clip: `file`, `bytes`, `label`, `probabilities`, `streams`, `face`,
            `notes`, `duration`.
        failed (`dict[str, str]`): Reason of each clip that has no answer.
    """

    settings: dict
    labels: list[str]
    done: dict[str, dict] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def to_json(self):
        """JSON: settings, then clips and failures in the order of their names."""
        clips = [{"clip": name, **self.done[name]} for name in sorted(self.done)]
        failed = [{"clip": name, "reason": self.failed[name]} for name in sorted(self.failed)]
        return json.dumps({"settings": self.settings, "clips": clips, "failed": failed}, indent=1) + "\n"

    def to_csv(self):
        """CSV: a row a clip with its label, the probability of each emotion, the streams that it has, and notes."""
        file = io.StringIO()
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["clip", "label", *(f"p_{label}" for label in self.labels), "streams", "notes"])
        for name in sorted(self.done):
            one = self.done[name]
            scores = [f"{one['probabilities'][label]:.6f}" for label in self.labels]
            rows.writerow([name, one["label"], *scores, "+".join(one["streams"]), " ".join(one["notes"])])
        return file.getvalue()


def load_pipeline(model, speaker_profile=None, runtime="auto"):
    """
    The pipeline of a saved folder or a Hub id, on the accelerator if there is one; or of a folder of `aver export
    onnx`, on the CPU.

    Args:
        model (`str`)
        speaker_profile (`str` or `Path`, *optional*): File of the person who is in all recordings.
        runtime (`str`, *optional*, defaults to `"auto"`):
            `"torch"`, `"onnx"`, or by what the folder holds; see [`~inference.onnx_model.runtime_of`].

    Raises:
        `ValueError`: if it is neither, holds another kind of model, the file no profile, or `runtime` is unknown or
            cannot run what the folder holds. `ImportError`: if ONNX Runtime is needed and not installed.
    """
    check_model_source(model)
    runtime = runtime_of(model, runtime)
    profile = None if speaker_profile is None else SpeakerProfile.load(speaker_profile)
    if runtime == "onnx":
        parts = {"model": OnnxModel(model), "processor": AverProcessor.from_pretrained(model, trust_remote_code=False)}
        return EmotionPipeline(**parts, task=TASK, device=OnnxModel.device, speaker_profile=profile)
    config, processor = load_settings(model)
    options = {"config": config, "processor": processor, "speaker_profile": profile}
    return pipeline(TASK, model=model, trust_remote_code=False, **options)


def load_settings(model):
    """
    Configuration and processor of a saved folder or a Hub id, without its weights.

    Args:
        model (`str`)

    Returns:
        `tuple[AverConfig, AverProcessor]`

    Raises:
        `ValueError`: if it holds another kind of model.
    """
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    if not isinstance(config, AverConfig):
        raise ValueError(f"{model} holds a {config.model_type}, not a model of this package.")
    return config, AverProcessor.from_pretrained(model, trust_remote_code=False)


def check_request(streams, timeline, window, hop, formats, out):
    """
    Refuses what cannot be done, before anything is loaded.

    Args:
        streams (`str`): Of `STREAMS`.
        timeline (`bool`): Whether emotions over time are wanted, which need `out`.
        window, hop (`float`, *optional*): Seconds. Default to `WINDOW` and a quarter of the window.
        formats (`list[str]`): Of `FORMATS`.
        out (`Path`, *optional*)

    Returns:
        `dict`: `window` and `hop`, or `None` without a timeline.
    """
    if streams not in STREAMS:
        raise ValueError(f"`streams` ({streams!r}) may be {', '.join(STREAMS)}.")
    if not timeline:
        if window is not None or hop is not None:
            raise ValueError("`window` and `hop` belong to a timeline: give --timeline too.")
        return None
    if out is None:
        raise ValueError("A timeline is written to a folder: give --out.")
    check_formats(formats)
    window = WINDOW if window is None else window
    hop = window / HOPS if hop is None else hop
    check_window(window, hop)
    return {"window": window, "hop": hop}


def predict_clips(
    recognize, found, faces, out=None, *, streams="both", timing=None, batch_size=8, formats=FORMATS, watch=None
):
    """
    Answers for clips. With `out`, what is done there under the same settings is not done again. A clip that is longer
    than the model reads at once (30 s at most) is answered by windows, as a timeline is, and a note says so.

    Args:
        recognize ([`EmotionPipeline`])
        found (`tuple[list[Clip], list[Outcome]]`): As [`find_clips`] gives them.
        faces ([`FacesOfExtractor`] or [`FacesOfTables`]): `None` where `streams` is `"audio"`.
        out (`str` or `Path`, *optional*): Folder for `predictions.json`, `predictions.csv` and `timelines/`.
        streams (`str`, *optional*, defaults to `"both"`): Or `"audio"` or `"video"` alone.
        timing (`dict`, *optional*): `window` and `hop` in seconds, for timelines.
        batch_size (`int`, *optional*, defaults to 8): Clips, or windows, at a time.
        formats (iterable of `str`, *optional*): Of the timelines.
        watch (callable, *optional*): Called with name and seconds read, or with name and `None` when a clip is over;
            with `earlier=True` too for each that was over before this run.

    Returns:
        [`Predictions`]

    Raises:
        `ValueError`: where `out` holds answers under other settings, or another process writes to it.
        `ExtractorUnavailableError`: if no clip can be extracted. `WriteError`: if `out` takes no more.
    """
    features = None if faces is None else str(faces.identity)
    settings = {"model": _fingerprint(recognize.model), "streams": streams, "features": features, **(timing or {})}
    if profile := recognize._forward_params.get("speaker_profile"):
        settings["speaker_profile"] = profile.digest()
    run = _Run(recognize, faces, out and Path(out), streams, timing, batch_size, formats, watch or _nobody)
    with nullcontext() if out is None else alone(run.out / LOCK, f"writes predictions to {out}"):
        run.open(settings)
        run.predictions.failed.update(missing_reasons(found[1]))
        try:
            run.work(run.left_of(found[0]))
        except BaseException:
            with suppress(WriteError):  # what broke the run off is told, not that the rest found no room either
                run.save()
            raise
        run.save()
    return run.predictions


def _nobody(name, seconds, earlier=False):
    pass


class _Run:
    """What is at work, and where it leaves what is done."""

    def __init__(self, recognize, faces, out, streams, timing, batch_size, formats, watch):
        self.recognize, self.faces, self.out, self.streams = recognize, faces, out, streams
        self.timing, self.batch_size, self.formats, self.watch = timing, batch_size, formats, watch
        self.labels = list(recognize.model.config.id2label.values())
        self.longest = longest_at_once(recognize.model.config)
        self.saved = time.monotonic()

    def open(self, settings):
        self.predictions = Predictions(settings, self.labels)
        path = self.out and self.out / "predictions.json"
        if path is None or not path.exists():
            return
        clear_stale(self.out)
        try:
            before = json.loads(read_bytes(path))
            done = {one.pop("clip"): one for one in before["clips"]}
            before["settings"].keys()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not what aver predict writes ({error}). Choose another folder: --out."
            ) from error
        if before["settings"] != settings:
            changed = [name for name in settings if before["settings"].get(name) != settings[name]]
            raise ValueError(
                f"{path} holds answers under other settings ({', '.join(changed or before['settings'])} differ). "
                "Choose another folder: --out."
            )
        self.predictions.done.update(done)

    def left_of(self, clips):
        """The clips that have no answer yet."""
        earlier = {clip: self._is_done(clip) for clip in clips}
        for clip in filter(earlier.get, clips):
            self.watch(clip.name, None, earlier=True)
        return [clip for clip in clips if not earlier[clip]]

    def _is_done(self, clip):
        known = self.predictions.done.get(clip.name)
        return known is not None and known["bytes"] == _size(clip.path)

    def work(self, clips):
        for start in range(0, len(clips), 1 if self.timing else self.batch_size):
            if self.timing:
                self._over_time(clips[start], self.timing)
            else:
                self._at_once(clips[start : start + self.batch_size])
            if time.monotonic() - self.saved > SAVE_EVERY:
                self.save()

    def save(self):
        if self.out is not None:
            write_whole(self.out / "predictions.json", self.predictions.to_json())
            write_whole(self.out / "predictions.csv", self.predictions.to_csv().encode(errors="surrogateescape"))
        self.saved = time.monotonic()

    def _at_once(self, clips):
        windows = {}
        for clip in clips:
            window = self._attempt(clip, lambda clip=clip: self._window_of(clip))
            if window is _TOO_LONG:
                self._by_windows(clip)
            elif window is not None:
                windows[clip] = window
        try:
            answers = self._answers(list(windows.values())) if windows else []
        except ValueError:  # one of them; each alone shows which
            answers = [self._attempt(clip, lambda one=one: self._answers([one])[0]) for clip, one in windows.items()]
        for clip, answer in zip(windows, answers, strict=True):
            if answer is not None:
                self._keep(clip, answer)

    def _answers(self, windows):
        """Answers for clips that are one window each, with a warning where the streams are apart."""
        with listening(self.recognize.model) as offsets:
            answers = self.recognize(windows, batch_size=len(windows))
        both = [answer for answer in answers if len(answer["streams"]) == 2]
        for answer, offset in zip(both, offsets, strict=False):  # without CTM there are none
            add_warning(answer, offset)
        return answers

    def _window_of(self, clip):
        """The clip as one window, or `_TOO_LONG`, mostly before features of its face are made."""
        if is_longer(clip.path, self.longest, self.streams):
            return _TOO_LONG
        return read_at_once(self._recording(clip, "refuse"), self.longest) or _TOO_LONG

    def _by_windows(self, clip):
        """One answer for a clip that is too long to be read at once: the mean over windows."""
        window = min(WINDOW, self.longest)
        timing = {"window": window, "hop": window / HOPS}
        note = f"Longer than {self.longest:g} s: the answer is the mean over windows of {window:g} s (see --timeline)."
        self._over_time(clip, timing, "refuse", [note])

    def _over_time(self, clip, timing, damage="note", notes=()):
        recording, every = self._recording(clip, damage), math.ceil(timing["window"] / timing["hop"])
        with listening(self.recognize.model, every) as offsets:
            answer = self._attempt(clip, lambda: self._timeline_of(clip, recording, timing))
        if answer is not None:
            answer["notes"] = [*notes, *answer["notes"]]
            add_warning(answer, combine(offsets))
            if self.timing and self.out is not None:
                write_timeline(answer, self.out / TIMELINES / clip.name, self.labels, self.formats, title=clip.name)
            self._keep(clip, answer)

    def _timeline_of(self, clip, recording, timing):
        for name in self.formats if self.timing and self.out is not None else ():
            if reason := too_long(Path(f"{clip.name}.{name}")):
                raise ValueError(reason)
        return self.recognize(recording, batch_size=self.batch_size, **timing)

    def _recording(self, clip, damage):
        extractor = self.recognize.processor.feature_extractor
        rate, frame_rate = extractor.sampling_rate, extractor.video_frame_rate
        recording = open_recording(clip.path, self.faces, rate, self.streams, damage, clip.name, frame_rate)
        recording.sound = self._told_by_samples(recording.sound, clip, rate)
        recording.faces = self._told_by_frames(recording.faces, clip)
        return recording

    def _told_by_samples(self, pieces, clip, rate):
        count = 0
        for piece in pieces:
            count += len(piece)
            self.watch(clip.name, count / rate)
            yield piece

    def _told_by_frames(self, frames, clip):
        for row in frames:
            self.watch(clip.name, row[0])
            yield row

    def _attempt(self, clip, job):
        """What `job` gives, or `None` and the reason among the failures."""
        try:
            return job()
        except ExtractorUnavailableError:
            raise
        except (MediaError, ExtractionError, ValueError) as error:
            reason = str(error)
        except Exception as error:  # whatever a decoder may do on broken material; the account names clip and error
            logger.debug("%s", clip.path, exc_info=True)
            reason = f"{type(error).__name__}: {error}"
        self.predictions.failed[str(clip.path)] = reason
        self.watch(clip.name, None)
        return None

    def _keep(self, clip, answer):
        scores = {emotion["label"]: emotion["score"] for emotion in answer["emotions"]}
        self.predictions.done[clip.name] = {
            "file": clip.path.name,
            "bytes": _size(clip.path),
            "label": answer["emotions"][0]["label"],
            "probabilities": {label: scores[label] for label in self.labels},
            **{name: answer[name] for name in ("streams", "face", "notes", "duration")},
        }
        self.watch(clip.name, None)


def _fingerprint(model):
    """What tells one model from another, trained further or not: its classifier, or its file."""
    if isinstance(model, OnnxModel):
        return model.fingerprint()
    digest = hashlib.sha256()
    for _, tensor in sorted(model.classifier.state_dict().items()):
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _size(path):
    return path.stat().st_size if path.exists() else -1
