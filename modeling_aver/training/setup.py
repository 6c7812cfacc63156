"""From arguments to the objects that are trained: processor and model, and what must agree with the clips."""

from pathlib import Path

import torch
from transformers import AutoConfig

from ..configuration_aver import AverConfig
from ..features.base import check_same_features
from ..modeling_aver import AverForEmotionClassification
from ..processing_aver import AverFeatureExtractor, AverProcessor
from .adapters import add_lora
from .collation import AverDataCollator
from .encoding import fill_cache, fit_audio_standardization
from .feature_cache import FeatureCache
from .saved_model import check_saved_model
from .speaker_statistics import audio_identity, profiles_of_clips


def build_processor(model_args, train_dataset, feature_identity=None):
    """
    A checkpoint's own processor, or a new one that scales action units by the statistics of the training clips.

    Args:
        model_args ([`ModelArguments`]): What to start from.
        train_dataset (`datasets.Dataset`): Rows of the documented schema.
        feature_identity ([`FeatureIdentity`], *optional*): Who made their features.
    """
    if model_args.model_name_or_path:
        return AverProcessor.from_pretrained(
            model_args.model_name_or_path, revision=model_args.model_revision, trust_remote_code=False
        )
    tracks = train_dataset.select_columns(["action_units", "action_units_success"])
    tracks = tracks.filter(lambda row: len(row["action_units"]) > 0)
    values = {"feature_identity": feature_identity and feature_identity.to_dict()}
    if len(tracks):
        values["num_action_units"] = len(tracks[0]["action_units"][0])
    if model_args.audio_model_name_or_path:
        extractor = AverFeatureExtractor.from_audio_pretrained(
            model_args.audio_model_name_or_path, revision=model_args.model_revision, **values
        )
    else:
        extractor = AverFeatureExtractor.from_config(AverConfig(**model_args.config_values()), **values)
    if len(tracks):
        extractor.fit_action_units(
            (row["action_units"] for row in tracks), (row["action_units_success"] for row in tracks)
        )
    return AverProcessor(extractor)


def build_model(model_args, labels, processor):
    """
    The model that the arguments describe, for `labels` (`list[str]`) and for what `processor` makes.

    Raises:
        `ValueError`: if a checkpoint has other labels than the dataset, or the audio encoder no layers for LoRA.
    """
    if model_args.model_name_or_path:
        model = _from_checkpoint(model_args, labels)
    else:
        model = _new_model(model_args, labels, processor.feature_extractor)
    if model_args.freeze_feature_encoder:
        model.freeze_feature_encoder()
    if model_args.freeze_audio_encoder:
        model.freeze_audio_encoder()
    if lora := model_args.lora_values():
        add_lora(model.base_model.audio_encoder, **lora)
    return model


def build_collator(model, processor, clips, data_args, training_args):
    """
    The collator of training; before it, what it and the model need of the clips: the feature cache is filled, and the
    statistics that audio frames are standardized by are taken of the training clips, and of each speaker's.

    Args:
        model ([`AverForEmotionClassification`]), processor ([`AverProcessor`])
        clips (`list[datasets.Dataset]`): Those to train on, then those to score; `None` among them is passed over.
        data_args ([`DataArguments`]), training_args ([`AverTrainingArguments`])

    Raises:
        `ValueError`: if frames are to be kept, or statistics of speakers taken, of an audio encoder that trains.
    """
    trunk, cache, batch_size = model.base_model, None, training_args.per_device_eval_batch_size
    if data_args.feature_cache_dir is not None:
        if not _is_frozen(trunk):
            raise ValueError(
                "`feature_cache_dir` keeps what the audio encoder makes, but this one trains and would make something "
                "else after a step. Freeze it: --freeze_audio_encoder true."
            )
        trunk.to(training_args.device)
        cache = FeatureCache(
            data_args.feature_cache_dir, trunk, processor.feature_extractor, data_args.feature_cache_dtype
        )
        fill_cache(
            cache, trunk, processor, list(filter(None, clips)), batch_size, training_args.dataloader_num_workers
        )
    collator = AverDataCollator(processor, cache)
    if trunk.config.audio_normalization == "standardize" and not _has_statistics(trunk):
        trunk.to(training_args.device)
        fit_audio_standardization(trunk, collator, clips[0], batch_size)
    _identify_audio(trunk, processor.feature_extractor)
    if data_args.speaker_profiles == "unlabelled":
        trunk.to(training_args.device)
        collator.profiles = _profiles(model, collator, clips)
    return collator


