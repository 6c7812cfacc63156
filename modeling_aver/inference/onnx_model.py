"""An exported model, called as the model that it was: tensors in, logits out, by ONNX Runtime on the CPU."""

import hashlib
import importlib.util
from pathlib import Path

import torch

from ..configuration_aver import AverConfig
from ..features.whole import digest_of
from ..modeling_aver import AverClassifierOutput

FILE = "model.onnx"
RUNTIMES = ("torch", "onnx")
NUMBERS = {"tensor(float)": torch.float32, "tensor(int64)": torch.int64}


def check_installed(*names, extra="onnx"):
    """Refuses to begin what needs packages that are not there; `extra` brings them."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'This needs {", ".join(missing)}: pip install "modeling-aver[{extra}]".')


def input_names(config):
    """Names of the tensors that an exported model of `config` takes, in order."""
    names = [config.audio_input_name, "attention_mask", "action_units", "action_units_mask", "video_timestamps"]
    return names + ["speaker_audio_mean", "speaker_audio_std"] * (config.audio_normalization == "standardize")


def complete(config, inputs):
    """
    The processor's tensors as an exported model takes them: none may be missing, so a stream that nobody has is some
    zeros under a mask of zeros, and an unknown speaker has statistics of zeros.

    Args:
        config ([`AverConfig`])
        inputs (`dict[str, torch.Tensor]`): See [`AverForEmotionClassification.forward`]; `None` counts as missing.

    Returns:
        `dict[str, torch.Tensor]`: by `input_names(config)`.

    Raises:
        `ValueError`: for inputs that an export has no place for, or without any stream.
    """
    given = {name: values for name, values in inputs.items() if values is not None}
    names = input_names(config)
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"An exported model takes {', '.join(names)}; not {', '.join(unknown)}.")
    if names[0] not in given and "action_units" not in given:
        raise ValueError(f"Neither `{names[0]}` nor `action_units` was given: a clip needs one of them.")
    num_clips = next(iter(given.values())).shape[0]
    return {name: given[name] if name in given else _absent(config, name, given, num_clips) for name in names}


def _absent(config, name, given, num_clips):
    masked = {"attention_mask": config.audio_input_name, "action_units_mask": "action_units"}
    if name in masked:
        values = given.get(masked[name])
        spectrogram = name == "attention_mask" and config.audio_config.model_type == "whisper"
        length = _least(config, name) if values is None else values.shape[2 if spectrogram else 1]
        return torch.full((num_clips, length), int(values is not None))
    if name == "video_timestamps":
        num_frames = given["action_units"].shape[1] if "action_units" in given else _least(config, name)
        return (torch.arange(num_frames) / config.video_frame_rate).expand(num_clips, -1)
    shapes = {
        "action_units": (_least(config, name), config.num_action_units),
        config.audio_input_name: _absent_sound(config),
    }
    return torch.zeros(num_clips, *shapes.get(name, (config.num_audio_layers, config.audio_config.hidden_size)))


def spectrogram_channels(config):
    """Channels of the spectrogram that the audio encoder reads."""
    audio = config.audio_config
    return audio.num_mel_bins if audio.model_type == "whisper" else audio.feature_projection_input_dim


def _absent_sound(config):
    length = _least(config, config.audio_input_name)
    if config.audio_input_name == "input_values":
        return (length,)
    channels = spectrogram_channels(config)
    return (channels, length) if config.audio_config.model_type == "whisper" else (length, channels)


def _least(config, name):
    """Length of a stream that is absent: some frames, for exporters take axes of length 1 for something else."""
    return 7 if name in ("action_units", "action_units_mask", "video_timestamps") else 19 * config.min_audio_inputs


class OnnxModel:
    """
    What `aver export onnx` wrote. Called as [`AverForEmotionClassification`], it gives `logits` and nothing else.

    Args:
        folder (`str` or `Path`): With `model.onnx` and `config.json`.

    Raises:
        `OSError`: if they are not there. `ImportError`: without ONNX Runtime. `ValueError`: if the file is no model.
    """

    device = torch.device("cpu")

    def __init__(self, folder):
        check_installed("onnxruntime")
        import onnxruntime

        self.path = Path(folder) / FILE
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no {self.path}. aver export onnx {folder} --out FOLDER writes one.")
        self.config = AverConfig.from_pretrained(folder)
        try:
            self.session = onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
        except Exception as error:  # its own classes, which differ from version to version
            raise ValueError(f"{self.path} is not a model that ONNX Runtime can run: {error}") from error
        self.inputs = {given.name: NUMBERS[given.type] for given in self.session.get_inputs()}

    def __call__(self, **inputs):
        """[`AverClassifierOutput`] with `logits` `(batch_size, num_labels)`, float32."""
        tensors = complete(self.config, inputs)
        arrays = {name: tensors[name].to(number).numpy(force=True) for name, number in self.inputs.items()}
        return AverClassifierOutput(logits=torch.from_numpy(self.session.run(["logits"], arrays)[0]))

    def fingerprint(self):
        """`str`: tells this model from another."""
        digest = hashlib.sha256()
        for path in sorted(self.path.parent.glob(f"{FILE}*")):
            digest.update(bytes.fromhex(digest_of(path, hashlib.sha256())))
        return digest.hexdigest()[:16]
