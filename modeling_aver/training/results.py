"""What a run leaves behind: `results.json`, and each clip's prediction in `predictions.csv`."""

import json
import platform
import shlex
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from .. import __version__
from .metrics import confusion

PACKAGES = ("torch", "transformers", "datasets", "accelerate")


def predictions_table(dataset, logits, labels):
    """
    One row a clip: `utterance_id`, `speaker_id`, `label`, `prediction` (names) and a probability for each emotion.

    Args:
        dataset (`datasets.Dataset`): The scored clips, in order.
        logits (`np.ndarray` of shape `(num_clips, num_labels)`): The model's.
        labels (`list[str]`): Names of the emotions.
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
    return table.assign(**{f"p_{name}": probabilities[:, index] for index, name in enumerate(labels)})


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


def write_results(output_dir, *, metrics, model, training_args, data_args, predictions=None, seen_in_training=False):
    """
    Writes `results.json` (and `predictions.csv`): numbers with everything that a reader needs to know of the run.

    Args:
        output_dir (`str` or `Path`): The run's folder.
        metrics (`dict`): Of Trainer, `train_…` and `eval_…`.
        predictions (`pd.DataFrame`, *optional*): See [`predictions_table`].
        seen_in_training (`bool`, *optional*): Whether the scored clips are those trained on.
    """
    output_dir = Path(output_dir)
    labels = list(model.config.id2label.values())
    results = {
        "metrics": metrics,
        "scored_clips_were_trained_on": seen_in_training,
        "dataset": {
            name: value for name, value in vars(data_args).items() if value is not None and name != "data_dir"
        },
        "labels": labels,
        "num_parameters": model.num_parameters(),
        "num_trainable_parameters": model.num_parameters(only_trainable=True),
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
        predictions.to_csv(output_dir / "predictions.csv", index=False)
        indices = [predictions[column].map(labels.index) for column in ("prediction", "label")]
        results["confusion"] = confusion(*indices, len(labels)).tolist()
    (output_dir / "results.json").write_text(json.dumps(results, indent=2, default=str) + "\n", encoding="utf-8")
