"""Tables of an experiment: the paper's numbers beside ours, as Markdown, CSV, LaTeX and on the terminal."""

from importlib.metadata import version

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table

from ..cards.scored_data import CORPORA, ScoredData
from ..evaluation.bootstrap import LEVEL, NUM_RESAMPLES
from ..io.atomic import write_whole
from .experiments import EXPERIMENTS, fusion_cost, parameter_note
from .results import measure

NOT_RUN = "not yet run"
NONE = "—"
# Columns of the CSV that hold an interval, by what was measured and what was resampled.
_ENDS = ("low", "high")
_WIDE = 1000  # characters: no table is wider
_LATEX_HEAD = "% Needs \\usepackage{booktabs}.\n"


def experiment_table(plan, runs):
    """
    Everything that is known of each row, in numbers.

    Args:
        plan ([`Plan`])
        runs (`dict[str, RowRuns]`): By row, those that are finished.

    Returns:
        `pd.DataFrame`: a row a method that the paper cites, then a row a row of the experiment. Accuracies, their
        differences and the ends of intervals are in %; what is not known, or not yet run, is missing.
    """
    experiment = plan.experiment
    measured = measure(experiment, runs)
    corpus = _scored_data(runs).name if runs else None
    corpora = paper_corpora(experiment)
    lines = [
        {"row": method.title, "title": method.title, "year": method.year, **_paper(method, corpora)}
        for method in experiment.earlier
    ]
    for row in experiment.rows:
        cost = fusion_cost(row, **plan.sizes)
        line = {"row": row.name, "title": row.title, "parameters": cost.parameters, "gflops": cost.gflops}
        ours = {"corpus": corpus if row.name in measured else None, **_measured_values(measured.get(row.name))}
        lines.append({**line, **_paper(row, corpora), **ours})
    names = ["row", "title", "year", "parameters", "gflops", *(f"paper_{corpus}" for corpus in corpora)]
    table = pd.DataFrame(lines).reindex(columns=[*names, "corpus", *_measured_values(None)])
    return table.astype({"year": "Int64", "parameters": "Int64", "num_seeds": "Int64"}).round(4)


def paper_corpora(experiment):
    """`list[str]`: corpora of which the paper prints numbers there."""
    printed = {corpus for row in (*experiment.rows, *experiment.earlier) for corpus in row.paper}
    return [corpus for corpus in CORPORA if corpus in printed]


def shown_table(plan, table):
    """The same as text: a `pd.DataFrame` of strings, with what nobody reads on a page left out."""
    experiment, seeds = plan.experiment, len(plan.seeds)
    ours = [row in {known.name for known in experiment.rows} for row in table["row"]]
    earlier = [f", {year}" if pd.notna(year) else "" for year in table["year"]]
    shown = {
        "": [title + year for title, year in zip(table["title"], earlier, strict=True)],
        "parameters": [f"{value:,}" if pd.notna(value) and value else NONE for value in table["parameters"]],
        "GFLOPs": [f"{value:.3g}" if value > 0 else NONE for value in table["gflops"]],
    }
    for corpus in paper_corpora(experiment):
        shown[f"paper ({CORPORA[corpus]})"] = [_number(value) for value in table[f"paper_{corpus}"]]
    lines = table.to_dict("records")
    corpus = next(iter(table["corpus"].dropna()), None)
    shown["ours" if corpus is None else f"ours ({corpus})"] = [
        _accuracy(line, seeds) if own else NONE for line, own in zip(lines, ours, strict=True)
    ]
    for unit in ("clips", "speakers"):
        shown[f"over {unit}"] = [_interval(line, f"over_{unit}") for line in lines]
    if experiment.reference is not None:
        shown[f"minus {experiment.reference}"] = [_number(line["difference"], "+.2f") for line in lines]
        shown["that over speakers"] = [_interval(line, "difference_over_speakers", "+.2f") for line in lines]
        shown["p"] = [_number(line["p_value"], ".2g") for line in lines]
    return pd.DataFrame(shown)


def notes_of(plan, runs):
    """
    What has to be known to read the numbers: sentences, warnings first.

    Args:
        plan ([`Plan`])
        runs (`dict[str, RowRuns]`): By row, those that are finished.
    """
    notes = [*_data_notes(runs), *_method_notes(plan, runs)]
    sizes = ", ".join(f"{name} {value}" for name, value in plan.sizes.items())
    notes.append(
        "Parameters and GFLOPs (10⁹ multiply-adds, as in the paper) are of the fusion layers, for a clip of 2 s: 100 "
        f"audio and 60 video frames; {f'at {sizes}' if sizes else 'at the size of the paper'}."
    )
    if plan.experiment is EXPERIMENTS["table2"]:
        notes.append(parameter_note())
    return [*notes, f"Command: `{plan.command}`", _circumstances(runs)]


def write_tables(plan, table, notes):
    """
    Writes the table as `NAME.md`, `NAME.csv` and `NAME.tex` into the experiment's folder.

    Args:
        plan ([`Plan`])
        table (`pd.DataFrame`): See [`experiment_table`].
        notes (`list[str]`): Below it; in the CSV they are left out.

    Returns:
        `list[Path]`
    """
    experiment, shown = plan.experiment, shown_table(plan, table)
    texts = {
        ".md": f"# {experiment.title}\n\n{_markdown(shown)}\n\n" + "\n\n".join(notes) + "\n",
        ".csv": table.to_csv(index=False),
        ".tex": _latex(experiment, shown, notes),
    }
    plan.out.mkdir(parents=True, exist_ok=True)
    paths = {plan.out / f"{experiment.name}{ending}": text for ending, text in texts.items()}
    for path, text in paths.items():
        write_whole(path, text)
    return list(paths)


