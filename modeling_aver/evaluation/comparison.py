"""Two runs on the same clips: which is better, and how sure that is."""

from dataclasses import asdict, dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from .bootstrap import NUM_RESAMPLES, SCORES, McNemar, difference_intervals, mcnemar
from .metrics import EmotionScores
from .results import protocol_of

_SHOWN = 3


@dataclass(frozen=True)
class Comparison:
    """
    What [`compare_runs`] found. Differences are B − A: positive where run B is better.

    Args:
        num_clips, num_speakers (`int`): Of the clips that both runs answered.
        scores_a, scores_b (`dict[str, float]`): `war`, `uar`, `macro_f1`, `weighted_f1` in [0, 1].
        intervals (`dict`): See [`difference_intervals`].
        mcnemar ([`McNemar`]): The test on the discordant clips.
        protocols (`list[str]`): Whether speakers had profiles, in words, of A and B.
    """

    num_clips: int
    num_speakers: int
    scores_a: dict
    scores_b: dict
    intervals: dict
    mcnemar: McNemar
    protocols: list

    @property
    def caution(self):
        """`str`: what to know before the difference is believed; empty where both runs have one protocol."""
        if self.protocols[0] == self.protocols[1]:
            return ""
        return f"Two protocols: A is {self.protocols[0]}, B {self.protocols[1]}. The difference is theirs too."

    @property
    def differences(self):
        """`dict[str, float]`: B − A of each score, in [-1, 1]."""
        return {name: self.scores_b[name] - value for name, value in self.scores_a.items()}

    def to_dict(self):
        """Everything, for JSON."""
        return {**asdict(self), "differences": self.differences}


def compare_runs(run_a, run_b, num_resamples=NUM_RESAMPLES, seed=0):
    """
    Compares two runs' answers to the same clips.

    Args:
        run_a, run_b (`pd.DataFrame`): See [`read_predictions`]; rows in any order.
        num_resamples (`int`, *optional*, defaults to 2000): Of the intervals.
        seed (`int`, *optional*, defaults to 0): Of the intervals.

    Returns:
        [`Comparison`]

    Raises:
        `ValueError`: see [`align_runs`].
    """
    run_a, run_b = align_runs(run_a, run_b)
    label, speakers, answers = run_a["label"], run_a["speaker_id"], (run_a["prediction"], run_b["prediction"])
    return Comparison(
        num_clips=len(run_a),
        num_speakers=speakers.nunique(),
        scores_a=_scores(label, answers[0]),
        scores_b=_scores(label, answers[1]),
        intervals=difference_intervals(label, *answers, speakers, num_resamples=num_resamples, seed=seed),
        mcnemar=mcnemar(*(predictions == label for predictions in answers)),
        protocols=[protocol_of(run_a), protocol_of(run_b)],
    )


def align_runs(run_a, run_b):
    """
    Two runs' answers, a row a clip, both indexed by `utterance_id` in the order of run A.

    Args:
        run_a, run_b (`pd.DataFrame`): See [`read_predictions`]; rows in any order.

    Raises:
        `ValueError`: if the runs answered different clips, or disagree on who speaks or what is true; it names the
        first of them.
    """
    run_a, run_b = run_a.set_index("utterance_id"), run_b.set_index("utterance_id")
    _check_same_clips(run_a.index, run_b.index)
    run_b = run_b.loc[run_a.index]
    for column in ("label", "speaker_id"):
        _check_same_values(run_a[column], run_b[column])
    return run_a, run_b


def print_comparison(comparison, name_a, name_b):
    """Prints scores and differences in %, and McNemar's test beneath; `name_a` and `name_b` say which run is which."""
    columns = ["", "A", "B", "B − A", *(f"over {units}" for units in _unit_names(comparison))]
    table = Table(*(Column(name, no_wrap=True, justify="right") for name in columns), box=SIMPLE_HEAD, pad_edge=False)
    for score in comparison.scores_a:
        table.add_row(*_cells(comparison, score))
    test = comparison.mcnemar
    console = Console(highlight=False)
    console.print(f"A: {name_a}\nB: {name_b}", markup=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"In %, with {comparison.intervals['level']:.0%} intervals of B − A "
        f"({comparison.intervals['num_resamples']} resamples, seed {comparison.intervals['seed']}). Clips right "
        f"only in A: {test.only_a}, only in B: {test.only_b}; McNemar's exact test: p = {test.p_value:.2g}."
    )
    if comparison.caution:
        console.print(comparison.caution)


def comparison_markdown(comparison, name_a, name_b):
    """The same as a Markdown table with a row for WAR and one for UAR, all in %."""
    test = comparison.mcnemar
    units = [f"{comparison.intervals['level']:.0%} over {name}" for name in _unit_names(comparison)]
    header = ["%", name_a, name_b, "difference", *units, "right only in one", "p (McNemar)"]
    rows = [[*_cells(comparison, score), f"{test.only_a} / {test.only_b}", f"{test.p_value:.2g}"] for score in SCORES]
    for row in rows[1:]:
        row[-2:] = "", ""  # the test is on clips right or wrong, which is WAR
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    return f"{table}\n\n{comparison.caution}" if comparison.caution else table


def _scores(labels, predictions):
    emotions, indices = np.unique([list(labels), list(predictions)], return_inverse=True)
    truth, answers = indices.reshape(2, len(labels))
    return EmotionScores(keep_in_memory=True).compute(predictions=answers, references=truth)


def _unit_names(comparison):
    return f"{comparison.num_clips} clips", f"{comparison.num_speakers} speakers"


def _cells(comparison, score):
    """A row: name, both scores, their difference and its intervals, in %."""
    intervals = [(comparison.intervals[unit] or {}).get(score) for unit in ("clips", "speakers")]
    return [
        score,
        f"{100 * comparison.scores_a[score]:.2f}",
        f"{100 * comparison.scores_b[score]:.2f}",
        f"{100 * comparison.differences[score]:+.2f}",
        *("—" if ends is None else f"{100 * ends[0]:+.2f} to {100 * ends[1]:+.2f}" for ends in intervals),
    ]


def _check_same_clips(clips_a, clips_b):
    missing = {"B": [clip for clip in clips_a if clip not in clips_b], "A": clips_b.difference(clips_a).tolist()}
    found = [f"run {name} lacks {len(clips)} ({_first(clips)})" for name, clips in missing.items() if clips]
    if found:
        raise ValueError(
            f"The runs answered different clips: {' and '.join(found)}. Score both on the same split, or leave the "
            "others out of both files."
        )


def _check_same_values(values_a, values_b):
    other = values_a.index[values_a != values_b]
    if len(other):
        pairs = [f"{clip}: {values_a[clip]} in A, {values_b[clip]} in B" for clip in other]
        raise ValueError(
            f"The runs disagree on the {values_a.name} of {len(other)} of {len(values_a)} clips ({_first(pairs, '; ')}"
            "). Were both made from the same version of the dataset?"
        )


def _first(items, separator=", "):
    return separator.join(items[:_SHOWN]) + (separator + "…" if len(items) > _SHOWN else "")
