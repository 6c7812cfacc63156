"""The feature cache: what a frozen audio encoder makes of each clip, computed once and read from the disk ever after.

A folder of safetensors files, some clips in each, memory-mapped. What is kept is found by what it was made of: the
encoder's weights and configuration name the folder, the sound itself names the clip. So folds, splits and corpora
share it, a changed encoder or a changed clip never meets a stale entry, and a file that is whole is right.
"""

import functools
import hashlib
import json
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..features.table import write_whole

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FORMAT = 1  # of the entries: those of another are never read


class FeatureCache:
    """
    Frames of one audio encoder, as [`~AverModel.encode_audio`] gives them.

    Args:
        folder (`str` or `Path`): May hold the caches of several encoders.
        model ([`AverModel`]): Whose `audio_encoder`, `audio_layers` and `audio_pooling_stride` made the frames.
        feature_extractor ([`AverFeatureExtractor`]): That prepared its inputs.
        dtype (`str`, *optional*, defaults to `"float32"`):
            `float32` keeps the numbers as they are; `float16` and `bfloat16` halve the space.

    Raises:
        `ValueError`: for another `dtype`.
    """

    def __init__(self, folder, model, feature_extractor, dtype="float32"):
        if dtype not in DTYPES:
            raise ValueError(f"`feature_cache_dtype` ({dtype!r}) must be one of {', '.join(DTYPES)}.")
        facts = describe_encoder(model, feature_extractor, dtype)
        self.folder = Path(folder) / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        self.dtype = DTYPES[dtype]
        self._files = {}
        write_whole(self.folder / "encoder.json", (json.dumps(facts, indent=2) + "\n").encode())
        self.refresh()

    def refresh(self):
        """Looks for entries that other processes have written. A file that cannot be read is deleted, and said so."""
        for path in sorted({*self.folder.glob("*.safetensors")} - {*self._files.values()}):
            try:
                with safe_open(path, framework="pt") as file:
                    self._files |= dict.fromkeys(file.keys(), path)
            except (SafetensorError, OSError) as error:
                logger.warning("%s is damaged (%s): its clips are encoded again.", path, error)
                path.unlink(missing_ok=True)

    def __contains__(self, key):
        return key in self._files

    def __len__(self):
        return len(self._files)

    def frames(self, row):
        """
        The frames of a clip.

        Args:
            row (`dict`): Of the documented schema; only its `audio` is looked at.

        Returns:
            `torch.Tensor` of shape `(num_audio_frames, num_audio_layers, channels)`, or `None` for a silent row.

        Raises:
            `ValueError`: for a clip that the cache does not have.
        """
        key = clip_key(row)
        if key is None:
            return None
        if key not in self._files:
            raise ValueError(f"{row['utterance_id']} is not in the feature cache {self.folder}: fill it first.")
        return _open(self._files[key]).get_tensor(key).float()

    def write(self, entries):
        """
        Adds clips, in a file that is whole or absent.

        Args:
            entries (`dict[str, torch.Tensor]`): Frames by [`clip_key`].
        """
        name = hashlib.sha256("".join(sorted(entries)).encode()).hexdigest()[:16]
        tensors = {key: frames.to("cpu", self.dtype).contiguous() for key, frames in entries.items()}
        try:
            write_whole(self.folder / f"{name}.safetensors", save(tensors))
        except OSError as error:
            raise OSError(f"The feature cache {self.folder} cannot be written: {error}") from error


def describe_encoder(model, feature_extractor, dtype):
    """`dict` of JSON values: everything that decides what [`~AverModel.encode_audio`] gives for a clip."""
    config = model.config
    return {
        "format": FORMAT,
        "audio_config": json.loads(config.audio_config.to_json_string()),
        "weights_sha256": _hash_of_weights(model.audio_encoder),
        "audio_layers": config.audio_layers,
        "audio_pooling_stride": config.audio_pooling_stride,
        "audio_feature_extractor": feature_extractor.audio_feature_extractor,
        "sampling_rate": feature_extractor.sampling_rate,
        "dtype": dtype,
    }


def clip_key(row):
    """`str`: SHA-256 of the row's sound file, or `None` where it has no sound."""
    audio = row["audio"]
    if audio is None or not (audio["bytes"] or audio["path"]):
        return None
    return hashlib.sha256(audio["bytes"] or Path(audio["path"]).read_bytes()).hexdigest()


@functools.lru_cache(maxsize=256)  # memory maps; more would meet the limit of open files
def _open(path):
    return safe_open(path, framework="pt")


def _hash_of_weights(module):
    digest = hashlib.sha256()
    for name, values in sorted(module.state_dict().items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
