"""transformers' pipeline `audio-visual-emotion-recognition`: recordings in, emotions out, at once or over time.

It travels with every checkpoint. Where this package is installed too it takes raw video, by `modeling_aver.inference`;
elsewhere it hears sound files and takes features of the face that are there already. Media libraries are imported by
the first clip that needs them.
"""

import importlib
import json
import math
import operator
import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sized
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from types import GeneratorType

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset
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
NOT_GIVEN = object()  # `top_k=None` asks for all emotions
ACCEPTED = (
    "an input may be a path, an http(s) address, a file's bytes, a waveform (num_samples,) or (channels, samples), "
    "a pair (waveform, action units) or a dict: `array` or `raw` with `sampling_rate`, `bytes` or `path`, `audio` or "
    "`action_units`"
)


class EmotionPipeline(ChunkPipeline):
    """
    Emotions of recordings.

    An input is what transformers' audio pipelines take:

    - a path or an http(s) address of a sound or video file, or its content as `bytes`. Addresses are fetched as they
      are given: trust them first. A sound file needs no extractor of face features;
    - a waveform `(num_samples,)` at the model's sampling rate, of NumPy or torch; `(channels, num_samples)` of one or
      two channels is averaged, other shapes are refused;
    - `{"array" or "raw": waveform, "sampling_rate": Hz}`: other sampling rates are resampled;
    - an `audio` column of `datasets`: the dict above, `{"bytes", "path"}`, or a torchcodec `AudioDecoder`;

    or, for both streams, a pair `(waveform, action_units)` or a dict, such as a row of a dataset, with `audio` (any of
    the above), `action_units` (array, or path of a table), `action_units_success`, `video_timestamps`,
    `sampling_rate`, `video_frame_rate`. Either stream may be missing.

    A list returns a list. A generator, a `datasets.Dataset` or a torch dataset such as transformers' `KeyDataset`
    returns an iterator over the answers.

    Args, of the pipeline or of a call:
        streams (`str`, *optional*, defaults to `"both"`): Or `"audio"` or `"video"` alone.
        window (`float`, *optional*): Seconds. With it, the answer also runs over time, for recordings of any length.
        hop (`float`, *optional*): Seconds from one window to the next. Defaults to a quarter of the window.
        top_k (`int`, *optional*): Number of emotions to return, at least 1. `None`, the default, returns all.
        action_units_folder (`str`, *optional*): Features of the videos, a table a clip, as `aver extract` writes them.
        extractor ([`~modeling_aver.features.base.Extractor`], *optional*):
            Makes features of videos. Defaults to the one that the model was trained with.
        speaker_profile ([`SpeakerProfile`], *optional*): Of the one person who is in all of the recordings.
        return_alignment (`bool`, *optional*, defaults to `False`):
            Whether to return how similar the audio and video frames are, for a model with `ctm_loss_weight` above 0.
        batch_size (`int`, *optional*, defaults to 1): Clips, or windows, that the model hears and sees together.

    Returns:
        `dict`: `emotions` (a list of `{"label", "score"}`, likeliest first), `streams` (those that were heard or
        seen), `face` (share of the pictures with a face; `None` without pictures), `notes` (which stream was missing,
        and why) and `duration` (s). With `window`, also `window`, `hop` and `timeline`: for each `hop` seconds
        `start`, `end`, `emotions` (empty where there was nothing to go by), `face` and `levels` (loudest sample in
        each tenth). See [`~modeling_aver.windows.merge`]. With `return_alignment`, also `alignment`: for each window
        `start` and `end`, the `audio_timestamps` and `video_timestamps` of its frames (all in s, from the start of the
        recording), and their cosine `similarity` (eq. 7-8), an array of shape `(num_audio_frames, num_video_frames)`;
        `None` for a window that lacks a stream. Frames without a face are left out.

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

    def __call__(self, inputs, *args, **kwargs):
        """Answers one input, or many; see the class."""
        if isinstance(inputs, list) and not inputs:
            return []
        return super().__call__(_numbered(inputs), *args, **kwargs)

    def _sanitize_parameters(
        self,
        streams=None,
        window=None,
        hop=None,
        top_k=NOT_GIVEN,
        action_units_folder=None,
        extractor=None,
        speaker_profile=None,
        return_alignment=None,
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
        ranking = {} if top_k is NOT_GIVEN else {"top_k": _checked_top_k(top_k)}
        if return_alignment:
            self._check_matching()
        alignment = {} if return_alignment is None else {"return_alignment": return_alignment}
        return {**reading, **timing}, {**speaker, **alignment}, {**timing, **ranking, **alignment}

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

    def _forward(self, model_inputs, speaker_profile=None, return_alignment=False):
        windows, is_last = model_inputs["window"], model_inputs["is_last"]
        batch = windows if isinstance(windows, list) else [windows]
        logits = torch.full((len(batch), self.model.config.num_labels), math.nan)
        used = [(self._heard(window), bool(window.success.any())) for window in batch]
        usable = [index for index, streams in enumerate(used) if any(streams)]
        result = {"logits": logits, "window": [window.outline() for window in batch], "used": used}
        if return_alignment:
            result["alignment"] = [None] * len(batch)
        if usable:
            inputs = self._inputs(
                [batch[index] for index in usable], [used[index] for index in usable], speaker_profile
            )
            outputs = self.model(**inputs.to(self.device))
            logits[usable] = outputs.logits.float().cpu()
            for row, index in enumerate(usable) if return_alignment else ():
                result["alignment"][index] = _alignment(outputs, row, batch[index])
        if not isinstance(windows, list):
            result = {name: values if name == "logits" else values[0] for name, values in result.items()}
        return {**result, "is_last": is_last}

    def postprocess(self, model_outputs, window=None, hop=None, top_k=None, return_alignment=False):
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
        if return_alignment:
            answer["alignment"] = [output["alignment"] for output in model_outputs]
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

    def _check_matching(self):
        if not isinstance(self.model, torch.nn.Module):
            raise ValueError(
                "`return_alignment` needs the PyTorch model: an exported one returns no frame embeddings."
            )
        if not self.model.config.ctm_loss_weight:
            raise ValueError(
                "`return_alignment` needs a model trained with cross-temporal matching, but `ctm_loss_weight` is 0."
            )

    def _inputs(self, windows, used, speaker_profile):
        """The model's inputs for windows of which each has a stream."""
        extractor = self.processor.feature_extractor
        return extractor(
            [window.sound if heard else None for window, (heard, _) in zip(windows, used, strict=True)],
            [window.features if seen else None for window, (_, seen) in zip(windows, used, strict=True)],
            [window.success if seen else None for window, (_, seen) in zip(windows, used, strict=True)],
            [window.timestamps if seen else None for window, (_, seen) in zip(windows, used, strict=True)],
            speaker_profiles=[speaker_profile] * len(windows),
            sampling_rate=extractor.sampling_rate,
            duration_tolerance=math.inf,  # streams of one recording may end apart, and windows cut them
        )

    def _heard(self, window):
        return len(window.sound) >= self._fewest_samples()

    def _fewest_samples(self):
        config = self.model.config
        least = config.min_audio_inputs if config.audio_input_name == "input_values" else 1
        return max(least, SHORTEST * config.sampling_rate)

    def _ranked(self, probabilities, top_k):
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return [{"label": self.model.config.id2label[int(i)], "score": float(probabilities[i])} for i in order]

    @contextmanager
    def _recording(self, inputs, damage, streams="both", action_units_folder=None, extractor=None):
        """The streams of one input; what was fetched for it is deleted again."""
        name = "the clip"
        if isinstance(inputs, _Numbered):
            name, inputs = f"clip {inputs.index}", inputs.value
        with ExitStack() as stack:
            if isinstance(inputs, Recording | Window):
                yield inputs
                return
            path = _file_of(inputs, name, stack)
            if path is not None:
                yield self._opened(path, damage, streams, action_units_folder, extractor)
                return
            row = _as_row(inputs, name)
            if _is_address(row.get("audio")):
                row = {**row, "audio": stack.enter_context(_downloaded(row["audio"]))}
            yield self._of_arrays(row, streams, name)

    def _opened(self, path, damage, streams, action_units_folder, extractor):
        library, rate = _installed("inference.recordings"), self.processor.feature_extractor.sampling_rate
        picture = True if streams == "audio" or action_units_folder is not None else _has_picture(path)
        if picture is False and streams == "video":
            raise ValueError(f"{path.name} has no picture, but `streams` is 'video'.")
        if library is None:
            return _sound_alone(path, self.processor.feature_extractor, streams, picture)
        # The error of an unreadable file comes from reading its sound, before any extractor is looked for.
        only_sound = streams == "audio" or (streams == "both" and not picture)
        faces = None if only_sound else self._faces(action_units_folder, extractor)
        rates = {"sampling_rate": rate, "frame_rate": self.processor.feature_extractor.video_frame_rate}
        streams = "audio" if only_sound else streams
        recording = library.open_recording(path, faces, streams=streams, damage=damage, **rates)
        if picture is False:
            recording.notes.append(f"{path.name} has no picture: only its sound is used.")
        return recording

    def _faces(self, action_units_folder, extractor):
        """Where features come from; looked for once, for it may be read from disk."""
        if self._known_faces[0] != (action_units_folder, extractor):
            find_faces = _installed("inference.faces").find_faces
            found = find_faces(self.processor.feature_extractor, action_units_folder, extractor)
            self._known_faces = (action_units_folder, extractor), found
        return self._known_faces[1]

    def _of_arrays(self, clip, streams, name):
        extractor, name = self.processor.feature_extractor, str(clip.get("utterance_id") or name)
        _check_row(extractor.feature_identity, clip)
        audio = None if streams == "video" else clip.get("audio")
        units, success, seconds = (None if streams == "audio" else _track_of(clip)) or (None, None, None)
        if audio is None and units is None:
            raise ValueError(f"{name} holds neither `audio` nor `action_units` for `streams` {streams!r}.")
        rates = {
            "sampling_rate": clip.get("sampling_rate") or extractor.sampling_rate,
            "video_frame_rate": clip.get("video_frame_rate") or extractor.video_frame_rate,
        }
        waveform, track = extractor.check_clip(audio, units, success, seconds, **rates, convert=True, name=name)
        recording = Recording(name, extractor.sampling_rate)
        if waveform is None:
            recording.notes.append(f"{name}: no sound was given.")
        else:
            recording.sound = [waveform]
            if len(waveform) < self._fewest_samples():
                recording.notes.append(
                    f"{name}: {len(waveform)} samples are too few for a frame of the audio encoder."
                )
        if track is None:
            recording.notes.append(f"{name}: no features of the face were given.")
        else:
            units, success, seconds = track
            recording.faces = zip(seconds.tolist(), units, success.tolist(), strict=True)
        return recording


