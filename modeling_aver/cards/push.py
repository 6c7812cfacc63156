"""A finished run to the Hub: exactly the files that somebody else needs, and never a pickle."""

import json
import shlex
from fnmatch import fnmatch
from functools import partial

from safetensors import SafetensorError, safe_open

from modeling_aver.io.uploads import with_patience

from ..evaluation.run_folder import FinishedRun, portable_results, read_json
from .model_card import PICTURES, REPOSITORY, REVISION, TRAINING_LOG, check_card, write_card

CODE = (
    *(
        "audio_encoders.py",
        "configuration_aver.py",
        "encoder.py",
        "losses.py",
        "modeling_aver.py",
        "positions.py",
        "processing_aver.py",
    ),
    *("pipeline_aver.py", "windows.py"),
)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# What an earlier push, or Trainer with `hub_strategy` every_save or checkpoint, may have left in the repository.
REMOVED = (
    *("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "training_args.json", "trainer_state.json"),
    *("checkpoint-*", "last-checkpoint/*", "model*.safetensors", INDEX, "predictions.csv", TRAINING_LOG, *PICTURES),
)


def push_run(folder, repo_id, *, private=False, token=None, revision=None):
    """
    Uploads a finished run: weights, configuration, processor, code, results, predictions, log, card and its pictures,
    in one commit; a second one puts the first one's hash into the card, so that what readers copy is pinned.

    Checkpoints, optimizer states and pickles stay here, and go from the repository where Trainer left them. Paths of
    this machine are cut out of the results' command.

    Args:
        folder (`str` or `Path`): What `train_hf.py` wrote.
        repo_id (`str`): Such as org/aver-tarope.
        private (`bool`, *optional*, defaults to `False`): For a repository that is made now.
        token (`str`, *optional*): Of the Hub; defaults to the one that is logged in.
        revision (`str`, *optional*): Branch to push to; defaults to main.

    Returns:
        `str`: address of the commit with the card.

    Raises:
        `ValueError`: if a piece is missing or damaged, or if the card claims what the results do not say.
        [`~modeling_aver.io.uploads.UploadError`]: if the Hub refuses or cannot be reached. What it shows is then what
        it was before, or all but the card's second version; pushing again completes it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    run = FinishedRun.read(folder)
    files = find_pieces(run)
    api = HfApi(token=token)
    patiently = partial(with_patience, repo_id=repo_id, command=_command(folder, repo_id, private))
    repo_id = patiently(
        lambda: api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id  # None: as its owner wants
    )
    card = (run.folder / "README.md").read_text(encoding="utf-8").replace(REPOSITORY, repo_id)
    commit = patiently(lambda: _commit(api, repo_id, run, files, card, revision))
    if REVISION not in card:
        return commit.commit_url
    pinned, message = card.replace(REVISION, commit.oid).encode(), "The card names the commit to pin"
    operations = [CommitOperationAdd("README.md", pinned)]
    return patiently(
        lambda: api.create_commit(repo_id, operations, commit_message=message, revision=revision).commit_url
    )


def _command(folder, repo_id, private):
    """What pushes a run that is there, whoever began to push it."""
    return shlex.join(["aver", "push", str(folder), repo_id, *(["--private"] if private else [])])


def _commit(api, repo_id, run, files, card, revision):
    """One commit: all the files, and without those that an earlier push has left."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations = [CommitOperationAdd(name, content) for name, content in _contents(run, files, card).items()]
    there = api.list_repo_files(repo_id, revision=revision)
    stale = [name for name in there if name not in files and any(fnmatch(name, pattern) for pattern in REMOVED)]
    operations += [CommitOperationDelete(name) for name in stale]
    return api.create_commit(repo_id, operations, commit_message="Model, code, results and card", revision=revision)


def find_pieces(run):
    """
    Names of the files to upload, all of them there and the weights readable. Writes the card where there is none.

    Args:
        run ([`~training.run_folder.FinishedRun`])

    Raises:
        `ValueError`: naming every piece that is missing, or the weights that cannot be read.
    """
    shards = sorted(set(read_json(run.folder / INDEX)["weight_map"].values())) if _has(run, INDEX) else [WEIGHTS]
    index = [INDEX] if _has(run, INDEX) else []
    scored = ["predictions.csv"] if run.predictions is not None else []
    needed = [*shards, *index, "config.json", "processor_config.json", *CODE, "results.json", *scored]
    lacking = [name for name in needed if not _has(run, name)]
    if lacking:
        raise ValueError(
            f"{run.folder} lacks {', '.join(lacking)}: not a whole run. Push the folder that train_hf.py wrote, after "
            "it has ended; weights of another format are not pushed."
        )
    for name in shards:
        _check_weights(run.folder / name)
    if not _has(run, "README.md"):
        write_card(run.folder)
    check_card(run)
    return [*needed, "README.md", *(name for name in (TRAINING_LOG, *PICTURES) if _has(run, name))]


def _contents(run, files, card):
    """Of each file: where it lies, or its bytes where they differ from what lies here."""
    changed = {
        "README.md": card.encode(),
        "results.json": (json.dumps(portable_results(run.results), indent=2) + "\n").encode(),
    }
    return {name: changed.get(name, str(run.folder / name)) for name in files}


def _check_weights(path):
    try:
        with safe_open(path, "pt") as weights:
            weights.keys()
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}). Was it cut short, or is it a pointer of Git-LFS?"
        ) from error


def _has(run, name):
    return (run.folder / name).is_file()
