"""Checkpoints that are whole or not there: what is wrong with one, which to go on from, which to delete."""

import json
import logging
import os
import re
import shutil
import zipfile
from pathlib import Path

import xxhash
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from torch.serialization import get_unsafe_globals_in_checkpoint
from transformers.trainer_pt_utils import safe_globals

from ..evaluation.cross_validation import ARGUMENTS
from ..io.atomic import digest_of
from .processes import raise_any

logger = logging.getLogger(__name__)

# Where a checkpoint is written until it is whole: on the same file system, and not uploaded (names with _ are not).
ASIDE = "_unfinished"
_NAME = re.compile(r"checkpoint-(\d+)")
_STATE = "trainer_state.json"
_CHECKSUMS = "checksums.json"  # XXH3 of the weights; the other binary files carry their own
_NEEDED = (_STATE, "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def find_checkpoints(output_dir):
    """`dict[int, Path]`: folders of checkpoints by their step, the earliest first; readable or not."""
    folders = Path(output_dir).glob("checkpoint-*")
    steps = {int(name[1]): folder for folder in folders if (name := _NAME.fullmatch(folder.name)) and folder.is_dir()}
    return dict(sorted(steps.items()))


def problem_of(folder):
    """
    Why training cannot go on from a checkpoint, or `None` if it can. Every byte of weights, optimizer, scheduler and
    generators is read and compared with its checksum, and what would run code when it is loaded is refused. Of weights
    without a checksum, it is the header and whether the file is as long as it says.

    Args:
        folder (`str` or `Path`): Such as runs/aver/checkpoint-100.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    missing = _missing(folder)
    if missing:
        hint = " (was it saved with `save_only_model`?)" if missing == ["optimizer.pt", "scheduler.pt"] else ""
        return f"it lacks {', '.join(missing)}{hint}"
    problems = (problem for path in sorted(folder.iterdir()) if (problem := _problem_of_file(path)))
    return next(problems, None) or _problem_of_weights(folder)


def _problem_of_weights(folder):
    if not (folder / _CHECKSUMS).is_file():
        return None  # of an earlier version, or taken from elsewhere
    checksums = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
    if not isinstance(checksums, dict):
        return f"{_CHECKSUMS} is no list of files with their checksums"
    for name, checksum in checksums.items():
        if _checksum(folder / name) != checksum:
            return f"{name} does not hold what was saved: a copy or a disk changed it"
    return None


def _checksum(path):
    """`str`: XXH3 of a file, or `None` where there is none."""
    return digest_of(path, xxhash.xxh3_64()) if path.is_file() else None


def _missing(folder):
    names = {path.name for path in folder.iterdir()}
    found = {
        "model.safetensors": names & {"model.safetensors.index.json", "adapter_model.safetensors"},
        "rng_state.pth": {name for name in names if name.startswith("rng_state_")},  # one a process
    }
    shards = _shards(folder) if "model.safetensors.index.json" in names else []
    sharded = "latest" in names or any(name.startswith("pytorch_model_fsdp") for name in names)  # DeepSpeed, FSDP
    needed = (_STATE,) if sharded else (*_NEEDED, *shards)
    return [name for name in needed if name not in names and not found.get(name)]


def _shards(folder):
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return sorted(set(index["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError):
        return ["a readable model.safetensors.index.json"]


def _problem_of_file(path):
    try:
        if path.name == _STATE:
            if json.loads(path.read_text(encoding="utf-8"))["global_step"] != int(_step_of(path.parent)):
                return f"{path.name} is of another step"
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                pass
        elif path.suffix in (".pt", ".pth"):
            return _problem_of_archive(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, zipfile.BadZipFile) as error:
        return f"{path.name} cannot be read ({error})"
    return None


def _problem_of_archive(path):
    """Of what torch.save wrote. Trainer loads it with `weights_only`, which refuses code too, but stops the run."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            return f"{path.name} is damaged in {damaged}"
    with safe_globals():  # those that the state of generators needs
        foreign = get_unsafe_globals_in_checkpoint(path)
    if foreign:
        return f"{path.name} would run code when it is loaded ({', '.join(sorted(foreign))}): no training wrote it"
    return None


def _step_of(folder):
    name = _NAME.fullmatch(folder.name)
    return name[1] if name else json.loads((folder / _STATE).read_text(encoding="utf-8"))["global_step"]


def last_complete(output_dir, writes=True):
    """
    The latest checkpoint of a run from which training can resume, or `None`; logs those that are passed over.

    Args:
        output_dir (`str` or `Path`): The run's folder.
        writes (`bool`, *optional*, defaults to `True`): Whether this process saves checkpoints. Where several do, each
            on the disk of its host, it is the latest that is complete on all of them. Every process has to call this.
    """
    steps = gather_object([set(find_checkpoints(output_dir)) if writes else None])
    for step in sorted(set.intersection(*(some for some in steps if some is not None)), reverse=True):
        folder = Path(output_dir) / f"checkpoint-{step}"
        problem = problem_of(folder) if writes else None
        if problem is not None:
            logger.warning("%s is passed over: %s.", folder, problem)
        if not any(gather_object([problem])):
            return folder
    return None


def where_to_start(training_args):
    """
    The checkpoint that a run resumes from, or `None` for the beginning. Every process gets the same step; where hosts
    have an `output_dir` each, in its own.

    Args:
        training_args ([`AverTrainingArguments`]): `resume` looks for the last complete one in `output_dir`,
            `resume_from_checkpoint` names one.

    Raises:
        `ValueError`: if the named one is not complete, or if without either there are checkpoints of an earlier run,
            which a later `resume` could not tell from this one's.
    """
    named, output_dir, writes = (
        training_args.resume_from_checkpoint,
        training_args.output_dir,
        training_args.should_save,
    )
    if named is not None:
        problem = problem_of(named) if writes else None
        raise_any(problem and f"`resume_from_checkpoint` ({named}) is no complete checkpoint: {problem}.")
        return str(named)
    if not training_args.resume:
        raise_any(_earlier_run(output_dir) if writes and not training_args.overwrite else None)
        return None
    folder = last_complete(output_dir, writes)
    if folder is None:
        logger.warning("No complete checkpoint in %s: training starts from the beginning.", output_dir)
        return None
    _warn_of_other_processes(folder, training_args)
    logger.warning("Training goes on from %s.", folder)
    return str(folder)


def _earlier_run(output_dir):
    earlier = list(find_checkpoints(output_dir).values())
    if not earlier:
        return None
    return (
        f"`output_dir` ({output_dir}) has checkpoints of an earlier run, the last {earlier[-1].name}. Resume it with "
        "--resume, name another --output_dir, or delete it and train again with --overwrite true."
    )


def _warn_of_other_processes(folder, training_args):
    states = len(list(folder.glob("rng_state*.pth"))) if training_args.should_save else 0  # one for each process
    then = sum(gather_object([states]))
    if then != training_args.world_size:
        logger.warning(
            "%s was written by %d processes, and this run has %d: the result will differ in the last digits from that "
            "of an undisturbed run.",
            folder,
            then,
            training_args.world_size,
        )


def delete_checkpoints(output_dir, kept=None):
    """Deletes the checkpoints of an earlier run but `kept` (`str` or `Path`, *optional*)."""
    for folder in find_checkpoints(output_dir).values():
        if kept is None or folder.resolve() != Path(kept).resolve():
            remove(folder)


def delete_run(folder, kept_checkpoint=None):
    """
    Deletes the results and checkpoints of an earlier run, so that what is in the folder is never of two runs. Model
    and card stay until they are replaced.

    Args:
        folder (`Path`): The run's `output_dir`.
        kept_checkpoint (`str`, *optional*): Of these, the one to resume from.
    """
    for name in ("results.json", "predictions.csv", ARGUMENTS):
        (folder / name).unlink(missing_ok=True)
    delete_checkpoints(folder, kept_checkpoint)


def put_in_place(folder, output_dir):
    """Gives a checkpoint that is whole its place, at once; what it holds is on the disk before. Returns the place."""
    place = Path(output_dir) / folder.name
    checksums = {path.name: _checksum(path) for path in sorted(folder.glob("*.safetensors"))}
    (folder / _CHECKSUMS).write_text(json.dumps(checksums), encoding="utf-8")
    _flush(folder)
    if place.exists():
        remove(place)
    os.rename(folder, place)
    _flush_folder(place.parent)
    return place


def rotate(output_dir, newest, limit, best=None):
    """
    Deletes checkpoints beyond `limit`, the earliest first; before these, any of later steps than `newest`, which an
    earlier run left and this one passed over.

    Args:
        output_dir (`str` or `Path`): The run's folder.
        newest (`Path`): The one just written, which is whole. It stays.
        limit (`int`, *optional*): Trainer's `save_total_limit`.
        best (`str`, *optional*): The best so far. It stays.
    """
    if not limit or limit < 0:
        return
    checkpoints = find_checkpoints(output_dir)
    kept = {newest.name, Path(best or newest).name}
    now = int(_step_of(newest))
    others = [folder for step, folder in checkpoints.items() if step > now and folder.name not in kept]
    others += [folder for step, folder in checkpoints.items() if step <= now and folder.name not in kept]
    excess = len(checkpoints) - max(limit, len(kept))
    for folder in others[: max(excess, 0)]:
        remove(folder)


def remove(folder):
    """Deletes a checkpoint. It loses its name first, so that nobody ever finds half of it."""
    aside = clean_folder(folder.parent / ASIDE / "removed")
    os.rename(folder, aside / folder.name)
    shutil.rmtree(aside)


def clean_folder(path):
    """`path`, there and empty."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _flush(folder):
    if os.name != "posix":
        return
    for parent, _, names in os.walk(folder):
        for name in names:
            _flush_folder(Path(parent) / name)
        _flush_folder(parent)


def _flush_folder(path):
    if os.name != "posix":  # folders cannot be opened elsewhere
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
