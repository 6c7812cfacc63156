"""The model card of a finished run: what the Hub reads (YAML), and what a person has to know before using it."""

from dataclasses import fields
from importlib.util import find_spec

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..configuration_aver import AverConfig
from ..evaluation.run_folder import FinishedRun, portable_results
from ..features.base import FeatureIdentity
from .plots import plot_confusion, plot_losses
from .scored_data import HUB_ID, ScoredData
from .sections import SCORES, circumstances, citations, licence_id, licences, render, scored_results

TEMPLATE = "model_card.md"
PICTURES = ("confusion.png", "loss.png")
TRAINING_LOG = "training_log.csv"
# Stand in a card until it is pushed: then repository and commit are known.
REPOSITORY, REVISION = "<this repository>", "<commit>"

TABLE_2 = ([], ["isa", "isa"], ["ica", "ica"], ["isa", "ica"], ["ica", "isa"], ["msa", "msa"])
TABLE_3 = {"sinusoidal": "Sinusoidal", "learnable": "Learnable", "rope": "RoPE", "tarope": "TaRoPE"}


def write_card(folder):
    """
    Writes `README.md` of a finished run, with its pictures and `training_log.csv`, beside `results.json`.

    Args:
        folder (`str` or `Path`): What `train_hf.py` wrote.

    Returns:
        `Path`: of the card.

    Raises:
        `ValueError`: if the folder has no results, or if its files are of different runs.
    """
    run = FinishedRun.read(folder)
    pictures = _draw(run)
    log = run.folder / TRAINING_LOG
    if run.log is None:
        log.unlink(missing_ok=True)
    else:
        run.log.to_csv(log, index=False)
    path = run.folder / "README.md"
    path.write_text(render_card(run, pictures), encoding="utf-8")
    return path


def render_card(run, pictures=()):
    """
    The card as text. Each number in it is one of the run's results, or counted from its confusion matrix.

    Args:
        run ([`FinishedRun`])
        pictures (`Iterable[str]`, *optional*): Those of [`PICTURES`] that lie beside the card; tables stand in.

    Returns:
        `str`: YAML metadata, then Markdown.
    """
    data = ScoredData(run.results, run.predictions, run.training)
    return render(
        TEMPLATE,
        metadata=_metadata(run, data).to_yaml(),
        title=f"Audio-visual emotion recognition on {data.name}",
        about=_about(run),
        warning=" ".join(data.warnings),
        part=data.part,
        pictures=tuple(pictures),
        **scored_results(run.results),
        model=model_facts(run),
        data=data.facts(),
        repository=REPOSITORY,
        revision=REVISION,
        sampling_rate=run.config.sampling_rate,
        frame_rate=run.config.video_frame_rate,
        num_features=run.config.num_action_units,
        limits=limits(run, data),
        log=run.log is not None,
        command=portable_results(run.results)["command"],
        circumstances=circumstances(run.results, run.training),
        licences=licences(data, audio_encoder_id(run.config)),
        citations=citations(data),
    )


def check_card(run):
    """
    Refuses a card that claims more than its results: an edited number, or one of another run.

    Raises:
        `ValueError`: if the `model-index` of `README.md` holds a score that `results.json` does not.
    """
    path = run.folder / "README.md"
    claimed = ModelCard.load(path, ignore_metadata_errors=True).data.eval_results or ()
    measured = {} if run.trained_on_scored else run.results["metrics"]
    for result in claimed:
        if result.metric_value not in measured.values():
            raise ValueError(
                f"{path} claims {result.metric_name or result.metric_type} {result.metric_value}, which results.json "
                "does not give for clips that the model was not trained on. Remove README.md: it is written anew."
            )


def _draw(run):
    """Draws what can be drawn; pictures of an earlier run go."""
    for name in PICTURES:
        (run.folder / name).unlink(missing_ok=True)
    if find_spec("matplotlib") is None:
        return ()
    if run.predictions is not None:
        plot_confusion(run.results["confusion"], run.results["labels"], run.folder / "confusion.png")
    if run.log is not None:
        plot_losses(run.log, run.folder / "loss.png")
    return tuple(name for name in PICTURES if (run.folder / name).is_file())


def _metadata(run, data):
    base = audio_encoder_id(run.config)
    metadata = ModelCardData(
        model_name=run.folder.resolve().name,
        library_name="transformers",
        pipeline_tag="audio-classification",
        license=licence_id(data),
        language="en" if data.head else None,
        base_model=base,
        datasets=[data.id] if data.hub_id or data.head else None,
        metrics=[metric for _, metric, _ in SCORES.values()],
        tags=["audio-visual", "emotion-recognition", "speech-emotion-recognition", "facial-action-units", "aver"],
        eval_results=_eval_results(run, data) or None,
    )
    if not metadata.eval_results:
        metadata.model_name = None  # belongs to the model-index
    return metadata


