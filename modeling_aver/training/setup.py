"""From arguments to the objects that are trained: clips, processor, model."""

from transformers import AutoConfig

from ..configuration_aver import AverConfig
from ..modeling_aver import AverForEmotionClassification
from ..processing_aver import AverFeatureExtractor, AverProcessor


def build_processor(model_args, train_dataset):
    """A checkpoint's own processor, or a new one that scales action units by the statistics of the training clips."""
    if model_args.model_name_or_path:
        return AverProcessor.from_pretrained(model_args.model_name_or_path, revision=model_args.model_revision)
    if model_args.audio_model_name_or_path:
        extractor = AverFeatureExtractor.from_audio_pretrained(
            model_args.audio_model_name_or_path, revision=model_args.model_revision
        )
    else:
        extractor = AverFeatureExtractor.from_config(AverConfig(**model_args.config_values()))
    tracks = train_dataset.select_columns(["action_units", "action_units_success"])
    tracks = tracks.filter(lambda row: len(row["action_units"]) > 0)
    extractor.fit_action_units(
        (row["action_units"] for row in tracks), (row["action_units_success"] for row in tracks)
    )
    return AverProcessor(extractor)


def build_model(model_args, labels):
    """
    The model that the arguments describe, for `labels` (`list[str]`).

    Raises:
        `ValueError`: if a checkpoint has other labels than the dataset.
    """
    id2label = dict(enumerate(labels))
    if model_args.model_name_or_path:
        model = _from_checkpoint(model_args, id2label)
    elif model_args.audio_model_name_or_path:
        config = AverConfig(**model_args.config_values(), id2label=id2label)
        model = AverForEmotionClassification.from_audio_pretrained(
            model_args.audio_model_name_or_path, config, revision=model_args.model_revision
        )
    else:
        model = AverForEmotionClassification(AverConfig(**model_args.config_values(), id2label=id2label))
    if model_args.freeze_feature_encoder:
        model.freeze_feature_encoder()
    if model_args.freeze_audio_encoder:
        model.freeze_audio_encoder()
    return model


def check_labels(config, labels):
    """Refuses a model that was made for other emotions than `labels` (`list[str]`), naming both."""
    if list(config.id2label.values()) != list(labels):
        raise ValueError(
            f"The model has {config.num_labels} labels ({', '.join(config.id2label.values())}) but the dataset has "
            f"{len(labels)} ({', '.join(labels)}). Train from `--audio_model_name_or_path`, or pass a checkpoint of "
            "this dataset's labels."
        )


def _from_checkpoint(model_args, id2label):
    source, revision = model_args.model_name_or_path, model_args.model_revision
    config = AutoConfig.from_pretrained(source, revision=revision)
    check_labels(config, list(id2label.values()))
    changed = {name: value for name, value in model_args.config_values().items() if getattr(config, name) != value}
    if changed:
        raise ValueError(
            f"`model_name_or_path` brings its own configuration, but {', '.join(changed)} was given too. Leave it "
            "out, or start from `--audio_model_name_or_path`."
        )
    return AverForEmotionClassification.from_pretrained(source, revision=revision)
