"""The columns that every audio-visual corpus comes in, and the base of its builders."""

import io
import json
import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import datasets
import numpy as np
import soundfile
from datasets.fingerprint import Hasher

from modeling_aver.features.base import FeatureIdentity
from modeling_aver.features.openface_csv import ACTION_UNITS
from modeling_aver.features.track_folder import TrackFolder
from modeling_aver.io.archives import files_under
from modeling_aver.io.media import MediaError

from .modalities import NO_VIDEO

logger = logging.getLogger(__name__)

SAMPLING_RATE = 16_000  # Hz
NUM_ACTION_UNITS = len(ACTION_UNITS)
SCHEMA_VERSION = 2  # part of each cache's name: rows of another schema are never taken for these

# Bytes and name of a sound file. The Audio feature stores the same, but its encoder imports torchcodec, which nothing
# here needs; so builders write this and readers get Audio.
_AUDIO_BYTES = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
AUDIO = datasets.Audio(sampling_rate=SAMPLING_RATE, decode=False)


def clip_features(labels, num_action_units=NUM_ACTION_UNITS, **extra):
    """
    Features of one clip.

    Args:
        labels (`list[str]`): Names of the emotions.
        num_action_units (`int`, *optional*, defaults to 35): Channels of a video frame.
        extra: Further columns of a corpus.

    Returns:
        `datasets.Features`: `audio` (16 kHz mono file bytes), `action_units` (a row a video frame; no row at all is a
        missing stream), `action_units_success` (whether a face was found in it), `video_timestamps` (s), `label`,
        `speaker_id`, `utterance_id`, `video_frame_rate` (Hz), `audio_duration`, `video_duration` (s), `extractor`,
        `extractor_version`, `extractor_settings` (JSON), `feature_names` (of the channels), and `extra`. The last four
        are the features' identity, see [`identity_of`].
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
            "video_frame_rate": datasets.Value("float64"),
            "audio_duration": datasets.Value("float64"),
            "video_duration": datasets.Value("float64"),
            "extractor": datasets.Value("string"),
            "extractor_version": datasets.Value("string"),
            "extractor_settings": datasets.Value("string"),
            "feature_names": datasets.List(datasets.Value("string")),
            **extra,
        }
    )


def stream_columns(utterance_id, waveform, track):
    """
    The columns of a clip's two streams.

    Args:
        utterance_id (`str`): Names the sound file inside the dataset.
        waveform (`np.ndarray` of shape `(num_samples,)`): Mono in [-1, 1] at 16 kHz.
        track ([`~modeling_aver.features.base.FaceTrack`] or `None`): `None` for a clip without features of the face.

    Returns:
        `dict`: every column of [`clip_features`] but label, speaker and utterance.
    """
    return {
        "audio": {"bytes": wav_bytes(waveform), "path": f"{utterance_id}.wav"},
        "audio_duration": len(waveform) / SAMPLING_RATE,
        **(NO_VIDEO if track is None else _video_columns(track)),
    }


def _video_columns(track):
    frame_rate = frame_rate_of(track.timestamps)
    return {
        "action_units": track.features.tolist(),
        "action_units_success": track.success.tolist(),
        "video_timestamps": track.timestamps.tolist(),
        "video_frame_rate": frame_rate,
        "video_duration": len(track.timestamps) / frame_rate if frame_rate else 0.0,
        "extractor": track.identity.name,
        "extractor_version": track.identity.version,
        "extractor_settings": json.dumps(track.identity.settings, sort_keys=True),
        "feature_names": list(track.identity.columns),
    }


def identity_of(row):
    """The [`~modeling_aver.features.base.FeatureIdentity`] of a row's features, or `None` where the row has none."""
    if row["extractor"] is None:
        return None
    settings = json.loads(row["extractor_settings"] or "{}")
    return FeatureIdentity(row["extractor"], row["extractor_version"], settings, tuple(row["feature_names"]))


def identities_of(dataset):
    """Every [`~modeling_aver.features.base.FeatureIdentity`] in a `datasets.Dataset`; none without such columns."""
    columns = ["extractor", "extractor_version", "extractor_settings", "feature_names"]
    if not set(columns) <= set(dataset.column_names):
        return []
    distinct = {json.dumps(row): row for row in dataset.select_columns(columns)}
    return [identity for identity in map(identity_of, distinct.values()) if identity is not None]


