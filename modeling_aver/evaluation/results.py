"""What a run leaves behind: `results.json`, and each clip's prediction in `predictions.csv`."""

import json
import platform
import shlex
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from .. import __version__
from ..io.atomic import write_whole
from ..io.media import one_line
from .bootstrap import score_intervals
from .metrics import confusion, recall_of_counts

FOLDERS = (
    "data_dir",
    "action_units_folder",
    "feature_cache_dir",
)  # of one machine; who made the features is in the configuration
PACKAGES = ("torch", "transformers", "datasets", "accelerate")
NO_VIDEO = "clips_without_action_units"  # in results.json
PREDICTION_COLUMNS = ("utterance_id", "speaker_id", "label", "prediction")
PROTOCOLS = {  # by the argument `speaker_profiles`; scores of one are never those of the other
    "none": "without speaker profiles",
    "unlabelled": "calibrated on each speaker's own unlabelled clips, test speakers included",
}


def predictions_table(dataset, logits, labels, speaker_profiles="none"):
    """
    One row a clip: `utterance_id`, `speaker_id`, `label`, `prediction` (names) and a probability for each emotion; and
    where speakers had profiles a column that says so.

    Args:
        dataset (`datasets.Dataset`): The scored clips, in order.
        logits (`np.ndarray` of shape `(num_clips, num_labels)`): The model's.
        labels (`list[str]`): Names of the emotions.
        speaker_profiles (`str`, *optional*, defaults to `"none"`): Of `PROTOCOLS`.
    """
    probabilities = torch.tensor(logits).float().softmax(dim=-1).numpy()
    table = pd.DataFrame(
        {
            "utterance_id": dataset["utterance_id"],
            "speaker_id": dataset["speaker_id"],
            "label": [labels[index] for index in dataset["label"]],
            "prediction": [labels[index] for index in probabilities.argmax(axis=-1)],
        }
    )
    protocol = {} if speaker_profiles == "none" else {"speaker_profiles": speaker_profiles}
    return table.assign(**{f"p_{name}": probabilities[:, index] for index, name in enumerate(labels)}, **protocol)


def protocol_of(predictions):
    """`str`: under which of `PROTOCOLS` a table of predictions was made, in words."""
    if "speaker_profiles" not in predictions:
        return PROTOCOLS["none"]
    return " and ".join(PROTOCOLS.get(word, word) for word in sorted(set(predictions["speaker_profiles"])))


def read_predictions(path):
    """
    What [`write_results`] wrote, with every value a string: speaker `01` stays `01`, and an emotion may be named `NA`.

    Args:
        path (`str` or `Path`): A run's folder, or its CSV. Columns beside [`PREDICTION_COLUMNS`] are kept.

    Raises:
        `FileNotFoundError`: if there is no such file.
        `ValueError`: if it is no table of predictions: a column or value is missing, or a clip stands there twice.
    """
    path = Path(path)
    path = path / "predictions.csv" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}. Give a run's folder with predictions.csv, or such a CSV.")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV of predictions: {one_line(error)}") from error
    lacking = [name for name in PREDICTION_COLUMNS if name not in table]
    if lacking:
        raise ValueError(
            f"{path} lacks the columns {', '.join(lacking)}; it has {one_line(', '.join(table))}. A CSV of "
            f"predictions has a row a clip, with {', '.join(PREDICTION_COLUMNS)}."
        )
    if table.empty:
        raise ValueError(f"{path} holds no clip.")
    for name in PREDICTION_COLUMNS:
        empty = np.flatnonzero(table[name] == "")
        if len(empty):
            raise ValueError(f"{path}: {len(empty)} rows have no {name}, first the row of line {empty[0] + 2}.")
    repeated = table["utterance_id"][table["utterance_id"].duplicated()]
    if len(repeated):
        raise ValueError(
            f"{path} has {len(repeated)} clips more than once, such as {repeated.iloc[0]}. Give a file for each run: "
            "seeds cannot share one."
        )
    return table


