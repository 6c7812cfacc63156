"""Clips of one's own: a folder and a CSV of file, label and speaker, in the columns of the published corpora."""

import logging
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import datasets
import pandas as pd

from modeling_aver.features.clock import on_stream_clock
from modeling_aver.io.media import MediaError, one_line, read_audio

from .schema import ClipBuilder, ClipConfig, load, stream_columns
from .splits import PARTS, SplitError, check_speakers, cut_validation, speakers_of_parts

logger = logging.getLogger(__name__)


@dataclass
class ClipsConfig(ClipConfig):
    """
    A [`ClipConfig`] and

    Args:
        table (`str`): The CSV, inside `data_dir`.
        labels (`list[str]`, *optional*): Names of the emotions, in the order of a model that is to read them. Defaults
            to those of the table, sorted.
        require_action_units (`bool`, *optional*, defaults to `False`): Clips without a table of features stay.
    """

    version: str = "1.0.0"
    table: str = "clips.csv"
    labels: list | None = None
    require_action_units: bool = False


class Clips(ClipBuilder):
    """
    A folder of clips (sound or film, in any format that ffmpeg reads) and a CSV:

    ```
    file,label,speaker
    anna/01.mp4,happy,anna
    ben/01.wav,sad,ben
    ```

    `file` is relative to the CSV. A further column `split` (train, validation, test) parts the clips. Features of the
    face are tables named like the clips, in the folder features/ (`aver extract . --out features`) or OpenFace/.
    """

    BUILDER_CONFIG_CLASS = ClipsConfig
    BUILDER_CONFIGS = [ClipsConfig(name="all", description="clips of one's own")]
    DEFAULT_CONFIG_NAME = "all"
    TRACKING = {"features": None, "OpenFace": None}

    def _info(self):
        return datasets.DatasetInfo(
            description="Clips of a folder with a table of labels and speakers.",
            features=self._clip_features(self.config.labels or sorted({row["label"] for row in self._rows.values()})),
        )

    @cached_property
    def _rows(self):
        """`dict[str, dict]`: file, label, speaker (and split) of each clip; a clip is named by its file."""
        path = Path(self.config.data_dir) / self.config.table
        rows = read_clips_table(path)
        return {PurePosixPath(row["file"]).with_suffix("").as_posix(): row for row in rows}

    def _name_of(self, name):
        """Tables of features are named like the clip, folders included, or without where that is clear."""
        return name if name in self._rows else self._by_last_part.get(PurePosixPath(name).name, name)

    @cached_property
    def _by_last_part(self):
        last = Counter(PurePosixPath(name).name for name in self._rows)
        return {PurePosixPath(name).name: name for name in self._rows if last[PurePosixPath(name).name] == 1}

    def _clips(self):
        return {utterance_id: row["speaker"] for utterance_id, row in self._rows.items()}

    def parts(self):
        """As the column `split` has it; else one part, from which `validation_fraction` cuts whole speakers."""
        clips = self._clips()
        parts = {part: [] for part in PARTS}
        for utterance_id, row in self._rows.items():
            parts[row.get("split", "train")].append(utterance_id)
        if self.config.validation_fraction:
            if parts["validation"]:
                raise ValueError(f"{self.config.table} has its own validation part: drop `validation_fraction`.")
            fraction, seed = self.config.validation_fraction, self.config.validation_seed
            parts["train"], parts["validation"] = cut_validation(parts["train"], clips, fraction, seed)
        try:
            check_speakers(speakers_of_parts(parts, clips))
        except SplitError as error:
            self._leave_out(self.config.table, error) if self.config.strict else logger.warning(error)
        return {part: names for part, names in parts.items() if names}

    def _clip(self, utterance_id):
        row = self._rows[utterance_id]
        if self.config.labels and row["label"] not in self.config.labels:
            known = ", ".join(self.config.labels)
            raise MediaError(f"label of {row['file']} ({row['label']}) must be one of {known}.")
        path = Path(self.config.data_dir) / row["file"]
        waveform, track = read_audio(path), self._track(utterance_id)
        if track is not None:
            track = on_stream_clock(track, path, f"table of {utterance_id}")
        return {
            **stream_columns(utterance_id, waveform, track),
            "label": row["label"],
            "speaker_id": row["speaker"],
            "utterance_id": utterance_id,
        }


def read_clips_table(path):
    """
    Rows of a CSV of clips.

    Returns:
        `list[dict[str, str]]`: with file, label, speaker, and split where the table has it.

    Raises:
        `MediaError`: if it is missing, no CSV in UTF-8, empty, lacks a column or a value (its line is named), names a
        file twice, or a split that is none.
    """
    try:
        table = pd.read_csv(path, dtype=str, skipinitialspace=True, encoding="utf-8-sig", keep_default_na=False)
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}. It should hold file,label,speaker.") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise MediaError(f"{path.name} is not a CSV in UTF-8: {one_line(error)}") from error
    missing = [column for column in ("file", "label", "speaker") if column not in table]
    if missing:
        raise MediaError(f"{path.name} lacks the columns {', '.join(missing)}; it has {', '.join(table.columns)}.")
    rows = table[[column for column in ("file", "label", "speaker", "split") if column in table]].to_dict("records")
    if not rows:
        raise MediaError(f"{path.name} has a header but no clips.")
    _check_rows(rows, path.name)
    return rows


def _check_rows(rows, name):
    lines = {}
    for line, row in enumerate(rows, start=2):
        empty = [column for column, value in row.items() if not value.strip()]
        if empty:
            raise MediaError(f"{name}, line {line}: {', '.join(empty)} is empty.")
        if row.get("split", "train") not in PARTS:
            raise MediaError(f"{name}, line {line}: split ({row['split']}) must be one of {', '.join(PARTS)}.")
        clip = PurePosixPath(row["file"]).with_suffix("").as_posix()
        if clip in lines:
            raise MediaError(f"{name}, line {line}: {row['file']} is the clip of line {lines[clip]} again.")
        lines[clip] = line


def load_clips(table, *, split=None, num_proc=None, cache_dir=None, **config):
    """
    Clips of one's own as a `datasets.DatasetDict` (or the `Dataset` of one `split`), see [`Clips`].

    Args:
        table (`str` or `Path`): A CSV of file, label, speaker; files are relative to it.
        split (`str`, *optional*): Such as `"train"`.
        num_proc (`int`, *optional*): Processes that read clips.
        cache_dir (`str`, *optional*): Of `datasets`.
        config: Further fields of [`ClipsConfig`].
    """
    table = Path(table).resolve()
    if not table.is_file():
        raise MediaError(f"`table` ({table}) is no file. It should be a CSV of file,label,speaker.")
    builder = Clips(config_name="all", data_dir=str(table.parent), table=table.name, cache_dir=cache_dir, **config)
    return load(builder, split=split, num_proc=num_proc)
