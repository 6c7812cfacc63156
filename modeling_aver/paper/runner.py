"""Runs the rows of an experiment one after the other, each by `train_hf.py` in processes and a folder of its own."""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import HfArgumentParser

from ..evaluation.cross_validation import arguments_that_matter, begin, is_finished
from ..evaluation.run_folder import portable_results
from ..io.atomic import write_whole
from ..training.arguments import ModelArguments, parse_arguments
from .experiments import SIZES, VARIED, Experiment, Row

LOG = "train.log"
_SHOWN = 12  # last lines of the log of a run that failed

RECIPES = Path(__file__).parents[1] / "training" / "recipes"


@dataclass(frozen=True)
class Job:
    """
    One training of a row with one seed; with `fold all` its folds, one after the other.

    Args:
        row ([`Row`]), seed (`int`), folder (`Path`)
        recipe (`dict`): The row as a recipe of `train_hf.py`.
        flags (`tuple[str]`): What overrides it.
        arguments (`dict`): What decides its numbers, see [`~training.folds.arguments_that_matter`].
    """

    row: Row
    seed: int
    folder: Path
    recipe: dict
    flags: tuple
    arguments: dict

    @property
    def name(self):
        return f"{self.row.name}, seed {self.seed}"

    @property
    def argv(self):
        """Arguments of `train_hf.py`."""
        own = ("--output_dir", str(self.folder), "--seed", str(self.seed), "--seeds", "1", "--resume")
        return [str(self.folder.parent / "recipe.yaml"), *self.flags, *own]

    def is_finished(self):
        """See [`~training.folds.is_finished`]."""
        return is_finished(self.folder, self.arguments)


