"""One command an experiment: plan, train what is missing, write the table and, of Figure 3, the pictures."""

from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from transformers import AutoConfig

from datasets_scripts import SAMPLE_DIR

from ..cards.scored_data import CORPORA, HUB_ID
from ..io.media import one_line
from ..training.arguments import parse_arguments
from ..training.model_source import check_model_source
from .experiments import find_experiment
from .figure3 import draw_figure3
from .results import read_runs
from .runner import RECIPES, plan_experiment, run_jobs
from .tables import experiment_table, notes_of, print_table, write_tables


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
    jobs = plan.jobs if only is None else plan.choose(only)
    if not all(job.is_finished() for job in jobs):
        check_paths(path, flags)
    failures = run_jobs(jobs, processes)
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


def check_paths(recipe, flags):
    """
    Checks once what every run of an experiment would look for: data, features and audio encoder.

    Args:
        recipe (`Path`), flags (`Sequence[str]`): Of `train_hf.py`.

    Raises:
        `ValueError`: naming the first path that does not exist, or the encoder that cannot be loaded.
    """
    model_args, data_args, _ = parse_arguments([str(recipe), *flags])
    root = _check_data(data_args)
    if name := data_args.action_units_folder:
        if not any(place.exists() for place in (root / name, root / f"{name}.zip", Path(name))):
            raise ValueError(f"`action_units_folder` ({name}) is neither a folder nor a zip in {root} or here.")
    if model_args.audio_model_name_or_path is not None:
        _check_encoder(model_args.audio_model_name_or_path, model_args.model_revision)


def _check_data(data_args):
    """`Path`: folder of the corpus."""
    name, folder = data_args.dataset_name, data_args.data_dir
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"`data_dir` ({folder}) is no folder. Give --data the folder of the corpus.")
    if folder is None and name == "ravdess":
        raise ValueError("`data_dir` is missing: give --data the folder of RAVDESS's official archives.")
    if name.endswith(".csv") and not Path(name).is_file():
        raise ValueError(f"`dataset_name` ({name}) is no file. Give the CSV of your clips.")
    if name not in CORPORA and not Path(name).exists() and not HUB_ID.fullmatch(name):
        raise ValueError(f"`dataset_name` ({name}) is neither {', '.join(CORPORA)}, a folder, nor an id of the Hub.")
    return Path(folder or (Path(name).parent if name.endswith(".csv") else SAMPLE_DIR))


def _check_encoder(name, revision):
    check_model_source(name, revision)
    try:
        AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"The audio encoder {name} cannot be loaded: {one_line(error)}. Check --encoder.") from error
