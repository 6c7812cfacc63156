"""The feature cache: what a frozen audio encoder makes of each clip, computed once and read from the disk ever after.

A folder of safetensors files, some clips in each. What is kept is found by what it was made of: the encoder's weights
and configuration name the folder, the sound itself names the clip. So folds, splits and corpora share it, and a
changed encoder or a changed clip never meets a stale entry. Files appear whole, and the frames of each clip carry a
checksum that is compared whenever they are read: a disk that flips a bit never becomes a wrong number.
"""

import contextlib
import hashlib
import json
import logging
from pathlib import Path
from typing import NamedTuple

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..io.atomic import clear_stale, write_whole
from ..io.media import read_bytes

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # in the header of safetensors
FORMAT = 2  # of the entries: those of another are never read


class Entry(NamedTuple):
    """Where the frames of a clip lie: file, offset in bytes, shape, and their checksum as the file has it."""

    path: Path
    start: int
    shape: tuple
    checksum: str


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
        self._entries = {}
        with contextlib.suppress(OSError):  # where nothing can be written, what is there can be read
            self._tidy((json.dumps(facts, indent=2) + "\n").encode())
        self.refresh()

    def _tidy(self, facts):
        """Says for people what this folder is of, and removes what killed processes have left."""
        described = self.folder / "encoder.json"
        if not described.is_file() or described.read_bytes() != facts:
            write_whole(described, facts)
        clear_stale(self.folder)

    def refresh(self):
        """Looks for entries that other processes have written. A file that cannot be read is deleted, and said so."""
        self._entries = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                self._entries |= _entries_of(path, self.dtype)
            except FileNotFoundError:  # another process has found it damaged, just now
                continue
            except (SafetensorError, OSError, ValueError) as error:
                self._drop(path, error)

    def drop_damaged(self, keys):
        """
        Reads entries, and deletes each file that holds a damaged one, so that its clips are encoded again.

        Args:
            keys (`Iterable[str]`): See [`clip_key`]; those that are not there are passed over.
        """
        for key in keys:
            if key in self._entries:
                try:
                    self._read(key)
                except (OSError, ValueError) as error:
                    self._drop(self._entries[key].path, error)

    def _drop(self, path, error):
        logger.warning("%s is damaged (%s): its clips are encoded again.", path, error)
        self._entries = {key: entry for key, entry in self._entries.items() if entry.path != path}
        with contextlib.suppress(OSError):  # of a read-only folder; there, writing the new file says so
            path.unlink()

    def __contains__(self, key):
        return key in self._entries

    def __len__(self):
        return len(self._entries)

    def frames(self, row):
        """
        The frames of a clip.

        Args:
            row (`dict`): Of the documented schema; only its `audio` is looked at.

        Returns:
            `torch.Tensor` of shape `(num_audio_frames, num_audio_layers, channels)`, or `None` for a silent row.

        Raises:
            `ValueError`: for a clip that the cache does not have. `OSError`: if its entry was lost or damaged since it
            was filled.
        """
        key = clip_key(row)
        if key is None:
            return None
        if key not in self._entries:
            raise ValueError(f"{row['utterance_id']} is not in the feature cache {self.folder}: fill it first.")
        try:
            return self._read(key).float()
        except (OSError, ValueError) as error:
            raise OSError(
                f"The feature cache has lost the frames of {row['utterance_id']} since the run began ({error}). Start "
                "the run again, with --resume: they are encoded again."
            ) from error

    def _read(self, key):
        """Frames as they are kept. `OSError` or `ValueError` if they are not there, or not those that were written."""
        entry = self._entries[key]
        frames = torch.empty(entry.shape, dtype=self.dtype)
        with open(entry.path, "rb") as file:  # not mapped: reading beyond the end of a map would kill the process
            file.seek(entry.start)
            file.readinto(_bytes_of(frames))
        if _checksum(key, frames) != entry.checksum:
            raise ValueError(f"{entry.path.name} does not hold what was written")
        return frames

    def write(self, entries):
        """
        Adds clips, in a file that is whole or absent.

        Args:
            entries (`dict[str, torch.Tensor]`): Frames by [`clip_key`].

        Raises:
            `ValueError`: for frames that are not finite numbers. `OSError`: if the folder cannot be written to.
        """
        name = hashlib.sha256("".join(sorted(entries)).encode()).hexdigest()[:16]
        tensors = {key: frames.to("cpu", self.dtype).contiguous() for key, frames in entries.items()}
        if any(not frames.isfinite().all() for frames in tensors.values()):
            raise ValueError(
                f"The audio encoder makes frames that are not finite as {self.dtype}. Give `feature_cache_dtype` "
                "float32; if it is, the encoder's weights are broken."
            )
        checksums = {key: _checksum(key, frames) for key, frames in tensors.items()}
        write_whole(self.folder / f"{name}.safetensors", save(tensors, checksums))


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
    return hashlib.sha256(audio["bytes"] or read_bytes(audio["path"])).hexdigest()


def _entries_of(path, dtype):
    """`dict[str, Entry]` of a file. `SafetensorError`, `OSError` or `ValueError` if it is none of such frames."""
    with safe_open(path, framework="pt") as file:  # refuses headers that lie about the file
        checksums = file.metadata() or {}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    entries = {}
    for key, about in header.items():
        if key == "__metadata__":
            continue
        if about["dtype"] != NAMES[dtype] or key not in checksums:
            raise ValueError(f"{key} is {about['dtype']}, or lacks its checksum")
        entries[key] = Entry(path, 8 + length + about["data_offsets"][0], tuple(about["shape"]), checksums[key])
    return entries


def _checksum(key, frames):
    """`str`: XXH3 of the frames and of what is said of them; faster than they can be read."""
    digest = xxhash.xxh3_64(f"{key} {frames.dtype} {tuple(frames.shape)}".encode())
    digest.update(_bytes_of(frames))
    return digest.hexdigest()


def _bytes_of(values):
    """The memory of a contiguous tensor, as bytes `(num_bytes,)` of numpy."""
    return values.view(-1).view(torch.uint8).numpy()


def _hash_of_weights(module):
    digest = hashlib.sha256()
    for name, values in sorted(module.state_dict().items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(_bytes_of(values.detach().cpu().contiguous()))
    return digest.hexdigest()
