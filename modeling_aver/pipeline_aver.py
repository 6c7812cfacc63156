"""transformers' pipeline `audio-visual-emotion-recognition`: recordings in, emotions out, at once or over time.

It travels with every checkpoint. Where this package is installed too it takes raw video, by `modeling_aver.inference`;
elsewhere it hears sound files and takes features of the face that are there already. Media libraries are imported by
the first clip that needs them.
"""

import copy
import importlib
import io
import json
import math
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers.pipelines.base import ChunkPipeline

from .windows import Recording, Window, check_window, cut, merge, whole

TASK = "audio-visual-emotion-recognition"
# What a saved configuration says of the class below, as transformers' `Pipeline.save_pretrained` would write it.
CUSTOM_PIPELINES = {TASK: {"impl": "pipeline_aver.EmotionPipeline", "pt": ["AutoModel"], "type": "multimodal"}}

STREAMS = ("both", "audio", "video")
SHORTEST = 0.025  # seconds of sound that make one frame of speech features
MAX_DOWNLOAD = 2**30  # bytes
TIMEOUT = 60.0  # seconds without a byte of a download
HOPS = 4  # in a window, where no hop is given


class EmotionPipeline(ChunkPipeline):
    """
    Emotions of recordings.

    An input is a path, an http(s) address, a file's `bytes`, a waveform `(num_samples,)` at the model's sampling rate,
    a pair `(waveform, action_units)`, or a dict: a row of a dataset, or what the processor takes, `audio` (array,
    `{"array", "sampling_rate"}`, path or bytes), `action_units` (array, or path of a table), `action_units_success`,
    `video_timestamps`, `sampling_rate`, `video_frame_rate`. A list or generator holds many. Either stream may be
    missing. Addresses are fetched as they are given: trust them first.

    Args, of the pipeline or of a call:
        streams (`str`, *optional*, defaults to `"both"`): Or `"audio"` or `"video"` alone.
        window (`float`, *optional*): Seconds. With it, the answer also runs over time, for recordings of any length.
        hop (`float`, *optional*): Seconds from one window to the next. Defaults to a quarter of the window.
        top_k (`int`, *optional*): Emotions to name. Defaults to all.
        action_units_folder (`str`, *optional*): Features of the videos, a table a clip, as `aver extract` writes them.
        extractor ([`~modeling_aver.features.Extractor`], *optional*):
            Makes features of videos. Defaults to the one that the model was trained with.
        speaker_profile ([`SpeakerProfile`], *optional*): Of the one person who is in all of the recordings.
        batch_size (`int`, *optional*, defaults to 1): Clips, or windows, that the model hears and sees together.

    Returns:
        `dict`: `emotions` (a list of `{"label", "score"}`, likeliest first), `streams` (those that were heard or
        seen), `face` (share of the pictures with a face; `None` without pictures), `notes` (which stream was missing,
        and why) and `duration` (s). With `window`, also `window`, `hop` and `timeline`: for each `hop` seconds
        `start`, `end`, `emotions` (empty where there was nothing to go by), `face` and `levels` (loudest sample in
        each tenth). See [`~modeling_aver.windows.merge`].

    Example:

    ```python
    >>> recognize = pipeline("audio-visual-emotion-recognition", model="runs/demo")
    >>> recognize("interview.mp4", top_k=1, window=3.0)["timeline"][0]
    {'start': 0.0, 'end': 0.75, 'emotions': [{'label': 'neutral', 'score': 0.61}], 'face': 1.0, 'levels': [0.02, …]}
    ```
    """

    _known_faces = (None, None)  # (what was asked for, what was found)
    _load_processor = True
    _load_image_processor = _load_video_processor = _load_feature_extractor = _load_tokenizer = False

    def _sanitize_parameters(
        self,
        streams=None,
        window=None,
        hop=None,
        top_k=None,
        action_units_folder=None,
        extractor=None,
        speaker_profile=None,
    ):
        if streams is not None and streams not in STREAMS:
            raise ValueError(f"`streams` ({streams!r}) may be {', '.join(STREAMS)}.")
        if hop is not None and window is None:
            raise ValueError(f"`hop` ({hop} s) goes from one window to the next: give `window` (s) too.")
        timing = {} if window is None else {"window": window, "hop": window / HOPS if hop is None else hop}
        if timing:
            check_window(**timing)
        reading = {"streams": streams, "action_units_folder": action_units_folder, "extractor": extractor}
        reading = {name: value for name, value in reading.items() if value is not None}
        speaker = {} if speaker_profile is None else {"speaker_profile": speaker_profile}
        return {**reading, **timing}, speaker, {**timing, **({} if top_k is None else {"top_k": top_k})}

    def preprocess(self, inputs, window=None, hop=None, **reading):
        """Windows of one input; a clip is one window."""
        with self._recording(inputs, "refuse" if window is None else "note", **reading) as recording:
            if isinstance(recording, Window):
                windows = iter([recording])
            else:
                windows = iter([whole(recording)]) if window is None else cut(recording, window, hop)
            current = next(windows)
            for following in windows:
                yield {"window": current, "is_last": False}
                current = following
            yield {"window": current, "is_last": True}

    def _forward(self, model_inputs, speaker_profile=None):
        windows, is_last = model_inputs["window"], model_inputs["is_last"]
        batch = windows if isinstance(windows, list) else [windows]
        logits = torch.full((len(batch), self.model.config.num_labels), math.nan)
        used = [(self._heard(window), bool(window.success.any())) for window in batch]
        usable = [index for index, streams in enumerate(used) if any(streams)]
        if usable:
            inputs = self._inputs(
                [batch[index] for index in usable], [used[index] for index in usable], speaker_profile
            )
            logits[usable] = self.model(**inputs.to(self.device)).logits.float().cpu()
        outlines = [window.outline() for window in batch]
        if not isinstance(windows, list):
            outlines, used = outlines[0], used[0]
        return {"logits": logits, "window": outlines, "used": used, "is_last": is_last}

    def postprocess(self, model_outputs, window=None, hop=None, top_k=None):
        """The answer for one input, of all its windows."""
        windows = [output["window"] for output in model_outputs]
        probabilities = torch.cat([output["logits"] for output in model_outputs]).double().softmax(dim=-1).numpy()
        steps, track = [step for one in windows for step in one.steps], merge(windows, probabilities)
        answered = ~np.isnan(track[:, 0])
        name, notes = windows[0].recording, [*windows[0].notes, *_notes_on_faces(steps)]
        if not answered.any():
            raise ValueError(f"{name} has neither sound nor a face to go by. {' '.join(notes)}".strip())
        durations = np.array([max(step.end - step.start, 1e-9) for step in steps])[answered]
        overall = (durations / durations.sum()) @ track[answered]
        used = np.array([output["used"] for output in model_outputs]).any(axis=0)
        answer = {
            "emotions": self._ranked(overall, top_k),
            "streams": [stream for stream, there in zip(("audio", "video"), used, strict=True) if there],
            "face": _share_of_faces(steps),
            "notes": notes,
            "duration": windows[-1].end,
        }
        if window is None:
            return answer
        timeline = [
            {
                "start": step.start,
                "end": step.end,
                "emotions": self._ranked(row, top_k) if there else [],
                "face": _share_of_faces([step]),
                "levels": list(step.levels),
            }
            for step, row, there in zip(steps, track, answered, strict=True)
        ]
        return {**answer, "window": window, "hop": hop, "timeline": timeline}

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers, with the processor, which it leaves out."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def _inputs(self, windows, used, speaker_profile):
        """The model's inputs for windows of which each has a stream."""
        extractor = copy.copy(self.processor.feature_extractor)
        extractor.duration_tolerance = math.inf  # streams of one recording may end apart, and windows cut them
        return extractor(
            [window.sound if heard else None for window, (heard, _) in zip(windows, used, strict=True)],
            [window.features if seen else None for window, (_, seen) in zip(windows, used, strict=True)],
            [window.success if seen else None for window, (_, seen) in zip(windows, used, strict=True)],
            [window.timestamps if seen else None for window, (_, seen) in zip(windows, used, strict=True)],
            speaker_profiles=[speaker_profile] * len(windows),
            sampling_rate=extractor.sampling_rate,
        )

    def _heard(self, window):
        config = self.model.config
        least = config.min_audio_inputs if config.audio_input_name == "input_values" else 1
        return len(window.sound) >= max(least, SHORTEST * config.sampling_rate)

    def _ranked(self, probabilities, top_k):
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return [{"label": self.model.config.id2label[int(i)], "score": float(probabilities[i])} for i in order]

    @contextmanager
    def _recording(self, inputs, damage, streams="both", action_units_folder=None, extractor=None):
        """The streams of one input; what was fetched for it is deleted again."""
        with ExitStack() as stack:
            if isinstance(inputs, str) and inputs.startswith(("http://", "https://")):
                inputs = stack.enter_context(_downloaded(inputs))
            elif isinstance(inputs, bytes):
                inputs = stack.enter_context(_written(inputs))
            if isinstance(inputs, Recording | Window):
                yield inputs
            elif isinstance(inputs, str | Path):
                yield self._opened(Path(inputs), damage, streams, action_units_folder, extractor)
            else:
                yield self._of_arrays(_as_mapping(inputs), streams)

    def _opened(self, path, damage, streams, action_units_folder, extractor):
        library = _installed("inference")
        if library is None:
            return _sound_alone(path, self.processor.feature_extractor.sampling_rate, streams)
        faces = None if streams == "audio" else self._faces(library, action_units_folder, extractor)
        rates = {
            "sampling_rate": self.processor.feature_extractor.sampling_rate,
            "frame_rate": self.processor.feature_extractor.video_frame_rate,
        }
        return library.open_recording(path, faces, streams=streams, damage=damage, **rates)

    def _faces(self, library, action_units_folder, extractor):
        """Where features come from; looked for once, for it may be read from disk."""
        if self._known_faces[0] != (action_units_folder, extractor):
            found = library.find_faces(self.processor.feature_extractor, action_units_folder, extractor)
            self._known_faces = (action_units_folder, extractor), found
        return self._known_faces[1]

    def _of_arrays(self, clip, streams):
        extractor, name = self.processor.feature_extractor, str(clip.get("utterance_id", "the clip"))
        _check_row(extractor.feature_identity, clip)
        audio, rate = _audio_of(clip, extractor.sampling_rate)
        track = _track_of(clip)
        audio, track = None if streams == "video" else audio, None if streams == "audio" else track
        if audio is None and track is None:
            raise ValueError(f"{name} holds neither `audio` nor `action_units` for `streams` {streams!r}.")
        frame_rate = clip.get("video_frame_rate") or extractor.video_frame_rate
        units, success, seconds = track or (None, None, None)
        extractor(audio, units, success, seconds, sampling_rate=rate, video_frame_rate=frame_rate)  # refuses bad ones
        notes = [] if audio is not None else [f"{name}: no sound was given."]
        recording = Recording(name, extractor.sampling_rate, [] if audio is None else [_floats(audio)], [], notes)
        if track is None:
            notes.append(f"{name}: no features of the face were given.")
            return recording
        units = _numpy(units)
        seconds = np.arange(len(units)) / frame_rate if seconds is None else _numpy(seconds)
        success = np.ones(len(units), bool) if success is None else _numpy(success) > 0
        recording.faces = zip(seconds.tolist(), units.astype(np.float32), success.tolist(), strict=True)
        return recording


