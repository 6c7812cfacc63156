"""Speaker profiles from clips without labels: of one person, or of every speaker of a dataset."""

import hashlib
import json
from itertools import islice

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from rich.progress import track

from ..features.speaker_profile import SpeakerProfile
from .collation import AverDataCollator
from .encoding import RunningStatistics, encode
from .feature_cache import describe_encoder

# Clips at which a person's own statistics weigh as much as those of all training speakers. For a mean the best number
# is the variance of clips within people over that between people: `benchmarks/results/speaker_profiles.md`.
PRIOR_CLIPS = 4.0
COLUMNS = ("audio", "action_units", "action_units_success", "video_timestamps", "utterance_id")  # no label among them


def estimate_profile(model, processor, rows, cache=None, prior_clips=PRIOR_CLIPS, batch_size=8):
    """
    A person's profile from rows of a dataset, as [`ProfileEstimator`] makes it.

    Args:
        model, processor, prior_clips: See [`ProfileEstimator`].
        rows (iterable of `dict`): Of the documented schema; one after the other, nothing is kept. Labels are not read.
        cache ([`FeatureCache`], *optional*): Gives audio frames, in place of the sound.
        batch_size (`int`, *optional*, defaults to 8): Clips at a time.

    Returns:
        [`SpeakerProfile`]

    Raises:
        `ValueError`: as [`ProfileEstimator`] does.
    """
    estimator, collator = ProfileEstimator(model, processor, prior_clips), AverDataCollator(processor, cache)
    rows = ({name: value for name, value in row.items() if name in COLUMNS} for row in rows)
    while batch := list(islice(rows, batch_size)):
        faces = [_faces(row, processor.feature_extractor.num_action_units) for row in batch]
        estimator.add(faces, collator(batch) if estimator.hears else {})
    return estimator.profile()


def profiles_of_clips(model, processor, dataset, cache=None, prior_clips=PRIOR_CLIPS):
    """
    For each clip the profile of its speaker, made of all clips of that speaker in the dataset, without their labels.
    Processes share the speakers, and all get every profile.

    Args:
        model, processor, cache, prior_clips: See [`estimate_profile`].
        dataset (`datasets.Dataset`): Rows of the documented schema.

    Returns:
        `dict[str, SpeakerProfile]`: by `utterance_id`.

    Raises:
        `ValueError`: if a clip does not say who speaks.
    """
    clips = {}
    for index, speaker in enumerate(dataset["speaker_id"]):
        clips.setdefault(speaker or None, []).append(index)
    if None in clips:
        raise ValueError(f"Speaker profiles need to know who speaks, but {len(clips[None])} clips have no speaker_id.")
    state = PartialState()
    mine = sorted(clips)[state.process_index :: state.num_processes]
    rows = dataset.select_columns([name for name in COLUMNS if name in dataset.column_names])
    profiles = [
        (speaker, estimate_profile(model, processor, rows.select(clips[speaker]), cache, prior_clips))
        for speaker in track(mine, "speaker profiles", disable=not state.is_local_main_process, transient=True)
    ]
    profiles = dict(gather_object(profiles))
    return {row["utterance_id"]: profiles[row["speaker_id"]] for row in dataset.select_columns(_WHO)}


_WHO = ["utterance_id", "speaker_id"]


