"""Model files for OpenFace that the user names, in place of those that the program finds itself.

OpenFace looks for `model/` and `AU_predictors/` in its current folder first, then beside the program. Its current
folder is always one of our own, so only what is linked there, or named by `-mloc`, is used before the program's own.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..io.atomic import digest_of
from .base import ExtractorUnavailableError

FOLDERS = ("model", "AU_predictors")


@dataclass(frozen=True)
class OpenFaceModels:
    """
    Args:
        landmarks (`str`, *optional*): Landmark model, given as `-mloc`.
        folders (`tuple[str, ...]`, *optional*): Folders to be found in OpenFace's current folder.
        digest (`str`, *optional*): Of the files, for the identity of the features. `None` where none were given.
    """

    landmarks: str | None = None
    folders: tuple[str, ...] = ()
    digest: str | None = None

    def prepare(self, folder: Path) -> list[str]:
        """Links the folders into OpenFace's working folder and returns the options to run it with."""
        for source in self.folders:
            link = folder / Path(source).name
            if not link.is_symlink():
                link.symlink_to(source, target_is_directory=True)
        return [] if self.landmarks is None else ["-mloc", self.landmarks]


NO_MODELS = OpenFaceModels()


def find_models(given: str | Path | None, is_local: bool = True) -> OpenFaceModels:
    """
    The model files at a path that the user names.

    Args:
        given (`str` or `Path`, *optional*): A folder that holds `model/` and `AU_predictors/`, or either; or a
            landmark model, whose neighbour `../AU_predictors/` is used if it is there.
        is_local (`bool`, *optional*, defaults to `True`): Otherwise it is a landmark model inside a container's image.

    Raises:
        `ExtractorUnavailableError`: if neither is there.
    """
    if given is None:
        return NO_MODELS
    if not is_local:
        return OpenFaceModels(str(given), digest=f"{given} of the image")
    path = Path(given).absolute()
    if path.is_file():
        predictors = path.parent.parent / FOLDERS[1]
        folders = (str(predictors),) if predictors.is_dir() else ()
        return OpenFaceModels(str(path), folders, _digest(path.name, [path.parent, *map(Path, folders)]))
    folders = tuple(str(path / name) for name in FOLDERS if (path / name).is_dir())
    if not folders:
        raise ExtractorUnavailableError(
            f"OpenFace's models are not at {given}. Give --openface-models a folder that holds model/ and "
            "AU_predictors/, or a file such as model/main_clnf_general.txt."
        )
    return OpenFaceModels(None, folders, _digest(None, map(Path, folders)))


def _digest(landmarks, folders):
    """Of the landmark model's name and the main files' content; of all others, hundreds of MB, names and sizes."""
    digest = hashlib.sha256((landmarks or "").encode())
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(folder.parent)} {path.stat().st_size}\n".encode())
                if path.parent == folder and path.name.startswith("main_"):
                    digest.update(digest_of(path, hashlib.sha256()).encode())
    return f"sha256:{digest.hexdigest()}"
