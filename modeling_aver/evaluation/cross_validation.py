"""Cross-validation and repetitions: which runs an experiment takes, which of them are done, what they say together."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from ..io.atomic import write_whole
from .metrics import EmotionScores
from .results import NO_VIDEO, read_predictions, scores_of_predictions

SCORES = ("war", "uar", "macro_f1")
ARGUMENTS = "arguments.json"  # of a run, as it began
# What may change between the beginning of a run and its going on, for it decides no number.
_NO_MATTER = re.compile(
    r"output_dir|overwrite|use_cpu|data_dir|feature_cache_dir|seeds|resume.*|logging_.*|log_.*|report_to|run_name|disable_tqdm|"
    r"save_.*|dataloader_.*|preprocessing_num_proc|push_to_hub|hub_.*|project|trackio_.*|local_rank|ddp_timeout|"
    r"per_device_eval_batch_size|skip_memory_metrics|include_num_input_tokens_seen"
)


@dataclass(frozen=True)
class Run:
    """
    One training of an experiment.

    Args:
        folder (`Path`): Its `output_dir`.
        seed (`int`): Its seed.
        config (`str`, *optional*): Its `dataset_config_name`.
        fold (`str`, *optional*): The number of its fold, where every fold is run.
    """

    folder: Path
    seed: int
    config: str | None
    fold: str | None = None


def find_folds(family, names):
    """
    Folds of a protocol by their number.

    Args:
        family (`str`): The protocol's name, such as luna_jimenez_5fold.
        names (`Iterable[str]`): Every configuration of the dataset, such as luna_jimenez_5fold_1.

    Raises:
        `ValueError`: if there are none; lists the protocols that have folds.
    """
    folds = {}
    for name in names:
        if parts := re.fullmatch(r"(.+)_(\d+)", name):
            folds.setdefault(parts[1], {})[parts[2]] = name
    if family not in folds:
        known = ", ".join(f"{name} ({len(numbers)})" for name, numbers in sorted(folds.items()))
        raise ValueError(f"`dataset_config_name` ({family}) has no folds. With folds are: {known or 'none'}.")
    return dict(sorted(folds[family].items(), key=lambda item: int(item[0])))


def plan_runs(data_args, training_args, names=()):
    """
    The runs that the arguments ask for: each seed, and in it each fold.

    Args:
        data_args ([`DataArguments`]), training_args ([`AverTrainingArguments`]): See there `fold` and `seeds`.
        names (`Iterable[str]`, *optional*): Every configuration of the dataset, where `fold` is given.

    Returns:
        `list[Run]`: only one, in `output_dir` itself, without `fold all` and `seeds`.

    Raises:
        `ValueError`: for a fold or a protocol that is not there, or one of several runs that nothing would score.
    """
    chosen = _chosen_folds(data_args, names)
    folder, seed, seeds = Path(training_args.output_dir), training_args.seed, training_args.seeds
    if data_args.fold == "all" or seeds > 1:
        _check_several(len(chosen) * seeds, data_args, training_args)
    runs = []
    for number in range(seed, seed + seeds):
        for fold, config in chosen.items():
            parts = [f"seed_{number}"] * (seeds > 1) + [f"fold_{fold}"] * (data_args.fold == "all")
            runs.append(Run(folder.joinpath(*parts), number, config, fold if data_args.fold == "all" else None))
    return runs


def _check_several(number, data_args, training_args):
    if data_args.eval_split is None:
        raise ValueError("`eval_split` is missing: what each run is scored on, such as --eval_split test.")
    if training_args.push_to_hub:
        raise ValueError(
            f"`push_to_hub` takes the model of one run, but these are {number}. Push one of their folders afterwards."
        )


def _chosen_folds(data_args, names):
    if data_args.fold is None:
        return {None: data_args.dataset_config_name}
    folds = find_folds(data_args.dataset_config_name, names)
    if data_args.fold == "all":
        return folds
    if data_args.fold not in folds:
        raise ValueError(
            f"`fold` ({data_args.fold}) must be all, or one of {', '.join(folds)}, the folds of "
            f"{data_args.dataset_config_name}."
        )
    return {data_args.fold: folds[data_args.fold]}


def arguments_that_matter(model_args, data_args, training_args):
    """`dict`: what decides the numbers of a run, as JSON has it."""
    training = json.loads(training_args.to_json_string())
    values = {**vars(model_args), **vars(data_args), **training, "num_processes": training_args.world_size}
    values = {name: value for name, value in sorted(values.items()) if not _NO_MATTER.fullmatch(name)}
    return json.loads(json.dumps(values, default=str))


def is_finished(folder, arguments):
    """
    Whether one of several runs is done.

    Args:
        folder (`Path`): The run's.
        arguments (`dict`): See [`arguments_that_matter`].

    Raises:
        `ValueError`: if it was begun with other arguments; names them with both values.
    """
    begun = _read_json(folder / ARGUMENTS)
    if begun is None:
        return False
    names = [name for name in sorted({*begun, *arguments}) if not _NO_MATTER.fullmatch(name)]
    changed = [name for name in names if begun.get(name) != arguments.get(name)]
    if changed:
        shown = ", ".join(f"{name} {begun.get(name)} (now {arguments.get(name)})" for name in changed)
        raise ValueError(
            f"{folder} was begun with {shown}. Give what it was begun with, or name another `output_dir`."
        )
    return _read_json(folder / "results.json") is not None


def find_finished_run(folder, arguments, training_args):
    """
    What to tell about a single run that is finished, or `None` if it has to be trained.

    Args:
        folder (`Path`): The run's `output_dir`.
        arguments (`dict`): See [`arguments_that_matter`].
        training_args ([`AverTrainingArguments`]): With `overwrite` the run is trained again.

    Returns:
        `str`: that it is finished; only with `resume`, and if it was trained with the same arguments.

    Raises:
        `ValueError`: if training would replace a finished run, or if the finished run has other arguments.
    """
    results = _read_json(folder / "results.json")
    if results is None:
        return None
    if several := _runs_of(results):
        raise ValueError(
            f"`output_dir` ({folder}) holds the results of {several}, which one run would replace. Name another "
            "--output_dir."
        )
    if training_args.overwrite:
        return None
    if not training_args.resume:
        raise ValueError(
            f"`output_dir` ({folder}) holds a finished run{_score_and_date(results)}. Name another --output_dir, or "
            "replace this run with --overwrite true."
        )
    is_finished(folder, arguments)  # raises if they differ
    return f"{folder} holds a finished run{_score_and_date(results)}: there is nothing to resume, and nothing changed."


def check_experiment_folder(folder):
    """`ValueError` if `folder` (`Path`) holds a finished run, whose results those of several runs would replace."""
    results = _read_json(folder / "results.json")
    if results is not None and not _runs_of(results):
        raise ValueError(
            f"`output_dir` ({folder}) holds a finished run{_score_and_date(results)}, which the results of several "
            "runs would replace. Name another --output_dir."
        )


def _runs_of(results):
    """Such as `5 folds`; empty for the results of one run."""
    return next((f"{len(results[kind])} {kind}" for kind in ("seeds", "folds") if kind in results), "")


def _score_and_date(results):
    """Such as ` of 2026-11-24 (WAR 79.17 %)`."""
    war, date = results.get("metrics", {}).get("eval_war"), results.get("date", "")[:10]
    return (f" of {date}" if date else "") + ("" if war is None else f" (WAR {100 * war:.2f} %)")


def begin(folder, arguments):
    """Writes down what a run is begun with."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / ARGUMENTS, arguments)


