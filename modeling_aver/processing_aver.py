"""Waveforms and action units in, padded and masked batches out.

`AverFeatureExtractor` does the work; `AverProcessor` is what `AutoProcessor` loads. Each clip is prepared alone and
then padded, so what a clip becomes never depends on its neighbours in a batch. PyAV is imported when a sound file is
decoded or a waveform is resampled.
"""

import importlib
import io
import math
import os
from collections.abc import Mapping
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoFeatureExtractor,
    BatchFeature,
    ProcessorMixin,
    SeamlessM4TFeatureExtractor,
    SequenceFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.utils import logging

logger = logging.get_logger(__name__)

# What the audio encoders of AverConfig read. A closed list: a configuration file cannot name another class.
AUDIO_FEATURE_EXTRACTORS = {
    extractor.__name__: extractor
    for extractor in (Wav2Vec2FeatureExtractor, WhisperFeatureExtractor, SeamlessM4TFeatureExtractor)
}
MIN_DURATION_GAP = 0.5  # seconds; recordings routinely end a few frames apart


class AverFeatureExtractor(SequenceFeatureExtractor):
    """
    Prepares both streams of [`AverForEmotionClassification`].

    Args:
        feature_size (`int`, *optional*, defaults to 1): Channels of an audio sample.
        sampling_rate (`int`, *optional*, defaults to 16000): Of the waveforms, in Hz.
        padding_value (`float`, *optional*, defaults to 0.0): Fills up shorter clips.
        audio_feature_extractor (`dict`, *optional*):
            Configuration of the audio encoder's own extractor: Wav2Vec2FeatureExtractor (waveforms, the default, to
            zero mean and unit variance), WhisperFeatureExtractor or SeamlessM4TFeatureExtractor (spectrograms).
        num_action_units (`int`, *optional*, defaults to 35): Channels of a video frame.
        video_frame_rate (`float`, *optional*, defaults to 30.0): Hz, for video that comes without timestamps.
        feature_identity (`dict`, *optional*):
            Who made the video features that the model was trained on, see [`~features.FeatureIdentity`].
        action_unit_mean, action_unit_std (`list[float]`, *optional*):
            Statistics of the training split, see [`~AverFeatureExtractor.fit_action_units`]. Without them, action
            units stay as they are.
        audio_identity (`str`, *optional*):
            Which layers of which audio encoder the model hears, so that profiles made with another are refused.
        duration_tolerance (`float`, *optional*, defaults to 0.25):
            Streams that end further apart than this share of the longer one (and than 0.5 s) are refused.

    Raises:
        `ValueError`: for values that no extractor can have.
    """

    model_input_names = ["input_values", "attention_mask", "action_units", "action_units_mask", "video_timestamps"]

    def __init__(
        self,
        feature_size=1,
        sampling_rate=16_000,
        padding_value=0.0,
        audio_feature_extractor=None,
        num_action_units=35,
        video_frame_rate=30.0,
        feature_identity=None,
        action_unit_mean=None,
        action_unit_std=None,
        audio_identity=None,
        duration_tolerance=0.25,
        **kwargs,
    ):
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.audio_feature_extractor = audio_feature_extractor or _wav2vec2_defaults(sampling_rate)
        self.num_action_units = num_action_units
        self.video_frame_rate = video_frame_rate
        self.feature_identity = feature_identity
        self.action_unit_mean = action_unit_mean
        self.action_unit_std = action_unit_std
        self.audio_identity = audio_identity
        self.duration_tolerance = duration_tolerance
        self._check()
        self.model_input_names = [self._audio_extractor().model_input_names[0], *type(self).model_input_names[1:]]

    @classmethod
    def from_audio_pretrained(cls, audio_model_name_or_path, revision=None, token=None, **kwargs):
        """
        An extractor that prepares audio as a pretrained audio encoder expects it; goes with
        [`AverForEmotionClassification.from_audio_pretrained`]. `kwargs` are those of the class.
        """
        audio = AutoFeatureExtractor.from_pretrained(
            audio_model_name_or_path, revision=revision, token=token, trust_remote_code=False
        )
        return cls(sampling_rate=audio.sampling_rate, audio_feature_extractor=audio.to_dict(), **kwargs)

    @classmethod
    def from_config(cls, config, **kwargs):
        """An extractor for a new model of `config` ([`AverConfig`]). `kwargs` are those of the class."""
        audio = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "return_attention_mask": True}
        if config.audio_config.model_type == "whisper":
            audio = {
                "feature_extractor_type": "WhisperFeatureExtractor",
                "feature_size": config.audio_config.num_mel_bins,
            }
        elif config.audio_config.model_type == "wav2vec2-bert":
            audio = {"feature_extractor_type": "SeamlessM4TFeatureExtractor"}
        names = ("sampling_rate", "num_action_units", "video_frame_rate", "feature_identity")
        values = {name: getattr(config, name) for name in names}
        audio["sampling_rate"] = config.sampling_rate
        return cls(audio_feature_extractor=audio, **{**values, **kwargs})

    def __call__(
        self,
        audio=None,
        action_units=None,
        action_units_success=None,
        video_timestamps=None,
        audio_frames=None,
        *,
        speaker_profiles=None,
        sampling_rate=None,
        video_frame_rate=None,
        duration_tolerance=None,
        return_tensors="pt",
    ):
        """
        Args:
            audio (array of shape `(num_samples,)`, or a list of such and `None`, *optional*):
                Mono waveforms as lists, NumPy arrays or torch tensors, or an `audio` column of `datasets`:
                `{"array", "sampling_rate"}` (or `"raw"`), `{"bytes", "path"}` or a torchcodec `AudioDecoder`. `None`
                for a clip without sound. File paths are refused, as in transformers' feature extractors: the pipeline
                takes them.
            action_units (array of shape `(num_video_frames, num_action_units)`, or a list of such and `None`,
                *optional*): `None` for a clip without video.
            action_units_success (array of shape `(num_video_frames,)`, or a list of such and `None`, *optional*):
                1 where a face was found. Frames with 0 stay in their place and are masked.
            video_timestamps (array of shape `(num_video_frames,)`, or a list of such and `None`, *optional*):
                Seconds on the audio's clock; may start anywhere and need not be even.
            audio_frames (array of shape `(num_audio_frames, num_audio_layers, channels)`, or a list of such and
                `None`, *optional*): In place of `audio`: what [`~AverModel.encode_audio`] made of it before.
            speaker_profiles (list of [`SpeakerProfile`] and `None`, *optional*):
                Of who is in each clip. Its action units are standardized by that person's statistics, and its audio
                frames will be by the model. `None`, for nobody known: by those of the training clips.
            sampling_rate (`int`, *optional*): Of `audio`, in Hz. Give it: a wrong one is refused.
            video_frame_rate (`float`, *optional*):
                Hz, for video without timestamps. Defaults to the extractor's own.
            duration_tolerance (`float`, *optional*):
                Replaces the extractor's own. `math.inf` accepts streams of any two durations.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"` or `"np"`.

        Returns:
            `BatchFeature`: `input_values` (or `input_features`) and `attention_mask`, or `audio_frames` and
            `audio_frames_mask`; `action_units`, `action_units_mask` and `video_timestamps` (s). A stream that nobody
            in the batch has is left out. Padding is on the right. With profiles that know the voice,
            `speaker_audio_mean` and `speaker_audio_std`.

        Raises:
            `ValueError`: if a stream is empty, not finite or of another shape, runs at another sampling rate, goes
            back in time, or lasts grossly longer than the other, or if a profile is of another extractor or encoder.
            The message names the clip.
        """
        audio, video = _batch_of(audio, ndim=1), _batch_of(action_units, ndim=2)
        success, times = _batch_of(action_units_success, ndim=1), _batch_of(video_timestamps, ndim=1)
        kept = _batch_of(audio_frames, ndim=3)
        streams = {"audio": audio, "audio_frames": kept, "action_units": video, "success": success, "times": times}
        num_clips = _common_length(**streams, speaker_profiles=speaker_profiles)
        if audio and kept:
            raise ValueError("Give `audio` or `audio_frames`, not both: they are one sound.")
        absent = [None] * num_clips

        kept = [_checked_frames(clip, index) for index, clip in enumerate(kept or absent)]
        profiles = [self._checked_profile(profile, index) for index, profile in enumerate(speaker_profiles or absent)]
        options = {
            "sampling_rate": sampling_rate,
            "video_frame_rate": video_frame_rate,
            "duration_tolerance": duration_tolerance,
        }
        clips = zip(audio or absent, video or absent, success or absent, times or absent, strict=True)
        checked = [self.check_clip(*clip, **options, name=f"clip {index}") for index, clip in enumerate(clips)]
        for index, (clip, frames) in enumerate(zip(checked, kept, strict=True)):
            if all(stream is None for stream in (*clip, frames)):
                raise ValueError(f"Clip {index} has neither `audio` nor `action_units`.")
        waveforms = [waveform for waveform, _ in checked]
        tracks = [self._standardized(track, profile) for (_, track), profile in zip(checked, profiles, strict=True)]
        batch = {**self._pad_audio(waveforms), **_pad_frames(kept), **_pad_video(tracks), **_stack_voices(profiles)}
        return BatchFeature(batch, tensor_type=return_tensors)

    def check_clip(
        self,
        audio: object = None,
        action_units: object = None,
        action_units_success: object = None,
        video_timestamps: object = None,
        *,
        sampling_rate: float | None = None,
        video_frame_rate: float | None = None,
        duration_tolerance: float | None = None,
        convert: bool = False,
        name: str = "the clip",
    ) -> tuple[np.ndarray | None, tuple[np.ndarray, np.ndarray, np.ndarray] | None]:
        """
        The checked streams of one clip, before standardization and padding.

        Args:
            audio, action_units, action_units_success, video_timestamps:
                Of one clip, as in [`~AverFeatureExtractor.__call__`].
            sampling_rate, video_frame_rate, duration_tolerance: As in [`~AverFeatureExtractor.__call__`].
            convert (`bool`, *optional*, defaults to `False`):
                Whether to accept what is otherwise refused: sound files (a path or bytes) are decoded, other sampling
                rates are resampled, and `(channels, num_samples)` of one or two channels are averaged.
            name (`str`, *optional*, defaults to `"the clip"`): For errors.

        Returns:
            `tuple`: the waveform `(num_samples,)` as float32, and `(action_units, success, timestamps)` of shapes
            `(num_video_frames, num_action_units)`, `(num_video_frames,)` and `(num_video_frames,)`. `None` in place of
            an absent stream.

        Raises:
            `ValueError`: as in [`~AverFeatureExtractor.__call__`].
        """
        frame_rate = self.video_frame_rate if video_frame_rate is None else video_frame_rate
        waveform = self._waveform(audio, name, sampling_rate, convert)
        track = self._track(action_units, action_units_success, video_timestamps, name, frame_rate)
        if waveform is not None and track is not None:
            tolerance = self.duration_tolerance if duration_tolerance is None else duration_tolerance
            self._check_together(name, waveform, track[2], tolerance)
        return waveform, track

    def fit_action_units(self, action_units, action_units_success=None):
        """
        Stores mean and deviation of each action unit over the real frames of the *training* split, so that intensities
        (0 to 5) and presences (0 or 1) come on one scale. Action units that never change keep their size.

        Args:
            action_units (iterable of arrays of shape `(num_video_frames, num_action_units)`): One clip after another;
                a generator is fine, nothing is kept.
            action_units_success (iterable of arrays of shape `(num_video_frames,)`, *optional*): 1 = face found.

        Returns:
            The extractor itself.

        Raises:
            `ValueError`: if no frame with a face is among them.
        """
        count, mean, scatter = 0, np.zeros(self.num_action_units), np.zeros(self.num_action_units)
        flags = iter(action_units_success) if action_units_success is not None else None
        for index, clip in enumerate(action_units):
            units, found, _ = self._track(
                clip, None if flags is None else next(flags), None, f"clip {index}", self.video_frame_rate
            )
            units = units[found].astype(np.float64)
            if len(units) == 0:
                continue
            # Chan's update: one pass, no cancellation.
            clip_mean, total = units.mean(axis=0), count + len(units)
            scatter += ((units - clip_mean) ** 2).sum(axis=0) + (clip_mean - mean) ** 2 * count * len(units) / total
            mean += (clip_mean - mean) * len(units) / total
            count = total
        if count == 0:
            raise ValueError("`action_units` has no frame with a face: nothing to take statistics of.")
        deviation = np.sqrt(scatter / count)
        self.action_unit_mean = mean.tolist()
        self.action_unit_std = np.where(deviation > 1e-6, deviation, 1.0).tolist()
        return self

    def _audio_extractor(self):
        values = dict(self.audio_feature_extractor)
        return AUDIO_FEATURE_EXTRACTORS[values.pop("feature_extractor_type")](**values)

    def _waveform(self, clip, name, sampling_rate, convert):
        if clip is None:
            return None
        what = f"`audio` of {name}"
        clip, own_rate = _samples_of(clip, self.sampling_rate, what, convert)
        sampling_rate = sampling_rate if own_rate is None else own_rate
        if sampling_rate is None:
            logger.warning_once(f"`sampling_rate` was not given; {self.sampling_rate} Hz is assumed.")
            sampling_rate = self.sampling_rate
        if sampling_rate != self.sampling_rate and not convert:
            raise ValueError(
                f"`sampling_rate` is {sampling_rate} but this processor was made for {self.sampling_rate}. Resample "
                f'first: dataset.cast_column("audio", Audio(sampling_rate={self.sampling_rate})).'
            )
        return _resampled(_mono(clip, what, convert), sampling_rate, self.sampling_rate, what)

    def _checked_profile(self, profile, index):
        if profile is None:
            return None
        own = {"action units": _length(self.action_unit_mean), "extractor": _named(self.feature_identity)}
        its = {"action units": _length(profile.action_unit_mean), "extractor": _named(profile.feature_identity)}
        if profile.audio_mean is not None:
            own["audio encoder"], its["audio encoder"] = self.audio_identity, profile.audio_identity
        for what, value in own.items():
            if its[what] != value:
                raise ValueError(
                    f"The speaker profile of clip {index} was made for another model: its {what}: {its[what]}, this "
                    f"model's: {value}. Make one with this model: aver enroll CLIPS --model MODEL --out PROFILE."
                )
        return profile

    def _track(self, units, success, timestamps, name, frame_rate):
        """(units `(T, D)`, success `(T,)` bool, seconds `(T,)`) of one clip, or `None`."""
        if units is None:
            return None
        units = _to_numpy(units, f"`action_units` of {name}").astype(np.float32)
        if units.ndim != 2 or len(units) == 0:
            raise ValueError(f"`action_units` of {name} must have rows for its frames, but has shape {units.shape}.")
        if units.shape[1] != self.num_action_units:
            hint = " (17 intensities, then 18 presences)" if self.num_action_units == 35 else ""
            lacking = " Was AU28_c dropped with the intensities that lack it?" if units.shape[1] == 34 else ""
            raise ValueError(
                f"`action_units` must have {self.num_action_units} channels{hint}, but {name} has "
                f"{units.shape[1]}.{lacking}"
            )
        found = np.ones(len(units), bool) if success is None else _to_numpy(success, "`action_units_success`") > 0
        seconds = _even_times(len(units), frame_rate) if timestamps is None else _to_numpy(timestamps, "timestamps")
        for argument, values in {"action_units_success": found, "video_timestamps": seconds}.items():
            if values.shape != units.shape[:1]:
                raise ValueError(f"`{argument}` of {name} has shape {values.shape} for {len(units)} video frames.")
        units = np.where(found[:, None], units, np.float32(0.0))
        _refuse_not_finite(units, f"`action_units` of {name}")
        _refuse_not_finite(seconds, f"`video_timestamps` of {name}")
        if (np.diff(seconds) < 0).any():
            frame = int(np.argmax(np.diff(seconds) < 0)) + 1
            raise ValueError(
                f"`video_timestamps` of {name} must not decrease, but frame {frame} is at "
                f"{seconds[frame]:.3f} s, after {seconds[frame - 1]:.3f} s."
            )
        return units, found, seconds

    def _standardized(self, track, profile):
        """A checked track with its action units scaled by the statistics of the speaker, or of the training clips."""
        if track is None:
            return None
        units, found, seconds = track
        whose = self if profile is None else profile
        if whose.action_unit_mean is not None:
            units = (units - np.asarray(whose.action_unit_mean)) / np.asarray(whose.action_unit_std)
        return np.where(found[:, None], units, 0.0).astype(np.float32), found, seconds.astype(np.float32)

    def _check_together(self, name, waveform, seconds, tolerance):
        audio_seconds = len(waveform) / self.sampling_rate
        if math.isinf(tolerance):
            return
        if len(seconds) == 1:  # a summary of the clip has no rate, but a moment
            _check_moment(name, float(seconds[0]), audio_seconds)
            return
        step = np.median(np.diff(seconds))
        start, end = float(seconds[0]), float(seconds[-1] + step)
        allowed = max(MIN_DURATION_GAP, tolerance * max(audio_seconds, end - start))
        if abs(end - audio_seconds) > allowed or abs(end - start - audio_seconds) > allowed:
            raise ValueError(
                f"`action_units` of {name} lasts {end - start:.2f} s at {1 / step:.1f} Hz (from {start:.2f} s to "
                f"{end:.2f} s) but its `audio` lasts {audio_seconds:.2f} s at {self.sampling_rate} Hz. Is "
                "`video_frame_rate`, or are `video_timestamps`, right?"
            )

    def _pad_audio(self, waveforms):
        if all(waveform is None for waveform in waveforms):
            return {}
        extractor = self._audio_extractor()
        name = extractor.model_input_names[0]
        clips = [None if waveform is None else self._audio_inputs(extractor, waveform) for waveform in waveforms]
        empty = np.zeros_like(next(clip for clip in clips if clip is not None)[:0])
        inputs, mask = _pad([empty if clip is None else clip for clip in clips])
        # (B, T, mel) -> (B, mel, T), the layout of whisper
        return {name: inputs.swapaxes(1, 2) if _is_mel_first(extractor) else inputs, "attention_mask": mask}

    def _audio_inputs(self, extractor, waveform):
        """What the audio encoder reads of one clip alone, time first."""
        inputs = extractor(waveform, sampling_rate=self.sampling_rate, padding=False, return_tensors="np")
        values = np.asarray(inputs[extractor.model_input_names[0]][0], np.float32)
        return values.T if _is_mel_first(extractor) else values

    def _check(self):
        audio = self.audio_feature_extractor
        extractor_type = audio.get("feature_extractor_type") if isinstance(audio, dict) else audio
        if not isinstance(extractor_type, str) or extractor_type not in AUDIO_FEATURE_EXTRACTORS:
            raise ValueError(
                f"`audio_feature_extractor` ({extractor_type!r}) must be one of {', '.join(AUDIO_FEATURE_EXTRACTORS)}."
            )
        rate = audio.get("sampling_rate", self.sampling_rate)
        if rate != self.sampling_rate:
            raise ValueError(f"`audio_feature_extractor` has the sampling_rate {rate!r}, not {self.sampling_rate!r}.")
        for name in ("sampling_rate", "num_action_units"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{name}` ({value!r}) must be a positive integer.")
        if not _is_number(self.video_frame_rate) or not self.video_frame_rate > 0:
            raise ValueError(
                f"`video_frame_rate` ({self.video_frame_rate}) must be a positive number of frames a second."
            )
        if not _is_number(self.duration_tolerance) or self.duration_tolerance < 0:
            raise ValueError(f"`duration_tolerance` ({self.duration_tolerance}) must be a number of at least 0.")
        if not isinstance(self.feature_identity, dict | None):
            raise ValueError(f"`feature_identity` ({self.feature_identity!r}) must be a dict with a name, or None.")
        self._check_statistics()

    def _check_statistics(self):
        given = {name: getattr(self, name) for name in ("action_unit_mean", "action_unit_std")}
        for name, values in given.items():
            if values is not None and not (isinstance(values, list) and all(map(_is_number, values))):
                raise ValueError(f"`{name}` must be a list of finite numbers, or None.")
            if values is not None and len(values) != self.num_action_units:
                raise ValueError(f"`{name}` has {len(values)} numbers for {self.num_action_units} action units.")
        if self.action_unit_std is not None and not min(self.action_unit_std, default=1.0) > 0:
            raise ValueError(f"`action_unit_std` must be positive, but holds {min(self.action_unit_std)}.")
        if (given["action_unit_mean"] is None) != (given["action_unit_std"] is None):
            raise ValueError("`action_unit_mean` and `action_unit_std` belong together: give both, or neither.")


class AverProcessor(ProcessorMixin):
    """
    What `AutoProcessor.from_pretrained` gives for this model: [`AverFeatureExtractor`] with the saving and loading of
    transformers' processors.

    Example:

    ```python
    processor = AverProcessor(AverFeatureExtractor())
    batch = processor(audio=[speech], action_units=[face], sampling_rate=16_000)
    logits = model(**batch).logits
    ```
    """

    def __init__(self, feature_extractor):
        super().__init__(feature_extractor)

    @classmethod
    def from_audio_pretrained(cls, audio_model_name_or_path, **kwargs):
        """As [`AverFeatureExtractor.from_audio_pretrained`]."""
        return cls(AverFeatureExtractor.from_audio_pretrained(audio_model_name_or_path, **kwargs))

    @classmethod
    def from_config(cls, config, **kwargs):
        """As [`AverFeatureExtractor.from_config`]."""
        return cls(AverFeatureExtractor.from_config(config, **kwargs))

    @staticmethod
    def get_possibly_dynamic_module(module_name):
        """
        As in transformers, but only for what feature extractors have in common: a file could name any other class as
        an `audio_tokenizer`, to be loaded from wherever it says.
        """
        if module_name != "FeatureExtractionMixin":
            raise ValueError(f"The processor's file names {module_name!r}, but AverProcessor has no such part.")
        return ProcessorMixin.get_possibly_dynamic_module(module_name)

    def __call__(self, audio=None, action_units=None, **kwargs):
        """As [`AverFeatureExtractor.__call__`]."""
        return self.feature_extractor(audio, action_units, **kwargs)


def _wav2vec2_defaults(sampling_rate):
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=sampling_rate, do_normalize=True, return_attention_mask=True)
    return extractor.to_dict()


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_mel_first(extractor):
    return isinstance(extractor, WhisperFeatureExtractor)


def _batch_of(value, ndim):
    """A list of clips: `value` itself, or `[value]` where it is that of a single clip. `None` where absent."""
    if value is None:
        return None
    if isinstance(value, list | tuple):
        first = next((clip for clip in value if clip is not None), None)
        numeric = isinstance(first, list | tuple | np.ndarray | torch.Tensor | np.generic | Real)
        return [value] if numeric and _depth(first) < ndim else list(value)
    return [value] if getattr(value, "ndim", 0) <= ndim else list(value)


def _depth(value):
    """Dimensions of an array or of nested lists, judged by their first rows; ragged ones are named later."""
    if isinstance(value, list | tuple):
        return 1 + (_depth(value[0]) if value else 0)
    return value.ndim if isinstance(value, np.ndarray | torch.Tensor) else 0


def _common_length(**streams):
    sizes = {name: len(clips) for name, clips in streams.items() if clips is not None}
    if not set(sizes) & {"audio", "audio_frames", "action_units"}:
        raise ValueError("Neither `audio` nor `action_units` was given: a clip needs one of them.")
    if len(set(sizes.values())) > 1:
        raise ValueError(f"Streams differ in their number of clips: {sizes}.")
    return next(iter(sizes.values()))


def _to_numpy(values, name):
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be numbers in rows of equal length.") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers in rows of equal length, but is {_described(values)}.")
    return array


def _described(value):
    """A value in a few words, for errors."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _refuse_not_finite(values, name):
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(f"{name} must be finite, but {int(bad.sum())} of its {bad.size} values are NaN or infinite.")


def _even_times(num_frames, frame_rate):
    if not frame_rate > 0:
        raise ValueError(f"`video_frame_rate` ({frame_rate}) must be a positive number of frames per second.")
    return np.arange(num_frames) / frame_rate


def _pad(clips):
    """Zero-padded `(B, T, …)` float32 and its mask `(B, T)` int64."""
    longest = max(len(clip) for clip in clips)
    padded = np.zeros((len(clips), longest, *clips[0].shape[1:]), np.float32)
    mask = np.zeros((len(clips), longest), np.int64)
    for row, row_mask, clip in zip(padded, mask, clips, strict=True):
        row[: len(clip)], row_mask[: len(clip)] = clip, 1
    return padded, mask


def _check_moment(name, moment, audio_seconds):
    if not -MIN_DURATION_GAP <= moment <= audio_seconds + MIN_DURATION_GAP:
        raise ValueError(
            f"The one row of `action_units` of {name} is at {moment:.2f} s, but its `audio` lasts "
            f"{audio_seconds:.2f} s. Put a summary of the clip at its middle."
        )


def _checked_frames(clip, index):
    if clip is None:
        return None
    frames = _to_numpy(clip, f"`audio_frames` of clip {index}")
    if frames.ndim != 3 or len(frames) == 0:
        raise ValueError(
            f"`audio_frames` of clip {index} must have the shape (num_audio_frames, num_audio_layers, channels), but "
            f"has {frames.shape}."
        )
    return frames


def _pad_frames(clips):
    present = [clip for clip in clips if clip is not None]
    if not present:
        return {}
    frames, mask = _pad([present[0][:0] if clip is None else clip for clip in clips])
    return {"audio_frames": frames, "audio_frames_mask": mask}


def _length(values):
    return None if values is None else len(values)


def _named(identity):
    """A feature identity without its columns, as text."""
    return identity and " ".join(str(identity[name]) for name in ("name", "version", "settings") if identity.get(name))


def _stack_voices(profiles):
    """Audio statistics `(B, num_audio_layers, channels)` of the clips' speakers, 0 where they are not known."""
    known = [profile for profile in profiles if profile is not None and profile.audio_mean is not None]
    if not known:
        return {}
    unknown = np.zeros_like(known[0].audio_mean)
    voices = [
        (profile.audio_mean, profile.audio_std) if profile in known else (unknown, unknown) for profile in profiles
    ]
    mean, std = (np.stack(values).astype(np.float32) for values in zip(*voices, strict=True))
    return {"speaker_audio_mean": mean, "speaker_audio_std": std}


def _pad_video(tracks):
    present = [track for track in tracks if track is not None]
    if not present:
        return {}
    nothing = [part[:0] for part in present[0]]
    units, found, seconds = zip(*(nothing if track is None else track for track in tracks), strict=True)
    action_units, mask = _pad(units)
    success, _ = _pad([flags.astype(np.float32) for flags in found])
    timestamps, _ = _pad(seconds)
    return {
        "action_units": action_units,
        "action_units_mask": mask * (success > 0),
        "video_timestamps": timestamps,
    }


# ── sound in all the forms that transformers and datasets know ──────────────────────────────────────────────────────


def _samples_of(clip, sampling_rate, what, convert):
    """(samples, their sampling rate or `None` where `clip` does not say it)."""
    if hasattr(clip, "get_all_samples"):  # torchcodec's AudioDecoder, which `datasets` gives
        decoded = clip.get_all_samples()
        return decoded.data.mean(dim=0), decoded.sample_rate
    if isinstance(clip, str | Path | bytes):
        if not convert:
            raise ValueError(
                f"{what} must be samples, but is {_described(clip)}. Pass the file to the pipeline, or as "
                '{"path": …} or {"bytes": …}.'
            )
        return read_audio_file(clip, sampling_rate), sampling_rate
    if not isinstance(clip, Mapping):
        return clip, None
    array = clip.get("raw") if clip.get("array") is None else clip["array"]
    if array is not None:
        if clip.get("sampling_rate") is None:
            raise ValueError(f"{what} is a dict with samples, which also needs their `sampling_rate` (Hz).")
        return array, clip["sampling_rate"]
    source, path = clip.get("bytes") or clip.get("path"), clip.get("path")
    if not isinstance(source, str | Path | bytes):
        raise ValueError(
            f"{what} is a dict with the keys {', '.join(map(str, clip)) or '(none)'}: it needs `array` or `raw` with "
            "`sampling_rate`, or `bytes` or `path` of a sound file."
        )
    name = os.path.basename(path) if isinstance(path, str | Path) else None
    return read_audio_file(source, sampling_rate, name), sampling_rate


def _mono(samples, what, average):
    """Checked float32 samples `(num_samples,)`; integers are scaled to [-1, 1]."""
    samples = _to_numpy(samples, what)
    if samples.dtype in (np.int16, np.int32):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    if average and samples.ndim == 2 and len(samples) <= 2:
        samples = samples.mean(axis=0)
    if samples.ndim != 1 or len(samples) == 0:
        layout = " Stereo is (channels, num_samples): transpose (num_samples, channels)." if samples.ndim == 2 else ""
        raise ValueError(
            f"{what} must be one row of samples (mono), but has shape {samples.shape}.{layout if average else ''}"
        )
    with np.errstate(over="ignore"):
        samples = samples.astype(np.float32)
    _refuse_not_finite(samples, what)
    return samples


def _resampled(samples, rate, wanted, what):
    """
    Samples at `wanted` Hz, by the resampler that sound files go through too (libswresample, in PyAV), so that an array
    and a file of the same samples are the same input.
    """
    if rate == wanted:
        return samples
    if not isinstance(rate, Real) or isinstance(rate, bool) or not 1 <= rate < 2**31 or rate != int(rate):
        raise ValueError(f"`sampling_rate` of {what} ({rate!r}) must be a positive whole number of Hz.")
    av = _pyav(f"{what} has {rate} Hz and is resampled to {wanted} Hz")
    frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
    frame.sample_rate = int(rate)
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=wanted)
    try:
        pieces = [piece.to_ndarray()[0] for part in (frame, None) for piece in resampler.resample(part)]
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{what} cannot be resampled from {rate} to {wanted} Hz ({error}).") from error
    return np.concatenate(pieces)


def read_audio_file(source: str | Path | bytes, sampling_rate: int, name: str | None = None) -> np.ndarray:
    """
    Mono samples of a sound or video file at `sampling_rate`: by `modeling_aver.io` where that is installed, and
    by PyAV alone where only the files beside the weights are.

    Args:
        source (`str`, `Path` or `bytes`): A file, or its content.
        sampling_rate (`int`): Hz.
        name (`str`, *optional*): For errors. Defaults to the file's name.

    Returns:
        `np.ndarray` of shape `(num_samples,)`: float32. Sample 0 is the first moment of the container.
    """
    try:
        library = importlib.import_module("modeling_aver.io.media")
    except ImportError:
        return _decoded(source, sampling_rate, name)
    return library.read_audio(source, sampling_rate, name)


def _decoded(source, sampling_rate, name=None):
    """What `modeling_aver.io.media.read_audio` returns, with fewer checks."""
    name = name or ("audio" if isinstance(source, bytes) else Path(source).name)
    av = _pyav(f"{name} is a media file")
    file = io.BytesIO(source) if isinstance(source, bytes) else str(Path(source).resolve())
    try:
        with av.open(
            file, container_options={"protocol_whitelist": "file,crypto,data"}, metadata_errors="replace"
        ) as container:
            if not container.streams.audio:
                raise ValueError(f"{name} has no sound.")
            start, pieces = _decode_stream(av, container, sampling_rate)
    except av.FFmpegError as error:
        raise ValueError(f"{name} cannot be decoded ({error.strerror}). Is it damaged or cut short?") from error
    if not pieces:
        raise ValueError(f"{name} has an audio stream but no sample of sound in it.")
    offset, samples = round(start * sampling_rate), np.concatenate(pieces)
    return np.concatenate([np.zeros(max(offset, 0), np.float32), samples[max(-offset, 0) :]])


def _decode_stream(av, container, sampling_rate):
    """(seconds from the container's start to the first sample, pieces of mono samples)."""
    resampler, start, pieces = av.AudioResampler(format="fltp", rate=sampling_rate), 0.0, []
    for frame in container.decode(container.streams.audio[0]):
        if not pieces and frame.time is not None:
            start = frame.time - (container.start_time or 0) / av.time_base
        frame.pts = None
        pieces.extend(part.to_ndarray().mean(axis=0) for part in resampler.resample(frame))
    pieces.extend(part.to_ndarray().mean(axis=0) for part in resampler.resample(None))
    return start, pieces


def _pyav(reason):
    try:
        import av
    except ImportError as error:
        raise ImportError(f"{reason}, which needs PyAV: pip install av") from error
    return av
