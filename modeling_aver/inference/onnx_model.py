"""An exported model, called as the model that it was: tensors in, logits out, by ONNX Runtime on the CPU."""

import hashlib
import importlib.util
from pathlib import Path

import torch

from ..configuration_aver import AverConfig
from ..io.atomic import digest_of
from ..modeling_aver import AverClassifierOutput

FILE = "model.onnx"
TORCH_FILE = "model.pt2"
RUNTIMES = ("auto", "torch", "onnx")
QUANTIZE_KEY = "aver_quantize"  # in the metadata of model.onnx: a quantization, or `UNQUANTIZED`
UNQUANTIZED = "none"
NUMBERS = {"tensor(float)": torch.float32, "tensor(int64)": torch.int64}


def check_installed(*names, extra="onnx"):
    """Refuses to begin what needs packages that are not there; `extra` brings them."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'This needs {", ".join(missing)}: pip install "modeling-aver[{extra}]".')


def exported_file(folder):
    """
    `str`: `model.onnx` or `model.pt2` where `folder` holds only what `aver export` wrote, without the weights that
    transformers loads; `None` for every other folder, and for a Hub id.
    """
    folder = Path(folder)
    if any(True for pattern in ("model*.safetensors", "pytorch_model*.bin") for _ in folder.glob(pattern)):
        return None
    return next((name for name in (FILE, TORCH_FILE) if (folder / name).is_file()), None)


def check_not_exported(folder):
    """
    Refuses a folder of `aver export` where the model itself is needed.

    Raises:
        `ValueError`: naming what can run the exported file, and the folder to give instead.
    """
    name = exported_file(folder)
    if name == FILE:
        raise ValueError(
            f"{folder} holds {FILE} of aver export onnx, which returns logits only: aver predict, evaluate and live "
            "run it with ONNX Runtime. Give the folder of the model that was exported."
        )
    if name == TORCH_FILE:
        raise ValueError(
            f"{folder} holds {TORCH_FILE} of aver export torch, which is for torch.export.load in your own program; "
            "no aver command runs it. Give the folder of the model that was exported."
        )


def runtime_of(folder, runtime="auto"):
    """
    The runtime that a model will use.

    Args:
        folder (`str` or `Path`): A folder, or a Hub id.
        runtime (`str`, *optional*, defaults to `"auto"`):
            One of `RUNTIMES`. `"auto"` is `"onnx"` for a folder that holds `model.onnx` and no weights, and `"torch"`
            otherwise.

    Returns:
        `str`: `"torch"` or `"onnx"`.

    Raises:
        `ValueError`: if `runtime` is unknown, or is `"torch"` for a folder of `aver export`.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"`runtime` ({runtime!r}) may be {', '.join(RUNTIMES)}.")
    if runtime == "auto" and exported_file(folder) == FILE:
        return "onnx"
    if runtime != "onnx":
        check_not_exported(folder)
    return "onnx" if runtime == "onnx" else "torch"


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


def separate_clips(config, inputs):
    """
    The clips of a batch, each as a batch of one without padding: exactly what it would be if it came alone.

    Args:
        config ([`AverConfig`])
        inputs (`dict[str, torch.Tensor]`): See [`complete`].

    Yields:
        `dict[str, torch.Tensor]`: by `input_names(config)`.

    Raises:
        `ValueError`: see [`complete`]; also if a clip has no real frame of either stream.
    """
    tensors = complete(config, inputs)
    for index in range(len(tensors["attention_mask"])):
        clip = {name: values[index : index + 1] for name, values in tensors.items()}
        yield complete(config, _without_padding(config, clip))


def _without_padding(config, clip):
    """A batch of one, cut after the last real input of each stream; a stream without any is removed."""
    lengths = {name: _real_length(clip[name]) for name in ("attention_mask", "action_units_mask")}
    if config.num_audio_frames(lengths["attention_mask"]) < 1:
        lengths["attention_mask"] = 0
    streams = {
        "attention_mask": (config.audio_input_name, "attention_mask"),
        "action_units_mask": ("action_units", "action_units_mask", "video_timestamps"),
    }
    kept = {name: values for name, values in clip.items() if name.startswith("speaker")}
    for mask, length in lengths.items():
        if length:
            kept |= {name: clip[name].narrow(_time_axis(config, name), 0, length) for name in streams[mask]}
    return kept


def _real_length(mask):
    """Inputs up to the last real one of a mask `(1, length)`."""
    real = mask[0].nonzero()
    return int(real.max()) + 1 if len(real) else 0


def _time_axis(config, name):
    return 2 if name == config.audio_input_name and config.audio_config.model_type == "whisper" else 1


def _absent(config, name, given, num_clips):
    masked = {"attention_mask": config.audio_input_name, "action_units_mask": "action_units"}
    if name in masked:
        values = given.get(masked[name])
        length = _least(config, name) if values is None else values.shape[_time_axis(config, masked[name])]
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

    A quantized model runs one clip at a time, without padding. Rounding activations to 8 bits turns differences of
    1e-6 between one batch and another into differences of 0.01 between probabilities, so in a batch the logits of a
    clip would depend on the other clips and on the padding. On a CPU, one clip at a time takes no longer.

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
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.runs_batches = metadata.get(QUANTIZE_KEY) == UNQUANTIZED  # an older file does not say: one clip at a time

    def eval(self):
        """Returns itself: an exported model is always in evaluation mode."""
        return self

    def __call__(self, **inputs):
        """[`AverClassifierOutput`] with `logits` `(batch_size, num_labels)`, float32."""
        if self.runs_batches:
            return AverClassifierOutput(logits=self._logits(complete(self.config, inputs)))
        clips = separate_clips(self.config, inputs)
        return AverClassifierOutput(logits=torch.cat([self._logits(clip) for clip in clips]))

    def _logits(self, tensors):
        arrays = {name: tensors[name].to(number).numpy(force=True) for name, number in self.inputs.items()}
        return torch.from_numpy(self.session.run(["logits"], arrays)[0])

    def fingerprint(self):
        """`str`: tells this model from another."""
        digest = hashlib.sha256()
        for path in sorted(self.path.parent.glob(f"{FILE}*")):
            digest.update(bytes.fromhex(digest_of(path, hashlib.sha256())))
        return digest.hexdigest()[:16]