def print_table(plan, table, notes):
    """Prints the table with its notes; never narrower than its cells need."""
    shown = shown_table(plan, table)
    columns = [Column(name, justify="left" if name == "" else "right", no_wrap=True) for name in shown]
    grid = Table(*columns, title=plan.experiment.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for line in shown.itertuples(index=False):
        grid.add_row(*line)
    console = Console(highlight=False)
    needed = Measurement.get(console, console.options.update(width=_WIDE), grid).maximum
    console = Console(highlight=False, width=max(console.width, needed))
    console.print(grid)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)


def _paper(row, corpora):
    return {f"paper_{corpus}": row.paper.get(corpus) for corpus in corpora}


def _measured_values(row):
    """A [`Measured`] in columns, in %; all of them missing for `None`."""
    compared = row and row.difference
    return {
        "num_seeds": row and len(row.seeds),
        "accuracy": _percent(row and row.accuracy),
        "deviation": _percent(row and row.deviation),
        **_ends("over_clips", row and row.over_clips),
        **_ends("over_speakers", row and row.over_speakers),
        "difference": _percent(compared and compared.accuracy),
        **_ends("difference_over_clips", compared and compared.over_clips),
        **_ends("difference_over_speakers", compared and compared.over_speakers),
        "p_value": compared.p_value if compared else float("nan"),
    }


def _ends(name, interval):
    return {f"{name}_{end}": _percent(value) for end, value in zip(_ENDS, interval or (None, None), strict=True)}


def _percent(value):
    return float("nan") if value is None else 100 * value


def _number(value, form=".2f"):
    return NONE if pd.isna(value) else f"{value:{form}}"


def _interval(line, name, form=".2f"):
    low, high = (line[f"{name}_{end}"] for end in _ENDS)
    return NONE if pd.isna(low) else f"{low:{form}} to {high:{form}}"


def _accuracy(line, wanted):
    if pd.isna(line["accuracy"]):
        return NOT_RUN
    spread = "" if pd.isna(line["deviation"]) else f" ± {line['deviation']:.2f}"
    part = "" if line["num_seeds"] == wanted else f" ({line['num_seeds']} of {wanted} seeds)"
    return f"{line['accuracy']:.2f}{spread}{part}"


def _data_notes(runs):
    if not runs:
        return ["Nothing was run here yet: all that is shown is what the paper prints, and what can be counted."]
    data = _scored_data(runs)
    warnings = [f"**{warning}**" for warning in data.warnings]
    return [*warnings, " ".join(fact for fact in data.facts() if not fact.startswith("**"))]


def _scored_data(runs):
    """Of any run: all have the same data."""
    row = next(iter(runs.values()))
    seed = next(iter(row.results))
    return ScoredData(row.results[seed], row.predictions[seed], row.training)


def _method_notes(plan, runs):
    if not runs:
        return []
    notes = [
        f"Ours is WAR, that is accuracy, in %{_means(plan, runs)}. Beside it are {LEVEL:.0%} intervals by bootstrap "
        f"({NUM_RESAMPLES} resamples), over clips and over speakers, of the accuracy on all scored clips together."
    ]
    if plan.experiment.reference is not None:
        several = ", combined over the seeds as twice the median" if len(plan.seeds) > 1 else ""
        notes.append(
            f"The difference to {plan.experiment.reference}, which the paper chose, is of the same seeds on the same "
            f"clips, all of them together; p is McNemar's exact test between two runs of a seed{several}."
        )
    return notes


def _means(plan, runs):
    """What the accuracy is a mean of, and what its ± is."""
    results = [results for row in runs.values() for results in row.results.values()]
    of = [f"the {len(results[0]['folds'])} folds"] if "folds" in results[0] else []
    if len(plan.seeds) == 1:
        return "".join(f", the mean of {thing}" for thing in of) + f", of seed {plan.seeds[0]}"
    of.append(f"the seeds {plan.seeds[0]} to {plan.seeds[-1]}")
    return f", the mean of {' and '.join(of)}, ± the standard deviation of the seeds"


def _circumstances(runs):
    if not runs:
        return f"Counted with modeling-aver {version('modeling-aver')}, torch {version('torch')}."
    found = [results for row in runs.values() for results in row.results.values()]
    hardware = sorted({f"{results['num_processes']} × {results['hardware']}" for results in found})
    versions = sorted({", ".join(f"{name} {value}" for name, value in one["versions"].items()) for one in found})
    return f"Run on {'; '.join(hardware)} with {'; '.join(versions)}."


def _markdown(shown):
    header = [list(shown.columns), ["---", *["---:"] * (len(shown.columns) - 1)]]
    lines = [*header, *shown.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _latex(experiment, shown, notes):
    body = shown.to_latex(
        index=False,
        escape=True,
        column_format="l" + "r" * (len(shown.columns) - 1),
        caption="Koo et al., " + experiment.title.replace("%", r"\%"),
        label=f"tab:{experiment.name}",
        position="htb",
    )
    return _LATEX_HEAD + body + "".join(f"% {line}\n" for note in notes for line in note.splitlines())