# ── what an input may be ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Numbered:
    """One of many inputs, with its place among them for errors."""

    index: int
    value: object


class _NumberedDataset(Dataset):
    """Inputs of a `datasets.Dataset`, which `Pipeline` does not know as a dataset, or of a torch one."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return _Numbered(index, self.dataset[index])


def _numbered(inputs):
    """Each of many inputs with its place; a single input as it is."""
    library = sys.modules.get("datasets")
    sized, streamed = (Dataset,), (GeneratorType, IterableDataset)
    if library is not None:
        sized, streamed = (*sized, library.Dataset), (*streamed, library.IterableDataset)
    if isinstance(inputs, list):
        return [_Numbered(index, value) for index, value in enumerate(inputs)]
    if isinstance(inputs, streamed) or (isinstance(inputs, Dataset) and not isinstance(inputs, Sized)):
        return (_Numbered(index, value) for index, value in enumerate(inputs))
    return _NumberedDataset(inputs) if isinstance(inputs, sized) else inputs


def _checked_top_k(top_k):
    if top_k is None:
        return None
    try:
        count = operator.index(top_k)
    except TypeError:
        count = 0
    if count < 1 or isinstance(top_k, bool):
        raise ValueError(f"`top_k` ({top_k!r}) must be a whole number of at least 1, or None for all emotions.")
    return count


def _installed(name):
    """A module of the installed package, or `None` in a process that has only the files beside the weights."""
    try:
        return importlib.import_module(f"modeling_aver.{name}")
    except ImportError:
        return None


def _is_address(value):
    return isinstance(value, str) and value.startswith(("http://", "https://"))


def _file_of(inputs, name, stack):
    """Path of the file that an input is, or `None` for other inputs. `stack` deletes what is written for it."""
    file_name = None
    if isinstance(inputs, Mapping) and not inputs.keys() & {"audio", "action_units", "array", "raw"}:
        path = inputs.get("path")
        file_name = os.path.basename(path) if isinstance(path, str | Path) else None
        inputs = inputs.get("bytes") or path
    if _is_address(inputs):
        return stack.enter_context(_downloaded(inputs))
    if isinstance(inputs, bytes):
        return stack.enter_context(_written(inputs, file_name))
    if not isinstance(inputs, str | Path):
        return None
    if not os.path.exists(inputs):
        raise ValueError(f"{str(inputs)!r} ({name}) is neither an existing file nor an http(s) address.")
    if not os.path.isfile(inputs):
        raise ValueError(f"{str(inputs)!r} ({name}) is not a file. Pass the files themselves, as a list.")
    return Path(inputs)


def _as_row(inputs, name):
    """A dict of `audio`, `action_units` and what belongs to them."""
    if isinstance(inputs, Mapping):
        if inputs.keys() & {"audio", "action_units"}:
            return inputs
        if inputs.keys() & {"array", "raw", "bytes", "path"}:
            return {"audio": inputs}
        keys = ", ".join(map(str, inputs)) or "(none)"
        raise ValueError(f"{name} is a dict with the keys {keys}, but {ACCEPTED}.")
    if isinstance(inputs, tuple) and len(inputs) == 2:
        return {"audio": inputs[0], "action_units": inputs[1]}
    if isinstance(inputs, np.ndarray | torch.Tensor) or hasattr(inputs, "get_all_samples"):
        return {"audio": inputs}
    raise ValueError(f"{name} is of type {type(inputs).__name__} ({inputs!r:.60}), but {ACCEPTED}.")


def _track_of(clip):
    """(action units, success, timestamps) of a dict, or `None`."""
    units = clip.get("action_units")
    if isinstance(units, str | Path):
        library = _installed("features.tables")
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


def _has_picture(path):
    """Whether a media file has a video stream other than a cover picture; `None` if it cannot be opened."""
    try:
        import av
    except ImportError:
        return None
    try:
        with av.open(
            str(path.resolve()),
            container_options={"protocol_whitelist": "file,crypto,data"},
            metadata_errors="replace",
        ) as container:
            cover = av.stream.Disposition.attached_pic
            return any(not stream.disposition & cover for stream in container.streams.video)
    except (av.FFmpegError, OSError, ValueError):
        return None


def _sound_alone(path, extractor, streams, picture):
    """What can be made of a media file without the package."""
    note = f"{path.name}: the face is not looked at, for that needs the package modeling-aver."
    if streams == "video":
        raise ImportError(f"{note} Give its features: {{'action_units': …}}.")
    if picture is False:
        note = f"{path.name} has no picture: only its sound is used."
    sound, _ = extractor.check_clip(path, convert=True, name=path.name)
    return Recording(path.name, extractor.sampling_rate, [sound], [], [note])


@contextmanager
def _downloaded(address):
    """Path of a file fetched from an address, as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="aver-") as folder:
        path = Path(folder) / _file_name(os.path.basename(address.partition("?")[0]), "download")
        _fetch(address, path)
        yield path


