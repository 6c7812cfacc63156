"""The columns that every audio-visual corpus comes in, and the base of its builders."""

import logging
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets.fingerprint import Hasher

from modeling_aver.features import ACTION_UNITS, MediaError

logger = logging.getLogger(__name__)

# Bytes and name of a sound file. The Audio feature stores the same, but its encoder imports torchcodec, which nothing
# here needs; so builders write this and readers get Audio.
_AUDIO_BYTES = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
AUDIO = datasets.Audio(sampling_rate=16_000, decode=False)


def clip_features(labels, num_action_units=len(ACTION_UNITS), **extra):
    """
    Features of one clip.

    Args:
        labels (`list[str]`): Names of the emotions.
        num_action_units (`int`, *optional*, defaults to 35): Channels of a video frame.
        extra: Further columns of a corpus.

    Returns:
        `datasets.Features`: `audio` (16 kHz mono file bytes), `action_units` (a row a video frame),
        `action_units_success` (whether a face was found in it), `video_timestamps` (s), `label`, `speaker_id`,
        `utterance_id`, and `extra`.
    """
    return datasets.Features(
        {
            "audio": _AUDIO_BYTES,
            "action_units": datasets.List(datasets.List(datasets.Value("float32"), length=num_action_units)),
            "action_units_success": datasets.List(datasets.Value("bool")),
            "video_timestamps": datasets.List(datasets.Value("float64")),
            "label": datasets.ClassLabel(names=list(labels)),
            "speaker_id": datasets.Value("string"),
            "utterance_id": datasets.Value("string"),
            **extra,
        }
    )


@dataclass
class ClipConfig(datasets.BuilderConfig):
    """
    Args:
        strict (`bool`, *optional*, defaults to `False`): Stop at the first bad clip instead of leaving it out by name.
    """

    strict: bool = False

    def create_config_id(self, config_kwargs, custom_features=None):
        """As in `datasets`, but a folder whose files have changed is another dataset, not a stale cache."""
        files = Path(self.data_dir).rglob("*") if self.data_dir else ()
        stats = [(str(path), path.stat()) for path in files if path.is_file()]
        listing = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
        return super().create_config_id({**config_kwargs, "files": Hasher.hash(listing)}, custom_features)


class ClipBuilder(datasets.GeneratorBasedBuilder):
    """
    A corpus of clips. Subclasses say what the clips are (`_split_generators`, `_clip`); this class keeps one bad clip
    from stopping the others. With `strict` in the configuration the first bad clip raises instead.
    """

    def _generate_examples(self, utterance_ids):
        bad = {}
        for utterance_id in utterance_ids:
            try:
                example = self._clip(utterance_id)
            except MediaError as error:
                if self.config.strict:
                    raise
                logger.warning("%s is left out: %s", utterance_id, error)
                bad[utterance_id] = error
                continue
            yield utterance_id, example
        if bad:
            logger.warning("%d of %d clips are left out: %s", len(bad), len(utterance_ids), ", ".join(bad))

    def download_and_prepare(self, *args, **kwargs):
        super().download_and_prepare(*args, **kwargs)
        if not any(split.num_examples for split in self.info.splits.values()):
            raise MediaError(
                f"No clip under {self.config.data_dir} can be used. The warnings above say why; `strict=True` stops at "
                "the first."
            )

    def as_dataset(self, *args, **kwargs):
        """As in `datasets`. Streams give the same bytes and path, as a plain struct: see `_AUDIO_BYTES`."""
        return super().as_dataset(*args, **kwargs).cast_column("audio", AUDIO)
