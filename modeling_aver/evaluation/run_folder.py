"""A finished run's folder, read and checked: results, predictions and configuration have to be of the same run."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..configuration_aver import AverConfig
from ..io.media import one_line
from .metrics import confusion
from .results import read_predictions

LOG_COLUMNS = ("step", "epoch")
LEFT_OUT_OF_LOG = r"(_runtime|_per_second|_flos|^train_loss|^num_input_tokens_seen)$"
# A value of the command line that begins at the root, at home or at a drive, alone or behind `--flag=`.
MACHINE_PATH = re.compile(r"(^|=)(?:~?/|[A-Za-z]:[\\/]).*$")


@dataclass(frozen=True)
class FinishedRun:
    """
    What a finished run has to say.

    Args:
        folder (`Path`)
        results (`dict`): `results.json`, see [`~training.results.write_results`].
        config ([`AverConfig`]): Of the model.
        feature_extractor (`dict`): Values of the feature extractor in `processor_config.json`.
        predictions (`pd.DataFrame`, *optional*): `predictions.csv`; `None` where no clip was scored.
        log (`pd.DataFrame`, *optional*): Of the training, a row a logged step; `None` where none was saved.
        training (`dict`): `training_args.json`; empty where there is none.
    """

    folder: Path
    results: dict
    config: AverConfig
    feature_extractor: dict
    predictions: pd.DataFrame | None
    log: pd.DataFrame | None
    training: dict

    @classmethod
    def read(cls, folder):
        """
        Reads a folder that `train_hf.py` wrote.

        Raises:
            `ValueError`: if a piece is missing or cannot be read, or if the pieces are of different runs.
        """
        folder = Path(folder)
        try:
            run = cls._of(folder)
            run.check()
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(
                f"{folder} holds files that train_hf.py did not write so ({type(error).__name__}: {one_line(error)}). "
                "Train again, or name another run."
            ) from error
        return run

    @classmethod
    def _of(cls, folder):
        results = _read_results(folder)
        for kind in ("fold", "seed"):
            if several := list(results.get(f"{kind}s") or ()):
                raise ValueError(
                    f"{folder} brings {len(several)} runs together and holds no model. Name one of them, such as "
                    f"{folder / f'{kind}_{several[0]}'}."
                )
        for name in ("config.json", "processor_config.json"):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} lacks {name}: name the folder that train_hf.py wrote.")
        processor = read_json(folder / "processor_config.json")
        scored = "confusion" in results
        return cls(
            folder=folder,
            results=results,
            config=AverConfig.from_pretrained(folder),
            feature_extractor=processor.get("feature_extractor", processor),
            predictions=read_predictions(folder) if scored else None,
            log=_read_log(folder / "trainer_state.json"),
            training=_read_optional(folder / "training_args.json"),
        )

    def check(self):
        """Raises `ValueError` if the results are not of these predictions, or the model has other labels."""
        labels = list(self.config.id2label.values())
        if self.results["labels"] != labels:
            raise ValueError(
                f"{self.folder}: results.json is of the labels {', '.join(self.results['labels'])}, but config.json "
                f"has {', '.join(labels)}. They are of different runs: train again."
            )
        if self.predictions is None:
            return
        unknown = sorted({*self.predictions["label"], *self.predictions["prediction"]} - set(labels))
        if unknown:
            raise ValueError(f"{self.folder}: predictions.csv has {', '.join(unknown)}, no label of the model.")
        answers, truth = (self.predictions[name].map(labels.index) for name in ("prediction", "label"))
        counted = confusion(answers, truth, len(labels))
        if counted.tolist() != self.results["confusion"]:
            raise ValueError(
                f"{self.folder}: predictions.csv has {np.trace(counted)} of {counted.sum()} clips right, and "
                "results.json counts other clips or answers. They are of different runs: score again."
            )
        self._check_war(np.trace(counted) / counted.sum())

    def _check_war(self, counted):
        claimed = self.results["metrics"].get("eval_war")
        if claimed is None or abs(claimed - counted) > 0.005:  # half a percent: more than a tie decided otherwise
            raise ValueError(
                f"{self.folder}: results.json says eval_war {claimed}, but its predictions.csv gives {counted:.4f}."
            )

    @property
    def trained_on_scored(self):
        """Whether the scores are of the clips that the model was trained on."""
        return bool(self.results["scored_clips_were_trained_on"])


def portable_results(results):
    """
    `results` without paths of the machine: of each absolute path, in the command and the dataset, its last part stays.

    Example:

    ```python
    >>> portable_results({"command": "train_hf.py a.yaml --data_dir /home/anna/CREMA-D", "dataset": {}})["command"]
    'train_hf.py a.yaml --data_dir .../CREMA-D'
    ```
    """
    command = shlex.join(_portable(token) for token in shlex.split(results["command"]))
    values = {
        name: _portable(value) if isinstance(value, str) else value for name, value in results["dataset"].items()
    }
    return {**results, "command": command, "dataset": values}


def read_json(path):
    """Content of a JSON file; `ValueError` naming it if it is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Was it cut short?") from error


def _portable(text):
    if not MACHINE_PATH.search(text):
        return text
    name = re.split(r"[\\/]", text.rstrip("\\/"))[-1]
    return MACHINE_PATH.sub(rf"\g<1>.../{name}", text)


def _read_results(folder):
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder. Name one that train_hf.py wrote.")
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no results.json, and without one there is no card: a card never shows a number without "
            "its results file. train_hf.py writes it at the end of a run."
        )
    results = read_json(path)
    needed = ("metrics", "scored_clips_were_trained_on", "dataset", "labels", "command", "versions")
    lacking = [name for name in needed if name not in results]
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}: it was not written by train_hf.py.")
    return results


def _read_optional(path):
    return read_json(path) if path.is_file() else {}


def _read_log(path):
    history = _read_optional(path).get("log_history", [])
    lines = [line for line in history if {"loss", "eval_loss"} & set(line)]
    if not lines:
        return None
    table = pd.DataFrame(lines).groupby("step", as_index=False).first()  # losses of training and scoring in one row
    names = [name for name in table if name not in LOG_COLUMNS and not re.search(LEFT_OUT_OF_LOG, name)]
    return table[[*LOG_COLUMNS, *names]]