class ProfileEstimator:
    """
    Mean and deviation of a person's action units (over frames with a face) and of each channel of each audio layer
    that is heard (over all frames), drawn towards the training speakers' where clips are few:

    ```
    mean = (n × own mean + n₀ × mean of training) / (n + n₀)
    variance = (n × own variance + n₀ × variance of training) / (n + n₀)
    ```

    n is the number of clips, not of frames, for frames within a clip are alike. What never changes in the person's
    clips keeps the deviation of training. Memory does not grow with clips.

    Args:
        model ([`AverForEmotionClassification`]): Runs where it is, in evaluation mode.
        processor ([`AverProcessor`]): The one that the model was trained with.
        prior_clips (`float`, *optional*, defaults to 4): n₀.

    Raises:
        `ValueError`: if the model standardizes neither stream.
    """

    def __init__(self, model, processor, prior_clips=PRIOR_CLIPS):
        if not 0 <= prior_clips < float("inf"):
            raise ValueError(f"`prior_clips` ({prior_clips}) must be a number of at least 0.")
        self.trunk, self.extractor, self.prior_clips = model.base_model, processor.feature_extractor, prior_clips
        self.sees = self.extractor.action_unit_mean is not None
        self.hears = self.trunk.config.audio_normalization == "standardize"
        if not self.sees and not self.hears:
            raise ValueError(
                "The model standardizes neither action units nor audio frames, so a speaker profile would change "
                'nothing. Train one with `audio_normalization="standardize"`, or on clips with faces.'
            )
        config = self.trunk.config
        self.face = _Stream((self.extractor.num_action_units,))
        self.voice = _Stream((config.num_audio_layers, config.audio_config.hidden_size))
        self.num_clips = 0

    def add(self, faces, batch):
        """
        Adds clips.

        Args:
            faces (`list[torch.Tensor]`): For each clip its frames with a face, `(num_frames, num_action_units)`, as
                the extractor of features gives them; none at all is fine.
            batch (`BatchFeature`): Their sound, as the processor prepares it; empty where nobody has any, or where
                the estimator does not `hear`.
        """
        self.num_clips += len(faces)
        for frames in faces:
            self.face.add(frames)
        encoded = encode(self.trunk, batch) if self.hears else None
        for frames, mask in zip(*encoded, strict=True) if encoded is not None else ():
            self.voice.add(frames[mask].cpu())

    def profile(self):
        """
        [`SpeakerProfile`]: with action units where the processor standardizes them, with audio where the model does.

        Raises:
            `ValueError`: if no clip had what the model standardizes.
        """
        if not (self.sees and self.face.num_clips) and not (self.hears and self.voice.num_clips):
            raise ValueError(
                f"A speaker profile cannot be made of {self.num_clips} clips without a face or a sound that the model "
                "standardizes."
            )
        statistics = {}
        if self.sees:
            mean, std = np.array(self.extractor.action_unit_mean), np.array(self.extractor.action_unit_std)
            statistics |= self.face.shrunk("action_unit", mean, std, self.prior_clips)
        if self.hears:
            layer = self.trunk.audio_standardization
            mean, std = (values.double().cpu().numpy() for values in (layer.mean, layer.std))
            statistics |= self.voice.shrunk("audio", mean, std, self.prior_clips)
        frame_seconds = self.trunk.config.audio_pooling_stride / self.trunk.config.audio_frame_rate
        return SpeakerProfile(
            **statistics,
            num_clips=self.num_clips,
            num_faces=self.face.statistics.count,
            audio_seconds=self.voice.statistics.count * frame_seconds,
            prior_clips=self.prior_clips,
            feature_identity=self.extractor.feature_identity,
            audio_identity=self.extractor.audio_identity,
        )


class _Stream:
    """Statistics of one stream of a person, and how many clips had it."""

    def __init__(self, shape):
        self.statistics, self.num_clips = RunningStatistics(shape), 0

    def add(self, frames):
        self.statistics.add(frames)
        self.num_clips += len(frames) > 0

    def shrunk(self, name, mean, std, prior_clips):
        """`dict` of mean and deviation; those of training, `mean` and `std`, where no clip had the stream."""
        own = self.statistics
        weight = self.num_clips / (self.num_clips + prior_clips) if self.num_clips else 0.0
        variance = own.scatter.numpy() / max(own.count, 1)
        variance = np.where(variance > 1e-12, variance, std**2)
        variance = weight * variance + (1 - weight) * std**2
        mean = weight * own.mean.numpy() + (1 - weight) * mean
        return {f"{name}_mean": mean.astype(np.float32), f"{name}_std": np.sqrt(variance).astype(np.float32)}


def audio_identity(trunk, feature_extractor):
    """`str`: which layers of which encoder an [`AverModel`] hears, in words and as a digest of its weights."""
    config, facts = trunk.config, describe_encoder(trunk, feature_extractor, "float32")
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    layers = "last layer" if config.audio_layers is None else f"layers {config.audio_layers}"
    return f"{config.audio_config.model_type}, {layers}, pooled by {config.audio_pooling_stride} ({digest})"


def _faces(row, num_action_units):
    units = np.asarray(row["action_units"] or [], np.float64).reshape(-1, num_action_units)
    return torch.from_numpy(units[np.asarray(row["action_units_success"] or [], bool)])