# ── what an input may be ────────────────────────────────────────────────────────────────────────────────────────────


def _installed(name):
    """A module of the installed package, or `None` in a process that has only the files beside the weights."""
    try:
        return importlib.import_module(f"modeling_aver.{name}")
    except ImportError:
        return None


def _as_mapping(inputs):
    if isinstance(inputs, Mapping):
        return inputs
    if isinstance(inputs, tuple) and len(inputs) == 2:
        return {"audio": inputs[0], "action_units": inputs[1]}
    if isinstance(inputs, np.ndarray | torch.Tensor) and inputs.ndim == 1:
        return {"audio": inputs}
    raise ValueError(
        f"An input may be a path, an address, bytes, a waveform (num_samples,), a pair (waveform, action units) or a "
        f"dict with `audio` or `action_units`; got {type(inputs).__name__}{list(getattr(inputs, 'shape', []))}."
    )


def _audio_of(clip, sampling_rate):
    """(samples or `None`, their rate) of a dict."""
    audio, rate = clip.get("audio"), clip.get("sampling_rate") or sampling_rate
    if isinstance(audio, Mapping) and "array" in audio:
        return audio["array"], audio["sampling_rate"]
    if isinstance(audio, Mapping):
        audio = audio.get("bytes") or audio.get("path")
    if not isinstance(audio, str | Path | bytes):
        return audio, rate
    library = _installed("features")
    return (library.read_audio if library else _decoded)(audio, sampling_rate), sampling_rate


