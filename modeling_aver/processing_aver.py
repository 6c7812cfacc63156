"""Waveforms and action units in, padded and masked batches out.

`AverFeatureExtractor` does the work; `AverProcessor` is what `AutoProcessor` loads. Each clip is prepared alone and
then padded, so what a clip becomes never depends on its neighbours in a batch.
"""

import math
from collections.abc import Mapping

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
        return_tensors="pt",
    ):
        """
        Args:
            audio (array of shape `(num_samples,)`, or a list of such and `None`, *optional*):
                Mono waveforms as lists, NumPy arrays, torch tensors or `{"array", "sampling_rate"}`. `None` for a clip
                without sound.
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

        waveforms = [self._waveform(clip, index, sampling_rate) for index, clip in enumerate(audio or absent)]
        kept = [_checked_frames(clip, index) for index, clip in enumerate(kept or absent)]
        frame_rate = self.video_frame_rate if video_frame_rate is None else video_frame_rate
        profiles = [self._checked_profile(profile, index) for index, profile in enumerate(speaker_profiles or absent)]
        tracks = [
            self._track(*track, index, frame_rate, profile)
            for index, (*track, profile) in enumerate(
                zip(video or absent, success or absent, times or absent, profiles, strict=True)
            )
        ]
        for index, (waveform, frames, track) in enumerate(zip(waveforms, kept, tracks, strict=True)):
            if waveform is None and frames is None and track is None:
                raise ValueError(f"Clip {index} has neither `audio` nor `action_units`.")
            if waveform is not None and track is not None:
                self._check_together(index, waveform, track)
        batch = {**self._pad_audio(waveforms), **_pad_frames(kept), **_pad_video(tracks), **_stack_voices(profiles)}
        return BatchFeature(batch, tensor_type=return_tensors)

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
                clip, None if flags is None else next(flags), None, index, self.video_frame_rate
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

    def _waveform(self, clip, index, sampling_rate):
        if clip is None:
            return None
        if isinstance(clip, Mapping):
            clip, sampling_rate = clip["array"], clip["sampling_rate"]
        if sampling_rate is None:
            logger.warning_once(f"`sampling_rate` was not given; {self.sampling_rate} Hz is assumed.")
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"`sampling_rate` is {sampling_rate} but this processor was made for {self.sampling_rate}. Resample "
                f'first: dataset.cast_column("audio", Audio(sampling_rate={self.sampling_rate})).'
            )
        waveform = _to_numpy(clip, f"`audio` of clip {index}")
        if waveform.dtype in (np.int16, np.int32):
            waveform = waveform / -float(np.iinfo(waveform.dtype).min)
        if waveform.ndim != 1 or len(waveform) == 0:
            raise ValueError(
                f"`audio` of clip {index} must be one row of samples (mono), but has shape {waveform.shape}."
            )
        _refuse_not_finite(waveform, f"`audio` of clip {index}")
        return waveform.astype(np.float32)

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

    def _track(self, units, success, timestamps, index, frame_rate, profile=None):
        """(scaled units `(T, D)`, success `(T,)` bool, seconds `(T,)`) of one clip, or `None`."""
        if units is None:
            return None
        units = _to_numpy(units, f"`action_units` of clip {index}").astype(np.float32)
        if units.ndim != 2 or len(units) == 0:
            raise ValueError(
                f"`action_units` of clip {index} must have rows for its frames, but has shape {units.shape}."
            )
        if units.shape[1] != self.num_action_units:
            hint = " (17 intensities, then 18 presences)" if self.num_action_units == 35 else ""
            lacking = " Was AU28_c dropped with the intensities that lack it?" if units.shape[1] == 34 else ""
            raise ValueError(
                f"`action_units` must have {self.num_action_units} channels{hint}, but clip {index} has "
                f"{units.shape[1]}.{lacking}"
            )
        found = np.ones(len(units), bool) if success is None else _to_numpy(success, "`action_units_success`") > 0
        seconds = _even_times(len(units), frame_rate) if timestamps is None else _to_numpy(timestamps, "timestamps")
        for name, values in {"action_units_success": found, "video_timestamps": seconds}.items():
            if values.shape != units.shape[:1]:
                raise ValueError(f"`{name}` of clip {index} has shape {values.shape} for {len(units)} video frames.")
        units = np.where(found[:, None], units, 0.0)
        _refuse_not_finite(units, f"`action_units` of clip {index}")
        _refuse_not_finite(seconds, f"`video_timestamps` of clip {index}")
        if (np.diff(seconds) < 0).any():
            frame = int(np.argmax(np.diff(seconds) < 0)) + 1
            raise ValueError(
                f"`video_timestamps` of clip {index} must not decrease, but frame {frame} is at "
                f"{seconds[frame]:.3f} s, after {seconds[frame - 1]:.3f} s."
            )
        whose = self if profile is None else profile
        if whose.action_unit_mean is not None:
            units = (units - np.asarray(whose.action_unit_mean)) / np.asarray(whose.action_unit_std)
        return np.where(found[:, None], units, 0.0).astype(np.float32), found, seconds.astype(np.float32)

    def _check_together(self, index, waveform, track):
        audio_seconds = len(waveform) / self.sampling_rate
        _, _, seconds = track
        if len(seconds) == 1:  # a summary of the clip has no rate, but a moment
            return _check_moment(index, float(seconds[0]), audio_seconds)
        step = np.median(np.diff(seconds))
        start, end = float(seconds[0]), float(seconds[-1] + step)
        allowed = max(MIN_DURATION_GAP, self.duration_tolerance * max(audio_seconds, end - start))
        if abs(end - audio_seconds) > allowed or abs(end - start - audio_seconds) > allowed:
            raise ValueError(
                f"Clip {index}: `action_units` lasts {end - start:.2f} s at {1 / step:.1f} Hz (from {start:.2f} s to "
                f"{end:.2f} s) but `audio` lasts {audio_seconds:.2f} s at {self.sampling_rate} Hz. Is "
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
    """A list of clips: `value` itself, or `[value]` where it is the array of a single clip. `None` where absent."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, list | tuple):
        first = next((clip for clip in value if clip is not None), None)
        single = first is not None and not isinstance(first, Mapping) and _depth(first) < ndim
        return [value] if single else list(value)
    return [value] if value.ndim <= ndim else list(value)


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
    try:
        return values.detach().cpu().float().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be numbers in rows of equal length.") from error


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


def _check_moment(index, moment, audio_seconds):
    if not -MIN_DURATION_GAP <= moment <= audio_seconds + MIN_DURATION_GAP:
        raise ValueError(
            f"Clip {index}: the one row of `action_units` is at {moment:.2f} s, but `audio` lasts {audio_seconds:.2f} "
            "s. Put a summary of the clip at its middle."
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
