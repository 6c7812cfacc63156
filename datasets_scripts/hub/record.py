"""A folder of `aver data build`: what it says of itself, whether it is whole, and its way to users and to the Hub."""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import datasets
from huggingface_hub import HfApi

from modeling_aver.io.uploads import with_patience

from .shards import damage_of

RECORD = "build.json"
WORK = ".building"  # in the built folder: what is not finished, and the lock of the process that is at it


@dataclass
class Build:
    """
    What a built folder holds.

    Args:
        corpus (`str`): crema_d, ravdess or clips.
        files (`dict[str, dict[str, list[str]]]`): Parquet files of each part of each configuration.
        counts (`dict[str, dict[str, dict]]`): Of each part of each configuration: clips, speakers, and each emotion.
        identities (`list[dict]`): Of the features. More than one is no mistake only where clips have none.
        left_out (`dict[str, str]`): Reason of each clip that could not be used.
        digests (`dict[str, str]`): SHA-256 of each Parquet file.
    """

    corpus: str
    files: dict = field(default_factory=dict)
    counts: dict = field(default_factory=dict)
    identities: list = field(default_factory=list)
    left_out: dict = field(default_factory=dict)
    digests: dict = field(default_factory=dict)

    @property
    def shards(self):
        """`list[str]`: its Parquet files."""
        return sorted({file for parts in self.files.values() for some in parts.values() for file in some})

    @classmethod
    def read(cls, folder):
        """The record of a built folder; `ValueError` if it is none."""
        path = Path(folder) / RECORD
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no {RECORD}: it is no built dataset. Make one: aver data build … --out …"
            )
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} is not what aver data build writes ({error}). Build the folder again."
            ) from error


def check_shards(folder):
    """Refuses a built folder with a file that is missing or not what was built, as [`Build.read`] refuses others."""
    folder, build = Path(folder), Build.read(folder)
    for file in build.shards:
        if damage := damage_of(folder / file, str(folder / file), build.digests.get(file)):
            raise ValueError(damage)


def load_published(source, name=None, **options):
    """
    Every split of a configuration of a built folder, or of the Hub.

    Args:
        source (`str`): Folder or Hub id.
        name (`str`, *optional*): Of the configuration.
        options: Of `datasets.load_dataset`.

    Returns:
        `datasets.DatasetDict`

    Raises:
        `ValueError`: if a file of it is missing or damaged; names it.
    """
    if (Path(source) / RECORD).is_file():
        check_shards(source)
    elif (Path(source) / WORK).is_dir():
        raise ValueError(f"{source} is no whole dataset: its build was broken off or is under way. Build it again.")
    try:
        return datasets.load_dataset(source, name, **options)
    except datasets.exceptions.DatasetGenerationError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{source} cannot be read: {reason} Fetch or build it again.") from error


def push_build(folder, repo_id, *, private=False):
    """
    Uploads a built folder, in one commit; files of an earlier build are removed. Ask whoever pushes whether the
    licence of the clips allows it: RAVDESS's forbids commercial use.

    Args:
        folder (`str` or `Path`): See [`~build.build_corpus`].
        repo_id (`str`): Such as org/crema-d-au.
        private (`bool`, *optional*, defaults to `False`): For a repository that is made now.

    Returns:
        `str`: address of the commit.

    Raises:
        `ValueError`: if the folder is no build, or a file of it is missing or damaged.
        [`~uploads.UploadError`]: if the Hub refuses or cannot be reached; it then shows what it showed before.
    """
    check_shards(folder)
    api = HfApi()
    command = f"aver data push {folder} {repo_id}{' --private' if private else ''}"
    patiently = partial(with_patience, repo_id=repo_id, command=command)
    patiently(lambda: api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True))
    upload = {
        "repo_id": repo_id,
        "repo_type": "dataset",
        "folder_path": str(folder),
        "allow_patterns": ["README.md", RECORD, "data*/*.parquet"],
        "delete_patterns": ["data*/*.parquet"],
        "commit_message": "Clips, splits and card",
    }
    return patiently(lambda: api.upload_folder(**upload)).commit_url