@dataclass(frozen=True)
class Plan:
    """
    What an experiment takes on one dataset.

    Args:
        experiment ([`Experiment`])
        out (`Path`): Folder of tables and runs.
        jobs (`tuple[Job]`): The first seed of every row, then the second: a table of one seed is there early.
        sizes (`dict`): Those of [`~training.experiments.SIZES`] that are not the paper's.
        processes (`int`): That train a row together.
        command (`str`): Which makes this table, without paths of the machine.
    """

    experiment: Experiment
    out: Path
    jobs: tuple
    sizes: dict
    processes: int
    command: str

    @property
    def seeds(self):
        return sorted({job.seed for job in self.jobs})

    def choose(self, names):
        """`list[Job]`: those of the rows that are named; `ValueError` for a name that no row has."""
        known = [row.name for row in self.experiment.rows]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"{self.experiment.name} has no row {', '.join(unknown)}, only {', '.join(known)}.")
        return [job for job in self.jobs if job.row.name in names]


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error: which, its exit status, and the last lines of its log."""

    job: Job
    status: int
    last_lines: tuple

    def to_text(self):
        lines = "\n".join(f"    {line}" for line in self.last_lines)
        return f"{self.job.name} failed (exit status {self.status}); {self.job.folder / LOG} ends:\n{lines}"


def plan_experiment(experiment, recipe, out, flags=(), processes=1):
    """
    The runs that an experiment takes, all of them, whether they are done or not.

    Args:
        experiment ([`Experiment`])
        recipe (`str` or `Path`): Of `train_hf.py`: data, encoder and training, the same for all rows.
        out (`str` or `Path`): Folder for tables and runs.
        flags (`Sequence[str]`, *optional*): Of `train_hf.py`; they override the recipe. `--seeds` is how often each
            row is trained.
        processes (`int`, *optional*, defaults to 1): That train a row together.

    Returns:
        [`Plan`]

    Raises:
        `ValueError`: for flags or a recipe with which rows cannot be compared, or that `train_hf.py` does not take;
            also if a run in `out` was begun with other arguments.
    """
    flags, out = tuple(flags), Path(out)
    _check_flags(experiment, flags)
    model_args, data_args, training_args = parse_arguments([str(recipe), *flags])
    _check_arguments(experiment, model_args, data_args, training_args)
    values = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
    common = arguments_that_matter(model_args, data_args, training_args)
    jobs = []
    for seed in range(training_args.seed, training_args.seed + training_args.seeds):
        for row in experiment.rows:
            own = row.values(model_args.ctm_loss_weight)
            arguments = {**common, **own, "seed": seed, "num_processes": processes}
            folder = out / row.folder / f"seed_{seed}"
            jobs.append(Job(row, seed, folder, {**values, **own}, flags, arguments))
    for job in jobs:
        job.is_finished()
    given = model_args.config_values()
    return Plan(
        experiment=experiment,
        out=out,
        jobs=tuple(jobs),
        sizes={name: given[name] for name in SIZES if name in given},
        processes=processes,
        command=_command(experiment, recipe, out, flags, processes),
    )


def run_jobs(jobs, processes=1):
    """
    Trains what is not finished; what was broken off goes on. A run that fails stops none of the others.

    Args:
        jobs (`Iterable[Job]`)
        processes (`int`, *optional*, defaults to 1): That train a row together.

    Returns:
        `list[Failure]`: of the runs that failed.
    """
    waiting = [job for job in jobs if not job.is_finished()]
    if not waiting:
        return []
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    failures = []
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(waiting))
        for job in waiting:
            bar.update(task, description=f"{job.name}: {job.folder / LOG}")
            failure = run_job(job, processes)
            failures += [failure] if failure else []
            bar.advance(task)
    return failures


def run_job(job, processes=1):
    """Trains one job, with its output in a log beside its results; a [`Failure`], or `None` where all went well."""
    begin(job.folder, job.arguments)
    title = f"# {job.row.title}: written by `aver reproduce`.\n"
    write_whole(job.folder.parent / "recipe.yaml", title + yaml.safe_dump(job.recipe, sort_keys=False))
    command = [sys.executable, *_launcher(processes), find_spec("train_hf").origin, *job.argv]
    with open(job.folder / LOG, "a", encoding="utf-8") as log:
        print("$", shlex.join(command), file=log, flush=True)
        run = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, check=False
        )
    return Failure(job, run.returncode, last_lines(job.folder / LOG)) if run.returncode else None


def last_lines(path, count=_SHOWN):
    """The last lines of a log; of a progress bar, which writes over itself, what it said last."""
    lines = Path(path).read_bytes().decode("utf-8", errors="replace").split("\n")
    shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines]
    return tuple([line for line in shown if line][-count:])


def _launcher(processes):
    if processes == 1:
        return ()
    # Accelerate, beneath Trainer, reads what this sets; unlike `accelerate launch` it also starts several on a CPU.
    return ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes))


def _check_flags(experiment, flags):
    given, _ = HfArgumentParser(ModelArguments).parse_args_into_dataclasses(list(flags), return_remaining_strings=True)
    taken = [f"--{name}" for name in VARIED if getattr(given, name) is not None]
    taken += [name for name in ("--output_dir",) if any(flag.split("=")[0] == name for flag in flags)]
    if taken:
        raise ValueError(
            f"{experiment.name} sets {', '.join(taken)} itself: leave it out. Its folder is --out, and a λ of CTM "
            "that is not the paper's goes into the recipe."
        )


def _check_arguments(experiment, model_args, data_args, training_args):
    if model_args.model_name_or_path is not None:
        raise ValueError(
            f"`model_name_or_path` ({model_args.model_name_or_path}) is a model with its own fusion, but each row of "
            f"{experiment.name} trains another. Give an encoder: --encoder."
        )
    if training_args.overwrite:
        raise ValueError(
            f"`overwrite` is not for {experiment.name}, which resumes its runs. Leave it out, and name another --out "
            "to train all of them again."
        )
    if data_args.eval_split is None:
        raise ValueError("`eval_split` is missing: what each row is scored on, such as --eval_split test.")
    if training_args.push_to_hub:
        raise ValueError(
            f"`push_to_hub` takes the model of one run, but {experiment.name} makes several. Push one of their "
            "folders afterwards."
        )
    if model_args.ctm_loss_weight == 0 and any(row.ctm_loss_weight for row in experiment.rows):
        raise ValueError(
            f"The recipe's `ctm_loss_weight` is 0, but {experiment.name} has rows with CTM. Leave it out for the "
            "paper's 0.5."
        )


def _command(experiment, recipe, out, flags, processes):
    several = ("--processes", str(processes)) if processes > 1 else ()
    carried = Path(recipe).parent == RECIPES
    recipe = Path(recipe).stem if carried else str(recipe)
    words = ("aver", "reproduce", experiment.name, recipe, "--out", str(out), *several, *flags)
    return portable_results({"command": shlex.join(words), "dataset": {}})["command"]