def _track_of(clip):
    """(action units, success, timestamps) of a dict, or `None`."""
    units = clip.get("action_units")
    if isinstance(units, str | Path):
        library = _installed("features")
        return _npz(units) if library is None else _table(library, units)
    if units is None or len(units) == 0:
        return None
    return units, clip.get("action_units_success"), clip.get("video_timestamps")


def _table(library, path):
    track = library.read_features(path)
    return track.features, track.success, track.timestamps


def _npz(path):
    """A table of `aver extract`."""
    if Path(path).suffix != ".npz":
        raise ValueError(f"{path} must be an .npz of `aver extract`; with modeling-aver installed, other tables too.")
    with np.load(path, allow_pickle=False) as file:
        return file["features"], file["success"], file["timestamps"]


def _check_row(trained, row):
    """Refuses a dataset's row whose features have another maker, or other names, than those of the training."""
    if not trained or not row.get("extractor"):
        return
    names, known = list(row.get("feature_names") or []), list(trained.get("columns") or [])
    if row["extractor"] != trained["name"] or (names and known and names != known):
        settings = json.dumps(trained.get("settings") or {})
        raise ValueError(
            f"The model was trained on features of {trained['name']} {settings}, but the clip "
            f"{row.get('utterance_id', '')} has features of {row['extractor']}: {len(names)} columns for {len(known)}."
        )


