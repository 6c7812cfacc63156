"""What is usual for one person's face and voice, and the file that keeps it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

FORMAT = "1"
STATISTICS = ("action_unit_mean", "action_unit_std", "audio_mean", "audio_std")


@dataclass(frozen=True, eq=False)
class SpeakerProfile:
    """
    How one person's face and voice usually are: mean and deviation of their features, from clips without labels. With
    it, [`AverProcessor`] standardizes that person's clips by their own statistics in place of the training clips'.

    Args:
        action_unit_mean, action_unit_std (`np.ndarray` of shape `(num_action_units,)`, *optional*):
            Of frames with a face; there where the processor standardizes action units.
        audio_mean, audio_std (`np.ndarray` of shape `(num_audio_layers, channels)`, *optional*):
            Of the audio encoder's frames; there where the model standardizes them (`audio_normalization`).
        num_clips, num_faces (`int`): Clips, and frames with a face, that entered.
        audio_seconds (`float`): Sound that entered.
        prior_clips (`float`): Clips of the training speakers that were counted in, see [`estimate_profile`].
        feature_identity (`dict`, *optional*): Who made the action units, as in [`AverFeatureExtractor`].
        audio_identity (`str`, *optional*): Which layers of which encoder were heard, likewise.

    Raises:
        `ValueError`: for statistics that nothing can have.
    """

    action_unit_mean: np.ndarray | None = None
    action_unit_std: np.ndarray | None = None
    audio_mean: np.ndarray | None = None
    audio_std: np.ndarray | None = None
    num_clips: int = 0
    num_faces: int = 0
    audio_seconds: float = 0.0
    prior_clips: float = 0.0
    feature_identity: dict | None = None
    audio_identity: str | None = None

    def __post_init__(self):
        if self.action_unit_mean is None and self.audio_mean is None:
            raise ValueError("A speaker profile needs statistics of action units or of audio frames, but has none.")
        for stream, ndim in {"action_unit": 1, "audio": 2}.items():
            mean, std = (getattr(self, f"{stream}_{name}") for name in ("mean", "std"))
            shapes = [None if values is None else values.shape for values in (mean, std)]
            if shapes[0] != shapes[1] or (mean is not None and mean.ndim != ndim):
                raise ValueError(f"`{stream}_mean` and `{stream}_std` of a speaker profile have the shapes {shapes}.")
            if mean is not None and not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
                raise ValueError(f"`{stream}_mean` and `{stream}_std` must be finite, and the latter positive.")

    def digest(self):
        """`str`: tells the statistics from others."""
        values = [getattr(self, name) for name in STATISTICS]
        return hashlib.sha256(b"".join(value.tobytes() for value in values if value is not None)).hexdigest()[:16]

    def save(self, path):
        """
        Writes a safetensors file.

        Raises:
            [`~features.whole.WriteError`]: where it cannot be written; what is there already is kept.
        """
        from ..io.atomic import write_whole  # whoever only reads profiles needs no decoders of media

        facts = asdict(self)
        tensors = {name: facts.pop(name).astype(np.float32) for name in STATISTICS if facts[name] is not None}
        facts = {name: value for name, value in facts.items() if name not in STATISTICS}
        write_whole(Path(path), save(tensors, {"speaker_profile": FORMAT, "facts": json.dumps(facts)}))

    @classmethod
    def load(cls, path):
        """
        The inverse of [`~SpeakerProfile.save`].

        Raises:
            `ValueError`: if the file is missing, damaged, or no speaker profile.
        """
        try:
            with safe_open(path, framework="np") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            if header.get("speaker_profile") != FORMAT:
                raise ValueError(f"its header holds {sorted(header) or 'nothing'}, not a profile of this version")
            return cls(**tensors, **json.loads(header["facts"]))
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is no speaker profile ({error}). `aver enroll` makes one.") from error