def _eval_results(run, data):
    """Measured scores for the `model-index`; none where they are of the clips trained on."""
    if run.trained_on_scored or not data.scored:
        return []
    return [
        EvalResult(
            task_type="audio-classification",
            task_name="Audio-visual emotion recognition",
            dataset_type=data.id,
            dataset_name=data.name,
            dataset_config=data.config,
            dataset_split=data.values["eval_split"],
            metric_type=metric,
            metric_name=f"{name}, {data.protocol}" if data.is_calibrated else name,
            metric_value=run.results["metrics"][key],
            metric_args=arguments,
        )
        for key, (name, metric, arguments) in SCORES.items()
        if key in run.results["metrics"]
    ]


def _about(run):
    emotions = ", ".join(run.results["labels"])
    return (
        "A transformer that reads a clip's speech and its face as one sequence on one clock, after Koo et al., "
        '"Multimodal Self-Attention Network with Temporal Alignment for Audio-Visual Emotion Recognition". It tells '
        f"{len(run.results['labels'])} acted emotions apart: {emotions}. Trained with "
        f"modeling-aver {run.results['versions'].get('modeling-aver', '(version unknown)')}."
    )


def model_facts(run):
    """Sentences on what the model of a [`FinishedRun`] is."""
    config, identity = run.config, run.config.feature_identity
    return [
        f"Configuration: `{_as_code(config)}`; all else but the audio encoder is as in the paper, see `config.json`.",
        f"Fusion: {_fusion(config)}. Positions: {_positions(config)}.",
        f"Audio encoder: {_audio_encoder(config)}.",
        f"Video: {config.num_action_units} features a frame. {_features(identity)}",
        _scaling(run.feature_extractor),
        _parameters(run.results),
    ]


def _parameters(results):
    total, trained = results["num_parameters"], results["num_trainable_parameters"]
    if results.get("lora") is None:
        return f"Parameters: {total:,}, of which {trained:,} were trained."
    lora = results["lora"]
    return (
        f"Parameters: {total:,}. Trained were {trained:,}, among them those of LoRA adapters of the audio encoder "
        f"(rank {lora['rank']}, alpha {lora['alpha']:g}, on {', '.join(lora['target_modules'])}), which are merged "
        "into its weights."
    )


def _as_code(config):
    """`AverConfig(…)` with what differs from the paper."""
    paper = AverConfig()
    own = [field.name for field in fields(AverConfig) if field.name in AverConfig.__annotations__]
    changed = {name: getattr(config, name) for name in own if name not in ("audio_config", "feature_identity")}
    changed = {name: value for name, value in changed.items() if value != getattr(paper, name)}
    return f"AverConfig({', '.join(f'{name}={value!r}' for name, value in changed.items())})"


def _fusion(config):
    name = " + ".join(layer.upper() for layer in config.fusion_layers) or "Concat"
    return f"{name}, {'a row of Table 2' if config.fusion_layers in TABLE_2 else 'which Table 2 does not have'}"


def _positions(config):
    ctm = "with" if config.ctm_loss_weight else "without"
    if config.position_embedding_type not in TABLE_3:
        return f"none, which Table 3 does not have; {ctm} CTM loss"
    return f"{TABLE_3[config.position_embedding_type]} {ctm} CTM loss, a cell of Table 3"


def _audio_encoder(config):
    audio, name = config.audio_config, audio_encoder_id(config)
    origin = "no Hub id is on record: it started from random weights or from a folder"
    if name:
        origin = f"started from [{name}](https://huggingface.co/{name})"
    return (
        f"{audio.model_type}, {audio.num_hidden_layers} layers of {audio.hidden_size} channels, "
        f"{config.audio_frame_rate:g} frames a second; {origin}"
    )


def audio_encoder_id(config):
    """Hub id that the audio encoder came from, or `None`."""
    name = config.audio_config.name_or_path
    return name if HUB_ID.fullmatch(name or "") else None


def _features(identity):
    if identity is None:
        return "Which extractor made them is not recorded."
    known = FeatureIdentity.from_dict(identity)
    version = "" if known.version else " (version unknown)"
    columns = f", `{known.columns[0]}` to `{known.columns[-1]}`" if known.columns else ""
    return f"They come from {known}{version}{columns}. Features of another extractor mean something else."


def _scaling(feature_extractor):
    if feature_extractor.get("action_unit_mean") is None:
        return "The video features go in as they are."
    return "The video features are standardized by the statistics of the training clips, which the processor holds."


def limits(run, data):
    """Sentences on what no number of a run speaks of."""
    people = "Actors who say a few English sentences to a camera, in North America."
    found = [
        f"{people if data.head else 'The people, language and cameras of its training clips.'} Other people, "
        "languages, cameras and spontaneous behaviour are not covered by any number here.",
        f"It answers with one of {len(run.results['labels'])} emotions, whatever it is given.",
        "Its probabilities are not calibrated.",
        "Nobody has measured whether it works equally well for people of different age, gender, skin or accent.",
    ]
    if data.is_calibrated:
        found.append(
            "It was trained on clips standardized by statistics of their own speaker. Without a speaker's profile "
            "(`aver enroll`) the scores above are not to be expected."
        )
    if run.config.audio_config.model_type == "whisper":
        found.append("Its audio encoder hears at most 30 s at once.")
    return found