def scores_of_predictions(predictions, labels):
    """
    What `results.json` says of the clips' answers beside the scores.

    Args:
        predictions (`pd.DataFrame`): See [`predictions_table`].
        labels (`list[str]`): Names of the emotions.

    Returns:
        `dict`: `confusion` (nested lists; row = true emotion, in the order of `labels`), `recall` (an emotion's name
        to a number in [0, 1], `None` where it does not occur) and `intervals` (see [`score_intervals`]).
    """
    answers, truth = (predictions[column].map(labels.index) for column in ("prediction", "label"))
    counts = confusion(answers, truth, len(labels))
    recall = [None if np.isnan(value) else float(value) for value in recall_of_counts(counts)]
    return {
        "confusion": counts.tolist(),
        "recall": dict(zip(labels, recall, strict=True)),
        "intervals": score_intervals(predictions["label"], predictions["prediction"], predictions["speaker_id"]),
    }


def run_name(path):
    """A run's short name: its folder, or its CSV where that was renamed."""
    path = Path(path).resolve()
    return path.parent.name if path.name == "predictions.csv" else path.name


def print_predictions(predictions, labels, scores):
    """
    Prints a table of clips with the probability of each emotion, and the scores beneath it.

    Args:
        predictions (`pd.DataFrame`): See [`predictions_table`].
        labels (`list[str]`): Names of the emotions.
        scores (`dict[str, float]`): 0 to 1.
    """
    columns = [Column(name, no_wrap=True) for name in ("clip", "emotion", "answer", *labels)]
    table = Table(*columns, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for row in predictions.to_dict("records"):
        style = "green" if row["label"] == row["prediction"] else "red"
        probabilities = [f"{row[f'p_{name}']:.2f}" for name in labels]
        table.add_row(row["utterance_id"], row["label"], f"[{style}]{row['prediction']}[/]", *probabilities)
    console = Console()
    console.print(table)
    console.print("  ".join(f"{name} {value:.4f}" for name, value in scores.items()))


def write_results(
    output_dir,
    *,
    metrics,
    model,
    training_args,
    data_args,
    predictions=None,
    seen_in_training=False,
    trained=None,
    without_action_units=None,
):
    """
    Writes `results.json` (and `predictions.csv`): numbers with everything that a reader needs to know of the run.

    With predictions there is also what [`scores_of_predictions`] gives. Each file is whole or absent, and
    `results.json` comes last: where it is, the rest is too.

    Args:
        output_dir (`str` or `Path`): The run's folder.
        metrics (`dict`): Of Trainer, `train_…` and `eval_…`.
        predictions (`pd.DataFrame`, *optional*): See [`predictions_table`].
        seen_in_training (`bool`, *optional*): Whether the scored clips are those trained on.
        trained (`dict`, *optional*): `num_trainable_parameters` and `lora`, which `model` no longer shows.
        without_action_units (`dict`, *optional*): Of each split that was used, `count` clips of `total`.
    """
    output_dir = Path(output_dir)
    labels = list(model.config.id2label.values())
    results = {
        "metrics": metrics,
        "scored_clips_were_trained_on": seen_in_training,
        "dataset": {
            name: value for name, value in vars(data_args).items() if value is not None and name not in FOLDERS
        },
        "labels": labels,
        "num_parameters": model.num_parameters(),
        "num_trainable_parameters": model.num_parameters(only_trainable=True),
        **(trained or {}),
        **({} if without_action_units is None else {NO_VIDEO: without_action_units}),
        "seed": training_args.seed,
        "num_processes": training_args.world_size,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})",
        "versions": {
            "modeling-aver": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if predictions is not None:
        write_whole(output_dir / "predictions.csv", predictions.to_csv(index=False))
        results |= scores_of_predictions(predictions, labels)
    write_whole(output_dir / "results.json", json.dumps(results, indent=2, default=str) + "\n")
