"""Action units out of the tables that OpenFace 2.x writes: a row a frame, odd spaces in the header, 40-700 columns."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..io.media import MediaError, check_is_media, one_line, read_bytes
from .base import FeatureIdentity, checked_track

_INTENSITIES = ("01", "02", "04", "05", "06", "07", "09", "10", "12", "14", "15", "17", "20", "23", "25", "26", "45")
_PRESENCES = (*_INTENSITIES[:-1], "28", "45")
ACTION_UNITS = (*(f"AU{unit}_r" for unit in _INTENSITIES), *(f"AU{unit}_c" for unit in _PRESENCES))
_READ = ("frame", "face_id", "timestamp", "confidence", "success", *ACTION_UNITS)

# Tables without `success`, such as the tracking that RAVDESS's authors publish, carry only `confidence`. OpenFace
# itself counts a frame as found when its landmark validator is surer than 0.725 (`validation_boundary`).
CONFIDENCE_THRESHOLD = 0.725


def read_openface(source, name=None):
    """
    Reads a table of OpenFace's `FeatureExtraction` or `FaceLandmarkVidMulti`. Of several faces the one with the
    largest mean confidence is taken. Where a frame has no face, its row stays, with `success` false and zeros.

    Args:
        source (`str`, `Path` or `bytes`): A `.csv` file, or a file's content. Without a `success` column, confidence
            decides: see `CONFIDENCE_THRESHOLD`.
        name (`str`, *optional*): What to call the table in errors. Defaults to the file's name.

    Returns:
        [`FaceTrack`]: with the 35 features of `ACTION_UNITS`: 17 intensities (0 to 5), then 18 presences (0 or 1). A
        table does not say which version and flags made it, so its identity leaves them open. The timestamps are
        OpenFace's, index divided by average frame rate; [`on_stream_clock`] replaces them by the video's.

    Raises:
        `MediaError`: if the file is missing, empty, a Git-LFS pointer, not such a table, lacks columns (named), holds
        values that are no numbers, or runs backwards in time.
    """
    name = name or ("table" if isinstance(source, bytes) else Path(source).name)
    content = source if isinstance(source, bytes) else read_bytes(source)
    check_is_media(content, name)
    columns = _plain_columns(content)
    if columns is None:
        table = _one_face(_numbers(_parsed(content, name), name))
        numbers = table["frame"].to_numpy() if "frame" in table else None
        columns = table["timestamp"], table["success"], table[list(ACTION_UNITS)].to_numpy(), numbers
    timestamps, success, features, numbers = columns
    identity = FeatureIdentity("openface", columns=ACTION_UNITS)
    track = checked_track(name, timestamps, features, success > 0, identity)
    return replace(track, frames=_frame_indices(numbers))


def _plain_columns(content):
    """
    (timestamps, success, features, frame numbers) of a table as `FeatureExtraction` writes it: one face, every cell
    that is read a number, every row as long as the header. `None` for any other, which pandas reads, or says what is
    wrong with it: in three times the time, which over a corpus is most of what reading it costs.
    """
    header, *rows = content.splitlines()
    try:
        names = [column.strip() for column in header.decode("utf-8-sig").split(",")]
        wanted = [names.index(column) for column in ("timestamp", "success", *ACTION_UNITS)]
        wanted += [names.index(column) for column in ("frame", "face_id") if column in names]
        if not rows or len(set(names)) < len(names) or any(row.count(b",") != len(names) - 1 for row in rows):
            return None
        values = np.loadtxt(rows, delimiter=",", usecols=wanted, comments=None, ndmin=2)
    except ValueError:  # a column is missing, or a cell is no number
        return None
    (timestamps, success), features, rest = values.T[:2], values[:, 2 : 2 + len(ACTION_UNITS)], values.T[-2:]
    several = "face_id" in names and (rest[-1] != rest[-1, 0]).any()
    if several or np.isnan(success).any():
        return None
    return timestamps, success, features, values[:, 2 + len(ACTION_UNITS)] if "frame" in names else None


def _parsed(content, name):
    try:
        table = pd.read_csv(
            io.BytesIO(content),
            skipinitialspace=True,
            encoding="utf-8-sig",
            low_memory=False,
            usecols=lambda column: str(column).strip() in _READ,  # 40 of up to 712
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError) as error:
        raise MediaError(f"{name} is not a table of OpenFace: {one_line(error)}") from error
    table.columns = [str(column).strip() for column in table.columns]
    if "success" not in table and "confidence" in table:
        confidence = pd.to_numeric(table["confidence"], errors="coerce")
        table["success"] = (confidence > CONFIDENCE_THRESHOLD).astype(float).where(confidence.notna())
    return table


def _numbers(table, name):
    """The columns that are read, as numbers; what is no number becomes NaN."""
    missing = [column for column in ("timestamp", "success", *ACTION_UNITS) if column not in table]
    if missing:
        shown = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        raise MediaError(f"{name} lacks the OpenFace columns {shown}. Was FeatureExtraction run with -aus?")
    wanted = [column for column in _READ if column in table]
    text = [column for column in wanted if not pd.api.types.is_numeric_dtype(table[column])]
    try:
        table = table[wanted].assign(**{column: pd.to_numeric(table[column], errors="coerce") for column in text})
    except OverflowError as error:
        raise MediaError(f"{name} holds a number of hundreds of digits: is it damaged?") from error
    if table["success"].isna().any():
        frame = int(table["success"].isna().argmax())
        raise MediaError(f"{name} does not say whether frame {frame} has a face: is it cut short?")
    return table


def _one_face(table):
    if "face_id" not in table or table["face_id"].nunique() < 2:
        return table
    by_face = table.groupby("face_id")["confidence" if "confidence" in table else "success"].mean()
    return table[table["face_id"] == by_face.idxmax()]


def _frame_indices(numbers):
    """Indices from 0 of frames that OpenFace counts from 1, or `None` where the column holds something else."""
    if numbers is None or not np.isfinite(numbers).all():
        return None
    indices = np.asarray(numbers).astype(np.int64) - 1
    return indices if (indices + 1 == numbers).all() and indices[0] >= 0 and (np.diff(indices) > 0).all() else None
