"""The folder that a Hugging Face Space needs to show the page of one model."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REQUIREMENTS = "modeling-aver[app,mediapipe]"
LIBRARIES = ("libgl1", "libegl1", "libgles2")  # of Debian, for MediaPipe


def write_space(folder, model):
    """
    Writes `README.md` with the Space's settings, `app.py`, `requirements.txt` and `packages.txt`.

    Args:
        folder (`str` or `Path`): Made where it is not there. What is in it under these names must be from before.
        model (`str`): Hub id of the model that the Space shows.

    Returns:
        `list[Path]`: the files.

    Raises:
        `ValueError`: if `model` is no Hub id, for a Space has no folder of this machine. `OSError`: if one of the
        files is there and is not from here. `ImportError`: without Gradio, whose version a Space wants to know.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith((".", "-")):
        raise ValueError(f"A Space loads its model from the Hub: `model` must be an id as org/name, but is {model}.")
    folder = Path(folder)
    for name in ("README.md", "app.py", "requirements.txt"):
        path = folder / name
        if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
            raise FileExistsError(f"{path} is there and not from `aver app --space`. Name another folder.")
    contents = {
        "README.md": _readme(model),
        "app.py": f'{_MARK}\nfrom modeling_aver.inference.web_page import serve\n\nserve("{model}")\n',
        "requirements.txt": f"{_MARK}\n{REQUIREMENTS}=={version('modeling-aver')}\n",
        "packages.txt": "\n".join(LIBRARIES) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in contents]


_MARK = "# Written by aver app --space"


def _gradio_version():
    try:
        return version("gradio")
    except PackageNotFoundError as error:
        raise ImportError('The web page needs Gradio: pip install "modeling-aver[app]".') from error


def _readme(model):
    return f"""---
{_MARK}
title: Emotions of a clip
emoji: 🎭
colorFrom: yellow
colorTo: blue
sdk: gradio
sdk_version: {_gradio_version()}
app_file: app.py
pinned: false
license: apache-2.0
short_description: Emotions of a voice and a face over time
models:
- {model}
---

# Emotions of a clip

The page of [{model}](https://huggingface.co/{model}): upload or record a clip, and see what voice and face seem to
express, second by second. A model of acted emotion does not know what a person feels. Uploads are limited in size and
length and deleted as soon as they are answered.

`requirements.txt` asks for a released `modeling-aver`. For another version, put its wheel into this folder and name it
there instead: `./modeling_aver-….whl[app,mediapipe]`.
"""
