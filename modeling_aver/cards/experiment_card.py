"""The card of several runs together, folds or seeds: their scores, how far they spread, and where the models are."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..evaluation.metrics import confusion
from ..evaluation.results import read_predictions
from ..evaluation.run_folder import FinishedRun, portable_results, read_json
from .model_card import audio_encoder_id, limits, model_facts
from .plots import plot_confusion
from .scored_data import ScoredData
from .sections import SCORES, circumstances, citations, licences, percent, render, scored_results

TEMPLATE = "experiment_card.md"
PICTURE = "confusion.png"


def write_experiment_card(folder):
    """
    Writes `README.md` of an experiment, and its picture, beside the `results.json` that brings its runs together.

    Args:
        folder (`str` or `Path`): What `train_hf.py --fold all` or `--seeds` wrote.

    Returns:
        `Path`: of the card.

    Raises:
        `ValueError`: if it is no such folder, or if its predictions are not those that its results count.
    """
    folder = Path(folder)
    results = read_json(folder / "results.json")
    (folder / PICTURE).unlink(missing_ok=True)
    if "confusion" in results and find_spec("matplotlib") is not None:
        plot_confusion(results["confusion"], results["labels"], folder / PICTURE)
    path = folder / "README.md"
    path.write_text(render_experiment_card(folder), encoding="utf-8")
    return path


def render_experiment_card(folder):
    """
    The card as text. Each number in it is one of the results, or counted from their confusion matrix.

    Args:
        folder (`str` or `Path`): See [`write_experiment_card`].

    Returns:
        `str`: Markdown.
    """
    folder = Path(folder)
    results = read_json(folder / "results.json")
    kind = next((kind for kind in ("seed", "fold") if f"{kind}s" in results), None)
    if kind is None:
        raise ValueError(f"{folder} holds one run, not several: `write_card` writes its card.")
    runs = [f"{kind}_{name}" for name in results[f"{kind}s"]]
    first = FinishedRun.read(_first_run(folder / runs[0]))
    predictions = _checked_predictions(folder, results) if kind == "fold" else first.predictions
    data = ScoredData(results, predictions, first.training)
    pooled = {f"eval_{name}": value for name, value in results.get("pooled", {}).items()}
    counted = scored_results({**results, "metrics": pooled})
    return render(
        TEMPLATE,
        title=f"{len(runs)} {kind}s of audio-visual emotion recognition on {data.name}",
        about=f"The same training, once for each {kind}. The model is described in the card of each.",
        runs=runs,
        kind=kind,
        warning=" ".join(data.warnings),
        part=data.part,
        names=[name for name, *_ in SCORES.values()],
        rows=_rows(results, kind),
        pooled=counted.pop("scores"),
        pictures=(PICTURE,) if (folder / PICTURE).is_file() else (),
        **counted,
        model=model_facts(first),
        data=data.facts(),
        limits=limits(first, data),
        command=portable_results(results)["command"],
        circumstances=circumstances(results, first.training),
        licences=licences(data, audio_encoder_id(first.config)),
        citations=citations(data),
    )


def _first_run(folder):
    """Of a seed that has folds itself, the first of these."""
    folds = read_json(folder / "results.json").get("folds", {})
    return folder / f"fold_{next(iter(folds))}" if folds else folder


def _checked_predictions(folder, results):
    predictions, labels = read_predictions(folder), results["labels"]
    answers, truth = (predictions[name].map(labels.index) for name in ("prediction", "label"))
    counted = confusion(answers, truth, len(labels))
    if counted.tolist() != results["confusion"]:
        raise ValueError(
            f"{folder}: predictions.csv has {np.trace(counted)} of {counted.sum()} clips right, and results.json "
            "counts other clips or answers. They are of different runs: start train_hf.py once more."
        )
    return predictions


def _rows(results, kind):
    """Rows of the table: a line a run, then mean, standard deviation and, of folds, all clips in one."""
    mean = {name.removeprefix("eval_"): value for name, value in results["metrics"].items()}
    lines = {**results[f"{kind}s"], "mean": mean, "sd": results["std"], "pooled": results.get("pooled")}
    names = [key.removeprefix("eval_") for key in SCORES]
    return [
        {
            "name": name,
            "clips": f"{scores['clips']:,}" if "clips" in scores else "",
            "scores": ["—" if scores[score] is None else percent(scores[score]) for score in names],
        }
        for name, scores in lines.items()
        if scores is not None
    ]
