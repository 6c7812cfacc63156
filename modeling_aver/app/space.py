"""The folder of a Hugging Face Space that serves the web page of one model."""

import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jinja2
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

import datasets_scripts

from .. import __version__
from ..cards.scored_data import ScoredData
from ..cards.sections import licence_id
from ..configuration_aver import AverConfig
from ..evaluation.run_folder import portable_results

TEMPLATES = Path(__file__).parent / "space_template"
FILES = ("README.md", "app.py", "requirements.txt", "packages.txt")
MODEL = "model"
PACKAGES = (Path(__file__).parents[1], Path(datasets_scripts.__file__).parent)
TITLE = "Emotions of a clip"
MARK = "Written by aver app --space"
# What the page imports, directly or by an extra of this package.
REQUIREMENTS = (
    *("accelerate", "av", "datasets", "evaluate", "filelock", "gradio", "huggingface_hub", "jinja2", "matplotlib"),
    *("mediapipe", "numpy", "pandas", "psutil", "pyyaml", "rich", "safetensors", "scipy", "soundfile", "torch"),
    *("transformers", "typer", "xxhash"),
)
OPTIONAL = ("mediapipe",)  # without it, models of MediaPipe's features answer by the sound alone


def write_space(folder: str | Path, model: str) -> list[Path]:
    """
    Writes a Space: settings, `app.py`, pinned requirements, this package's code and, of a saved folder, the model.

    Args:
        folder (`str` or `Path`): Created if it is missing. It may hold an earlier Space, which is replaced.
        model (`str`): A saved folder, whose weights, configuration, processor and results are copied; or a Hub id,
            which the Space downloads.

    Returns:
        `list[Path]`: files and folders that were written.

    Raises:
        `ValueError`: if `model` is no folder with a saved model and no Hub id. `OSError`: if `folder` holds other
        files. `ImportError`: if a package that the Space needs is not installed, so that its version is unknown.
    """
    folder, source = Path(folder), Path(model)
    copied = model_files(source) if source.is_dir() else []
    if not copied:
        _check_repo_id(model)
    _check_folder(folder)
    values = {
        "mark": MARK,
        "title": TITLE,
        "model": model,
        "copied": bool(copied),
        "name": source.resolve().name,
        "license": _license(source),
        "version": __version__,
        "requirements": _pinned_requirements(),
        "gradio_version": _installed_version("gradio"),
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
    }
    contents = {name: _render(name, values) for name in FILES}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    shutil.rmtree(folder / MODEL, ignore_errors=True)
    if copied:
        _copy_model(copied, folder / MODEL)
    for package in PACKAGES:
        shutil.rmtree(folder / package.name, ignore_errors=True)
        shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    names = [*FILES, *([MODEL] if copied else []), *(package.name for package in PACKAGES)]
    return [folder / name for name in names]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(one.stat().st_size for one in ([path] if path.is_file() else path.rglob("*")) if one.is_file())


def model_files(folder: Path) -> list[Path]:
    """
    Files of a saved model that its page needs.

    Raises:
        `ValueError`: if one is missing, or the folder holds another kind of model.
    """
    weights = sorted(folder.glob("model*.safetensors"))
    texts = [folder / name for name in ("config.json", "processor_config.json")]
    missing = [path.name for path in texts if not path.is_file()] + ([] if weights else ["model.safetensors"])
    if missing:
        raise ValueError(
            f"The folder {folder} lacks {', '.join(missing)}. Name a folder that train_hf.py or save_pretrained wrote."
        )
    kind = json.loads(texts[0].read_text(encoding="utf-8")).get("model_type")
    if kind != AverConfig.model_type:
        raise ValueError(f"The folder {folder} holds a model of type {kind}, not {AverConfig.model_type}.")
    more = [folder / name for name in ("model.safetensors.index.json", "results.json")]
    return [*texts, *weights, *(path for path in more if path.is_file())]


def _check_repo_id(model):
    try:
        validate_repo_id(model)
        if "/" not in model:
            raise HFValidationError("it has no organisation or user name")
    except HFValidationError as error:
        raise ValueError(
            f"There is no folder {model}, and it is no Hub id as org/name. Name the folder of a saved model, or push "
            "it first (aver push RUN org/name) and name its id."
        ) from error


def _check_folder(folder):
    """Refuses a folder where the Space would replace files that are not of an earlier one."""
    for name in (*FILES, MODEL, *(package.name for package in PACKAGES)):
        if (folder / name).exists() and not _is_space(folder):
            raise FileExistsError(
                f"{folder / name} exists and was not written by aver app --space. Name another folder."
            )


def _is_space(folder):
    marked = (folder / name for name in ("README.md", "app.py", "requirements.txt"))
    return all(path.is_file() and MARK in path.read_text(encoding="utf-8", errors="replace") for path in marked)


def _installed_version(name):
    """Installed version, without the local part (`+cpu`) that no package index knows."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError as error:
        raise ImportError(f'The web page needs {name}: pip install "modeling-aver[app,mediapipe]".') from error


def _pinned_requirements():
    pinned = []
    for name in REQUIREMENTS:
        try:
            pinned.append((name, _installed_version(name)))
        except ImportError:
            if name not in OPTIONAL:
                raise
    return pinned


def _license(source):
    """The licence that a copied model has by its training corpus; the code's where that is not recorded."""
    try:
        return licence_id(ScoredData(_results(source / "results.json"), None, {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "apache-2.0"


def _results(path):
    return portable_results(json.loads(path.read_text(encoding="utf-8")))


def _copy_model(files, target):
    target.mkdir()
    for path in files:
        shutil.copyfile(path, target / path.name)
    results = target / "results.json"
    if results.is_file():
        try:
            results.write_text(json.dumps(_results(results), indent=2) + "\n", encoding="utf-8")
        except (ValueError, KeyError, TypeError, AttributeError):
            results.unlink()  # not of train_hf.py: it may hold paths of this machine


def _render(name, values):
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(f"{name}.jinja").render(values)
