"""What an experiment's finished runs say: each row's accuracy, how sure it is, and how far it is from another's."""

from dataclasses import dataclass

import numpy as np

from ..evaluation.bootstrap import combine_p_values, mcnemar, mean_difference_intervals, mean_intervals
from ..evaluation.comparison import align_runs
from ..evaluation.results import read_predictions
from ..evaluation.run_folder import read_json


@dataclass(frozen=True)
class RowRuns:
    """
    Finished runs of a row, one a seed.

    Args:
        results (`dict[int, dict]`): `results.json` of each seed; where folds were run, of all of them together.
        predictions (`dict[int, pd.DataFrame]`): Each seed's answers, of all folds, see [`read_predictions`].
        training (`dict`): Arguments of the training.
    """

    results: dict
    predictions: dict
    training: dict


@dataclass(frozen=True)
class Measured:
    """
    Accuracy (WAR) of a row, all in [0, 1].

    Args:
        seeds (`tuple[int]`): Which were run.
        accuracy (`float`): Mean over the seeds of the mean over the folds.
        deviation (`float`, *optional*): Of the seeds' accuracies (n - 1); `None` of one seed.
        over_clips, over_speakers (`list[float]`, *optional*): 95 % bootstrap intervals `[low, high]` of the seeds'
            mean accuracy on the clips of all folds; `None` where fewer than two people speak.
        difference ([`Difference`], *optional*): To the row that the paper chose.
    """

    seeds: tuple
    accuracy: float
    deviation: float | None
    over_clips: list | None
    over_speakers: list | None
    difference: "Difference | None" = None


@dataclass(frozen=True)
class Difference:
    """
    A row's accuracy minus that of the row that the paper chose, on the clips and seeds of both; in [-1, 1].

    Args:
        accuracy (`float`): On the clips of all folds, mean over the seeds.
        over_clips, over_speakers (`list[float]`, *optional*): See [`Measured`].
        p_value (`float`): McNemar's exact test of the runs of each seed, see [`combine_p_values`] for several.
    """

    accuracy: float
    over_clips: list | None
    over_speakers: list | None
    p_value: float


def read_runs(plan):
    """`dict[str, RowRuns]`: by row, what is finished; rows without a finished run are left out."""
    found = {}
    for job in plan.jobs:
        if job.is_finished():
            runs = found.setdefault(job.row.name, RowRuns({}, {}, job.arguments))
            runs.results[job.seed] = read_json(job.folder / "results.json")
            runs.predictions[job.seed] = read_predictions(job.folder)
    return found


def measure(experiment, runs):
    """
    Scores of each row that was run.

    Args:
        experiment ([`Experiment`])
        runs (`dict[str, RowRuns]`): See [`read_runs`].

    Returns:
        `dict[str, Measured]`: by row.

    Raises:
        `ValueError`: if two runs answered different clips.
    """
    chosen = runs.get(experiment.reference)
    found = {}
    for name, row in runs.items():
        compared = None if chosen is None or name == experiment.reference else difference(chosen, row)
        found[name] = _measured(row, compared)
    return found


def difference(chosen, row):
    """[`Difference`] of two rows, [`RowRuns`] each; `None` where they share no seed."""
    seeds = [seed for seed in row.predictions if seed in chosen.predictions]
    if not seeds:
        return None
    tables_a, tables_b = ([runs.predictions[seed] for seed in seeds] for runs in (chosen, row))
    first, answers = _aligned([*tables_a, *tables_b])
    right = (answers == first["label"].to_numpy()).astype(float)
    answers_a, answers_b = np.split(answers, 2)
    right_a, right_b = np.split(right, 2)
    intervals = mean_difference_intervals(first["label"], answers_a, answers_b, first["speaker_id"])
    tests = [mcnemar(*pair) for pair in zip(right_a, right_b, strict=True)]
    return Difference(
        accuracy=float(right_b.mean() - right_a.mean()),
        over_clips=_war(intervals, "clips"),
        over_speakers=_war(intervals, "speakers"),
        p_value=combine_p_values(test.p_value for test in tests),
    )


def _measured(row, compared):
    accuracies = [results["metrics"]["eval_war"] for results in row.results.values()]
    first, answers = _aligned(list(row.predictions.values()))
    intervals = mean_intervals(first["label"], answers, first["speaker_id"])
    return Measured(
        seeds=tuple(row.results),
        accuracy=float(np.mean(accuracies)),
        deviation=float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        over_clips=_war(intervals, "clips"),
        over_speakers=_war(intervals, "speakers"),
        difference=compared,
    )


def _aligned(tables):
    """The first table by clip, and all answers `(num_tables, num_clips)` in its order."""
    pairs = [align_runs(tables[0], table) for table in tables]
    return pairs[0][0], np.stack([table["prediction"].to_numpy(dtype=str) for _, table in pairs])


def _war(intervals, unit):
    return (intervals[unit] or {}).get("war")