def _read_json(path):
    """What a JSON file holds, or `None` where there is none or only part of one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def summarize(output_dir, runs):
    """
    Brings the results of several runs together, in `results.json` of each seed's folder and of `output_dir`.

    `metrics` are the mean over the folds (and over the seeds); `folds` has each fold's scores, `std` how they spread
    (n - 1), and `pooled` the scores of all clips of all folds in one, which is another number where folds differ in
    size. Confusion counts, recalls and intervals are of the pooled clips too, and `predictions.csv` holds each.

    Args:
        output_dir (`str` or `Path`): The experiment's folder.
        runs (`list[Run]`): All of them, finished.

    Returns:
        `dict`: as `results.json` of `output_dir`.
    """
    seeds = sorted({run.seed for run in runs})
    summaries = {}
    for seed in seeds:
        some = [run for run in runs if run.seed == seed]
        if len(some) == 1 and some[0].fold is None:
            summaries[seed] = _read_json(some[0].folder / "results.json")
        else:
            summaries[seed] = _summarize_folds(some)
    if len(seeds) == 1:
        return summaries[seeds[0]]
    scores = {str(seed): _scores_of(summary) for seed, summary in summaries.items()}
    results = {**_facts(summaries[seeds[0]]), **_mean_and_spread(scores), "seeds": scores}
    results["seed"] = seeds
    _write_json(Path(output_dir) / "results.json", results)
    return results


def _summarize_folds(runs):
    results = {run.fold: _read_json(run.folder / "results.json") for run in runs}
    tables = {run.fold: read_predictions(run.folder) for run in runs}
    scores = {fold: {**_scores_of(result), "clips": len(tables[fold])} for fold, result in results.items()}
    together = pd.concat([table.assign(fold=fold) for fold, table in tables.items()])
    first = results[runs[0].fold]
    indices = [together[column].map(first["labels"].index) for column in ("prediction", "label")]
    pooled = EmotionScores().compute(predictions=indices[0], references=indices[1])
    summary = {
        **_facts(first),
        **_mean_and_spread(scores),
        "folds": scores,
        "pooled": {name: pooled[name] for name in SCORES},
        **scores_of_predictions(together, first["labels"]),
    }
    if bare := _clips_without_action_units(results.values()):
        summary[NO_VIDEO] = bare
    summary["dataset"] |= {"fold": "all", "dataset_config_name": runs[0].config.rpartition("_")[0]}
    folder = runs[0].folder.parent
    write_whole(folder / "predictions.csv", together.to_csv(index=False))
    _write_json(folder / "results.json", summary)
    return summary


def _clips_without_action_units(results):
    """As in a run's results, of the clips that all folds scored together: those of training are in several folds."""
    counts = [result[NO_VIDEO][result["dataset"]["eval_split"]] for result in results if NO_VIDEO in result]
    if not counts:
        return None
    part = next(iter(results))["dataset"]["eval_split"]
    return {part: {name: sum(count[name] for count in counts) for name in ("count", "total")}}