def _fetch(address, path):
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as response, open(path, "wb") as file:
            promised, size = response.headers.get("Content-Length"), 0
            while size <= MAX_DOWNLOAD and (piece := response.read(2**16)):
                size += file.write(piece)
    except (OSError, HTTPException, ValueError) as error:
        unwrapped = error.reason if type(error) is urllib.error.URLError else error
        raise OSError(f"{address} cannot be fetched: {' '.join(str(unwrapped).split())}.") from error
    if size > MAX_DOWNLOAD:
        raise ValueError(f"{address} is larger than {MAX_DOWNLOAD} bytes. Download it, and give the file.")
    if promised is not None and promised.isdecimal() and size < int(promised):
        raise OSError(f"{address} ended after {size} of {promised} bytes. Fetch it again.")


@contextmanager
def _written(content, name):
    with tempfile.TemporaryDirectory(prefix="aver-") as folder:
        path = Path(folder) / _file_name(name, "recording")
        path.write_bytes(content)
        yield path


def _file_name(name, default):
    """A name for a file in a folder of its own: what follows from addresses and datasets may be no name at all."""
    name = (name or "").replace("\0", "")[-100:]
    return default if name in ("", ".", "..") else name


# ── what an answer says ─────────────────────────────────────────────────────────────────────────────────────────────


def _alignment(outputs, row, window):
    """Similarity of the audio and video frames of one window, or `None` where it lacks a stream."""
    audio, video = outputs.audio_mask[row], outputs.video_mask[row]
    if not (audio.any() and video.any()):
        return None
    similarity = outputs.audio_embeds[row, audio] @ outputs.video_embeds[row, video].mT
    return {
        "start": window.start,
        "end": window.end,
        "audio_timestamps": window.start + outputs.audio_timestamps[row, audio].double().numpy(force=True),
        "video_timestamps": window.start + outputs.video_timestamps[row, video].double().numpy(force=True),
        "similarity": similarity.float().numpy(force=True),
    }


def _share_of_faces(steps):
    frames = sum(step.num_frames for step in steps)
    return sum(step.num_faces for step in steps) / frames if frames else None


def _notes_on_faces(steps):
    frames = sum(step.num_frames for step in steps)
    return [f"No face was found in {frames} pictures."] if frames and _share_of_faces(steps) == 0 else []