def _profiles(model, collator, clips):
    """By `utterance_id`; each split's speakers by their clips of that split."""
    trunk, profiles = model.base_model, {}
    if trunk.config.audio_normalization == "standardize" and not _is_frozen(trunk):
        raise ValueError(
            "`speaker_profiles` takes statistics of what the audio encoder makes before training, but this one trains "
            "and would make something else after a step. Freeze it: --freeze_audio_encoder true."
        )
    for dataset in filter(None, clips):
        found = profiles_of_clips(model, collator.processor, dataset, collator.cache)
        profiles = {**found, **profiles}  # clips that are trained on keep their profiles where they are scored too
    return profiles


def _identify_audio(trunk, extractor):
    """Notes whose audio frames are standardized, for profiles to be told from those of another encoder."""
    if trunk.config.audio_normalization == "none" or not _is_frozen(trunk):
        extractor.audio_identity = None
    elif extractor.audio_identity is None:
        extractor.audio_identity = audio_identity(trunk, extractor)


def _is_frozen(trunk):
    return not any(parameter.requires_grad for parameter in trunk.audio_encoder.parameters())


def _has_statistics(trunk):
    """Whether they came with a checkpoint."""
    return bool(trunk.audio_standardization.mean.any())


def balanced_class_weights(train_dataset):
    """
    Weights with which every emotion counts the same in training: `num_clips / (num_emotions × clips of the emotion)`,
    over the emotions that occur; 0 for others. Their mean over the training clips is 1: the loss keeps its size.

    Args:
        train_dataset (`datasets.Dataset`): Rows of the documented schema.

    Returns:
        `torch.Tensor` of shape `(num_labels,)`.
    """
    labels = torch.tensor(train_dataset["label"])
    counts = torch.bincount(labels[labels >= 0], minlength=train_dataset.features["label"].num_classes)
    weights = counts.sum() / (counts.count_nonzero() * counts)
    return weights.masked_fill(counts == 0, 0.0)


TRAIN_ANEW = "Train from `--audio_model_name_or_path`, or pass a checkpoint of this dataset's labels."


def check_labels(config, labels, remedy=TRAIN_ANEW):
    """Refuses a model that was made for other emotions than `labels` (`list[str]`), naming both and a remedy."""
    if list(config.id2label.values()) != list(labels):
        raise ValueError(
            f"The model has {config.num_labels} labels ({', '.join(config.id2label.values())}) but the dataset has "
            f"{len(labels)} ({', '.join(labels)}). {remedy}"
        )


def check_features(extractor, identities):
    """
    Refuses clips whose features another extractor made than those that the model was trained on.

    Args:
        extractor ([`AverFeatureExtractor`]): The model's.
        identities (iterable of [`FeatureIdentity`]): Those of the clips.

    Raises:
        `ValueError`: naming both, and what to do.
    """
    for identity in identities:
        check_same_features(extractor.feature_identity, identity)


def _new_model(model_args, labels, extractor):
    config = AverConfig(
        **model_args.config_values(),
        id2label=dict(enumerate(labels)),
        num_action_units=extractor.num_action_units,
        feature_identity=extractor.feature_identity,
    )
    if model_args.audio_model_name_or_path is None:
        return AverForEmotionClassification(config)
    return AverForEmotionClassification.from_audio_pretrained(
        model_args.audio_model_name_or_path, config, revision=model_args.model_revision
    )


def _from_checkpoint(model_args, labels):
    source, revision = model_args.model_name_or_path, model_args.model_revision
    if Path(source).is_dir():
        check_saved_model(source)
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    check_labels(config, labels)
    changed = [name for name, value in model_args.config_values().items() if getattr(config, name) != value]
    if changed:
        raise ValueError(
            f"`model_name_or_path` brings its own configuration, but {', '.join(changed)} was given too. Leave it "
            "out, or start from `--audio_model_name_or_path`."
        )
    return AverForEmotionClassification.from_pretrained(source, revision=revision)
