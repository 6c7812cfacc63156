"""What a visitor of the web page should know about its model: name, training corpus, labels, scores and limits."""

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard, hf_hub_download

from ..cards.scored_data import ScoredData
from ..cards.sections import percent

INTENDED_USE = (
    "Intended use: research on acted emotion in speech and face. Out of scope: judging what a person feels, decisions "
    "about people, and emotion recognition at work or in education, which the EU's AI Act (Article 5) prohibits."
)
ACTED = "the emotion that the actors were asked to show"
UNRECORDED = "not recorded"


@dataclass(frozen=True)
class ModelInfo:
    """
    Description of a model for the people who use its page.

    Args:
        name (`str`): Hub id, or the name of the model's folder without its path.
        labels (`tuple[str, ...]`): Emotions, in the model's order.
        corpus (`str`): Training corpus with configuration and split, or "not recorded".
        target (`str`): What the labels of the corpus stand for, or "not recorded".
        score (`str`): Sentence about the model's accuracy on clips that it was not trained on.
        warning (`str`): What limits that accuracy, such as speakers shared by training and test; may be empty.
    """

    name: str
    labels: tuple[str, ...]
    corpus: str = UNRECORDED
    target: str = UNRECORDED
    score: str = "Accuracy on clips that it was not trained on: not recorded."
    warning: str = ""

    @property
    def limits(self) -> str:
        """Sentences about what the model cannot do."""
        return (
            f"Limits: it answers with one of {len(self.labels)} emotions whatever it is given, its probabilities are "
            "not calibrated, and its accuracy by age, gender, skin colour or accent has not been measured."
        )


def read_model_info(model: str | Path, labels: tuple[str, ...], name: str | None = None) -> ModelInfo:
    """
    Reads `results.json` of a model, or else the `datasets` of its model card. Both are optional.

    Args:
        model (`str` or `Path`): A saved folder, or a Hub id.
        labels (`tuple[str, ...]`): Emotions, in the model's order.
        name (`str`, *optional*): Defaults to the Hub id, or to the last part of the folder's path.

    Returns:
        [`ModelInfo`]
    """
    name = name or (Path(model).resolve().name if Path(model).is_dir() else str(model))
    try:
        results = json.loads(_find(model, "results.json").read_text(encoding="utf-8"))
        return ModelInfo(name, labels, **_facts(results))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ModelInfo(name, labels, corpus=_corpus_of_card(model))


def _find(model, filename):
    """Path of a file of the model; `OSError` where it has none."""
    if Path(model).is_dir():
        return Path(model) / filename
    return Path(hf_hub_download(str(model), filename))


def _facts(results):
    data = ScoredData(results, None, {})
    split = f"configuration {data.config}, split {data.values['train_split']}"
    warning = data.split.warning if data.split is not None and data.split.warning else ""
    return {
        "corpus": f"{data.name} ({split})",
        "target": ACTED if data.head and data.id in ("crema_d", "ravdess") else UNRECORDED,
        "score": _score(results, data),
        "warning": warning,
    }


def _score(results, data):
    if data.trained_on_scored:
        return "Its only scores are on its own training clips: accuracy on other clips is unknown."
    if "confusion" not in results:
        return ModelInfo.score
    count = sum(map(sum, results["confusion"]))
    war, uar = (percent(results["metrics"][f"eval_{name}"]) for name in ("war", "uar"))
    split = data.values["eval_split"]
    return f"On the {count:,} clips of the {split} split: WAR {war} %, UAR {uar} %, {data.protocol}."


def _corpus_of_card(model):
    try:
        card = ModelCard.load(_find(model, "README.md"), ignore_metadata_errors=True)
        datasets = card.data.datasets or []
    except (OSError, ValueError):
        return UNRECORDED
    return ", ".join([datasets] if isinstance(datasets, str) else map(str, datasets)) or UNRECORDED