def _sound_alone(path, sampling_rate, streams):
    """What can be made of a media file without the package."""
    reason = f"{path.name}: the face is not looked at, for that needs the package modeling-aver."
    if streams == "video":
        raise ImportError(f"{reason} Give its features: {{'action_units': …}}.")
    return Recording(path.name, sampling_rate, [_decoded(path, sampling_rate)], [], [reason])


def _decoded(source, sampling_rate):
    """Sound of a file, or of a file's bytes, as `modeling_aver.features.read_audio` reads it, with fewer checks."""
    try:
        import av
    except ImportError as error:
        raise ImportError("Sound files are read by PyAV (pip install av). Or give samples: {'audio': …}.") from error
    file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    with av.open(
        file, container_options={"protocol_whitelist": "file,crypto,data"}, metadata_errors="replace"
    ) as container:
        if not container.streams.audio:
            raise ValueError(f"{'The file' if isinstance(source, bytes) else source} has no sound.")
        resampler, start, pieces = av.AudioResampler(format="fltp", rate=sampling_rate), 0.0, []
        for frame in container.decode(container.streams.audio[0]):
            if not pieces and frame.time is not None:
                start = frame.time - (container.start_time or 0) / av.time_base
            frame.pts = None
            pieces.extend(part.to_ndarray().mean(axis=0) for part in resampler.resample(frame))
        pieces.extend(part.to_ndarray().mean(axis=0) for part in resampler.resample(None))
    offset, samples = round(start * sampling_rate), np.concatenate(pieces)
    return np.concatenate([np.zeros(max(offset, 0), np.float32), samples[max(-offset, 0) :]])


@contextmanager
def _downloaded(address):
    """Path of a file fetched from an address, as long as the block runs."""
    name = os.path.basename(address.partition("?")[0]) or "download"
    with (
        tempfile.TemporaryDirectory(prefix="aver-") as folder,
        urllib.request.urlopen(address, timeout=TIMEOUT) as got,
    ):
        path = Path(folder) / name
        with open(path, "wb") as file:
            shutil.copyfileobj(_Limited(got, address), file)
        yield path


class _Limited:
    """A download that ends with an error where it grows too large."""

    def __init__(self, response, address):
        self.response, self.address, self.left = response, address, MAX_DOWNLOAD

    def read(self, size):
        content = self.response.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise ValueError(f"{self.address} is larger than {MAX_DOWNLOAD} bytes. Download it, and give the file.")
        return content


@contextmanager
def _written(content):
    with tempfile.TemporaryDirectory(prefix="aver-") as folder:
        path = Path(folder) / "recording"
        path.write_bytes(content)
        yield path


def _numpy(values):
    return values.detach().cpu().float().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _floats(audio):
    """float32 samples in [-1, 1]."""
    samples = _numpy(audio)
    scale = -float(np.iinfo(samples.dtype).min) if samples.dtype in (np.int16, np.int32) else 1.0
    return (samples / scale).astype(np.float32)


# ── what an answer says ─────────────────────────────────────────────────────────────────────────────────────────────


def _share_of_faces(steps):
    frames = sum(step.num_frames for step in steps)
    return sum(step.num_faces for step in steps) / frames if frames else None


def _notes_on_faces(steps):
    frames = sum(step.num_frames for step in steps)
    return [f"No face was found in {frames} pictures."] if frames and _share_of_faces(steps) == 0 else []