def frame_rate_of(timestamps):
    """Mean frames a second (Hz) of `timestamps` (s), or `None` where fewer than two moments leave it unknown."""
    span = float(timestamps[-1] - timestamps[0]) if len(timestamps) > 1 else 0.0
    return (len(timestamps) - 1) / span if span > 0 else None


def wav_bytes(waveform):
    """A 16-bit WAV file's bytes of `waveform` (num_samples,) in [-1, 1]; 16-bit sources come out sample for sample."""
    file = io.BytesIO()
    # libsndfile would scale by 32767, one less than decoders divide by.
    samples = np.clip(np.round(waveform * 32_768.0), -32_768, 32_767).astype(np.int16)
    soundfile.write(file, samples, SAMPLING_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


@dataclass
class ClipConfig(datasets.BuilderConfig):
    """
    Args:
        strict (`bool`, *optional*, defaults to `False`): Stop at the first bad clip instead of leaving it out by name.
        validation_fraction (`float`, *optional*, defaults to 0.0):
            Share of the training speakers that becomes a validation part, see [`splits.Split.parts`].
        validation_seed (`int`, *optional*, defaults to 0): Which speakers these are.
        action_units_folder (`str`, *optional*):
            Folder (or zip) in `data_dir`, or else from here, with one table of features a clip, see
            [`tracks.TrackFolder`].
            Defaults to the corpus's own, if it is there. An empty name builds sound alone.
        require_action_units (`bool`, *optional*):
            Whether a clip without a table is left out, or kept with `action_units` without rows.
        extractor_version (`str`, *optional*): Version of OpenFace that made the tables, which do not tell it.
    """

    strict: bool = False
    validation_fraction: float = 0.0
    validation_seed: int = 0
    action_units_folder: str | None = None
    require_action_units: bool = True
    extractor_version: str | None = None

    def create_config_id(self, config_kwargs, custom_features=None):
        """As in `datasets`, but a folder whose files have changed is another dataset, not a stale cache."""
        roots = [Path(self.data_dir)] if self.data_dir else []
        if roots and self.action_units_folder:
            roots += _places_of(self.action_units_folder, roots[0])
        listing = sorted({entry for root in roots for entry in _listing(root)})
        return super().create_config_id(
            {**config_kwargs, "schema": SCHEMA_VERSION, "files": Hasher.hash(listing)}, custom_features
        )


def _listing(root):
    """(path, bytes, time of change) of every file under a folder, or of the file that `root` is."""
    paths = [root] if root.is_file() else files_under(root)
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError:  # a link that leads nowhere is no file
            continue
        yield str(path), stat.st_size, stat.st_mtime_ns


def _places_of(name, root):
    """Where features of a name may lie: in the corpus's folder, zipped there, or from the current folder."""
    return [root / name, root / f"{name}.zip", Path(name).absolute()]


class ClipBuilder(datasets.GeneratorBasedBuilder):
    """
    A corpus of clips. Subclasses say which clips there are (`_clips`), what one holds (`_clip`), and how a corpus is
    parted (`SPLITS`, by configuration name; other configurations are one `train` part). This class keeps one bad clip
    from stopping the others. With `strict` in the configuration the first bad clip raises instead.
    """

    SPLITS = {}
    TRACKING = {"OpenFace": None}  # where features of the face are looked for, and OpenFace's version there

    def _clips(self):
        """`dict[str, str]`: speaker of each utterance that is there."""
        raise NotImplementedError

    def _clip(self, utterance_id):
        """`dict`: the columns of one clip. Raises [`MediaError`] if it cannot be used."""
        raise NotImplementedError

    def _name_of(self, name):
        """The clip of a table's path below its folder, without suffix."""
        return PurePosixPath(name).name

    @cached_property
    def _tracks(self):
        """The [`TrackFolder`] of the corpus, or `None` where clips are sound alone."""
        wanted = self.config.action_units_folder
        root = Path(self.config.data_dir or "")
        for name in self.TRACKING if wanted is None else filter(None, [wanted]):
            places = _places_of(name, root)
            for path in places[:-1] if wanted is None else places:  # a corpus's own tables lie with it
                if path.exists():
                    return TrackFolder(path, self._name_of, self.config.extractor_version or self.TRACKING.get(name))
        if wanted:
            raise MediaError(f"`action_units_folder` ({wanted}) is neither a folder nor a zip in {root} or here.")
        return None

    def _check_tracks(self):
        if self._tracks is None and self.config.action_units_folder is None and self.config.require_action_units:
            raise MediaError(
                f"No action units under {self.config.data_dir}: no {' or '.join(self.TRACKING)}. Name another folder: "
                '`action_units_folder`; an empty name ("") builds sound alone.'
            )

    def _track(self, utterance_id):
        """Features of a clip, or `None` for sound alone."""
        if self._tracks is None:
            return None
        if utterance_id not in self._tracks and not self.config.require_action_units:
            return None
        return self._tracks.read(utterance_id)

    def _clip_features(self, labels, **extra):
        """[`clip_features`] with as many channels as the corpus's features have."""
        tracks = self._tracks if self.config.data_dir else None
        return clip_features(labels, tracks.num_features if tracks else NUM_ACTION_UNITS, **extra)

    def parts(self):
        """`dict[str, list[str]]`: utterances of each part of this configuration, readable or not."""
        clips, split = self._clips(), self.SPLITS.get(self.config.name)
        self._check_tracks()
        if split is not None:
            return split.parts(clips, self.config.validation_fraction, self.config.validation_seed)
        if self.config.validation_fraction:
            raise ValueError(
                f"`validation_fraction` ({self.config.validation_fraction}) cuts the training part of a split, and "
                f"{self.config.name} is none. Splits: {', '.join(self.SPLITS) or 'none'}."
            )
        return {"train": sorted(clips)}

    def _split_generators(self, dl_manager):
        parts = self.parts()
        empty = [part for part, utterance_ids in parts.items() if not utterance_ids]
        if empty:
            logger.warning("%s: no clip of %s is there.", self.config.name, " or ".join(empty))
        return [
            datasets.SplitGenerator(part, gen_kwargs={"utterance_ids": utterance_ids})
            for part, utterance_ids in parts.items()
            if utterance_ids
        ]

    def _leave_out(self, utterance_id, error):
        if self.config.strict:
            raise error
        if utterance_id not in self._left_out:
            logger.warning("%s is left out: %s", utterance_id, error)
        self._left_out[utterance_id] = str(error)

    @cached_property
    def _left_out(self):
        return {}

    def reasons(self, built):
        """
        Why clips are missing from what was built. Processes keep their reasons to themselves, so those few clips are
        read again.

        Args:
            built (`Iterable[str]`): Utterances that are there.

        Returns:
            `dict[str, str]`: reason of each utterance, or file, that is not.
        """
        expected = {utterance_id for names in self.parts().values() for utterance_id in names}
        for utterance_id in sorted(expected.difference(built)):
            try:
                self._clip(utterance_id)
            except MediaError as error:
                self._leave_out(utterance_id, error)
        return dict(self._left_out)

    def _generate_examples(self, utterance_ids):
        bad = []
        for utterance_id in utterance_ids:
            try:
                example = self._clip(utterance_id)
            except MediaError as error:
                self._leave_out(utterance_id, error)
                bad.append(utterance_id)
                continue
            yield utterance_id, example
        if bad:
            logger.warning("%d of %d clips are left out: %s", len(bad), len(utterance_ids), ", ".join(bad))

    def problems(self):
        """
        Reads every clip of this configuration.

        Returns:
            `dict[str, str]`: reason of each utterance that cannot be used.
        """
        return self.reasons(())

    def download_and_prepare(self, *args, **kwargs):
        """As in `datasets`, but what stopped it is raised as it is, not as "an error occurred"."""
        try:
            super().download_and_prepare(*args, **kwargs)
        except datasets.exceptions.DatasetGenerationError as error:
            raise (error.__cause__ if isinstance(error.__cause__, MediaError | OSError) else error) from None
        if not any(split.num_examples for split in self.info.splits.values()):
            raise MediaError(
                f"No clip under {self.config.data_dir} can be used. The warnings above say why; `strict=True` stops "
                "at the first."
            )

    def as_dataset(self, *args, **kwargs):
        """As in `datasets`. Streams give the same bytes and path, as a plain struct: see `_AUDIO_BYTES`."""
        self._warn()
        return super().as_dataset(*args, **kwargs).cast_column("audio", AUDIO)

    def as_streaming_dataset(self, *args, **kwargs):
        self._warn()
        return super().as_streaming_dataset(*args, **kwargs)

    def _warn(self):
        split = self.SPLITS.get(self.config.name)
        if split is not None and split.warning:
            logger.warning(split.warning)


def load(builder, split=None, num_proc=None):
    """Builds what is not in the cache yet: a `datasets.DatasetDict`, or the `Dataset` of one `split`."""
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split)
