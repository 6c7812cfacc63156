"""One command an experiment: plan, train what is missing, write the table and, of Figure 3, the pictures."""

from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from .experiment_results import read_runs
from .experiment_tables import experiment_table, notes_of, print_table, write_tables
from .experiments import find_experiment
from .figure3 import draw_figure3
from .reproduction import plan_experiment, run_jobs

RECIPES = Path(__file__).with_name("recipes")


def reproduce_experiment(name, recipe=None, out=None, *, flags=(), processes=1, only=None, clip=None):
    """
    Trains the rows of an experiment that are not finished, and writes and prints its table.

    Args:
        name (`str`): table1, table2, table3 or figure3.
        recipe (`str`, *optional*): A file, or the name of a recipe of the package. Defaults to the paper's of CREMA-D,
            with which nothing is trained unless a flag names data.
        out (`str` or `Path`, *optional*): Folder for tables and runs. Defaults to runs/reproduce/ and the recipe's
            name; one folder serves all experiments with one recipe.
        flags (`Sequence[str]`, *optional*): Of `train_hf.py`, for every row.
        processes (`int`, *optional*, defaults to 1): That train a row together.
        only (`list[str]`, *optional*): Names of the rows to train; all others are shown as they are.
        clip (`str`, *optional*): Of Figure 3 (a).

    Returns:
        `list[Failure]`: runs that failed; all others were run nevertheless.
    """
    experiment = find_experiment(name)
    if name == "figure3" and find_spec("matplotlib") is None:
        raise ImportError('Pictures need matplotlib: pip install "modeling-aver[plot]".')
    path = find_recipe(recipe or "crema_d")
    plan = plan_experiment(experiment, path, out or Path("runs/reproduce") / path.stem, flags, processes)
    if (
        only is None
        and recipe is None
        and not {flag.split("=")[0] for flag in flags} & {"--data_dir", "--dataset_name"}
    ):
        only = []  # the paper's corpus without its folder: there is nothing to train on
    failures = run_jobs(plan.jobs if only is None else plan.choose(only), processes)
    runs = read_runs(plan)
    files, notes = [], notes_of(plan, runs)
    if name == "figure3":
        files, summary = draw_figure3(plan, clip)
        notes = [*([summary] if summary else []), *notes]
    table = experiment_table(plan, runs)
    files = [*write_tables(plan, table, notes), *files]
    print_table(plan, table, notes)
    Console(highlight=False).print(f"Written: {', '.join(map(str, files))}", markup=False, soft_wrap=True)
    return failures


def find_recipe(name):
    """`Path` of a recipe: a file, or one of the package's by its name; `ValueError` that lists them for another."""
    if Path(name).is_file():
        return Path(name)
    carried = {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
    if name not in carried:
        raise ValueError(f"There is no recipe {name}. Name a file, or one of the package: {', '.join(carried)}.")
    return carried[name]