def _facts(results):
    """What is the same in every run."""
    own = ("metrics", "confusion", "recall", "intervals", "folds", "pooled", "std", "date")
    return {name: value for name, value in results.items() if name not in own}


def _scores_of(results):
    return {name: results["metrics"][f"eval_{name}"] for name in SCORES}


def _mean_and_spread(scores):
    """Mean of the runs as `metrics`, and their standard deviation (n - 1) as `std`."""
    values = {name: [run[name] for run in scores.values()] for name in SCORES}
    return {
        "metrics": {f"eval_{name}": float(np.mean(some)) for name, some in values.items()},
        "std": {name: float(np.std(some, ddof=1)) if len(some) > 1 else None for name, some in values.items()},
    }


def print_summary(results):
    """Prints a line for each fold or seed, and below them mean, spread and the pooled scores, in %."""
    kind = "seeds" if "seeds" in results else "folds"
    table = Table(*[Column(name, justify="right") for name in (kind[:-1], *SCORES)], box=SIMPLE_HEAD)
    lines = {**results[kind], "mean": _scores_of(results), "std": results["std"], "pooled": results.get("pooled")}
    for name, scores in lines.items():
        if name == "mean":
            table.add_section()
        if scores is not None:
            values = [scores[score] for score in SCORES]
            table.add_row(name, *["-" if value is None else f"{100 * value:.2f}" for value in values])
    Console().print(table)


def _write_json(path, values):
    write_whole(path, json.dumps(values, indent=2) + "\n")
