"""A saved model, looked through before it is loaded: transformers puts random numbers where weights are missing."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..configuration_aver import AverConfig
from ..modeling_aver import AverForEmotionClassification

TEXTS = ("config.json", "processor_config.json", "model.safetensors.index.json")


def check_saved_model(folder):
    """
    Refuses a folder of `save_pretrained` that was damaged since. Of the weights, names, shapes and the length of the
    files are compared; a folder without weights, or of another kind of model, is left to those who load it.

    Args:
        folder (`str` or `Path`)

    Raises:
        `ValueError`: naming the file and what is wrong with it.
    """
    folder = Path(folder)
    for path in filter(Path.is_file, (folder / name for name in TEXTS)):
        values = _values_in(path)
        if path.name == "config.json" and values.get("model_type") != AverConfig.model_type:
            return
    shapes = {}
    for path in sorted(folder.glob("model*.safetensors")):
        shapes |= _shapes_in(path)
    if shapes:
        _check_shapes(folder, shapes)


def _values_in(path):
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}). Copy or save the model again.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} cannot be read: it holds a {type(values).__name__}, and no values by their names.")
    return values


def _shapes_in(path):
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}). Was it cut short? Copy or save the model again."
        ) from error


def _check_shapes(folder, shapes):
    with torch.device("meta"):  # names and shapes alone
        model = AverForEmotionClassification(AverConfig.from_pretrained(folder))
    wanted = {name: tuple(values.shape) for name, values in model.state_dict().items()}
    if missing := sorted(wanted.keys() - shapes.keys()):
        raise ValueError(
            f"{folder} lacks {len(missing)} of the model's {len(wanted)} weights, such as {missing[0]}: they would be "
            "random numbers. Copy or save the model again."
        )
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise ValueError(
                f"{folder}: the weight {name} has the shape {shapes[name]}, but config.json says {shape}. They are of "
                "two models: save it again."
            )
