"""
FELT (Liao, Livingstone and Russo 2024, zenodo.org/records/13243600): Py-Feat 0.6.2 over RAVDESS, as its authors
publish it. Tables tell frames, not seconds: the films run at 30000/1001 frames a second.
"""

import io
import re

import numpy as np
import pandas as pd

from modeling_aver.features.base import FeatureIdentity, checked_track
from modeling_aver.io.media import MediaError, one_line

FRAME_RATE = 30_000 / 1_001  # Hz
_BOX = ("FaceRectWidth", "FaceRectHeight")
_READ = ("frame", "FaceScore", *_BOX)


def is_felt(header):
    """Whether the first line of a table (`bytes`) is Py-Feat's."""
    return b"FaceScore" in header


def read_felt(content, name, smoothed=None):
    """
    Action units of one trial.

    Args:
        content (`bytes`): Of a CSV of FELT.
        name (`str`): What to call it in errors.
        smoothed (`bool`, *optional*): Whether it is out of `smoothed_motion_…`. `None` where nobody knows.

    Returns:
        [`~modeling_aver.features.base.FaceTrack`]: with the columns AU01, AU02, … of the file in its order
        (intensities, 0 to 1). A frame without values is one without a face; of two faces in a frame the larger counts.

    Raises:
        `MediaError`: if it is not such a table.
    """
    try:
        table = pd.read_csv(io.BytesIO(content), encoding="utf-8-sig", usecols=_is_read)
    except (ValueError, pd.errors.ParserError, UnicodeError) as error:
        raise MediaError(f"{name} is not a table of Py-Feat: {one_line(error)}") from error
    units = [column for column in table if re.fullmatch(r"AU\d\d", column)]
    missing = [column for column in _READ if column not in table] + ([] if units else ["AU01, AU02, …"])
    if missing:
        raise MediaError(f"{name} lacks the Py-Feat columns {', '.join(missing)}.")
    try:
        table = _one_face(table.apply(pd.to_numeric, errors="coerce"))
    except OverflowError as error:
        raise MediaError(f"{name} holds a number of hundreds of digits: is it damaged?") from error
    features = table[units].to_numpy()
    settings = {} if smoothed is None else {"smoothed": smoothed}
    identity = FeatureIdentity("pyfeat", "0.6.2", settings, tuple(units))
    return checked_track(name, table["frame"] / FRAME_RATE, features, np.isfinite(features).all(axis=1), identity)


def _is_read(column):
    return column in _READ or re.fullmatch(r"AU\d\d", column) is not None


def _one_face(table):
    """One row a frame, in order."""
    area = table[_BOX[0]] * table[_BOX[1]]
    by_size = table.assign(area=area).sort_values(["frame", "area", "FaceScore"], ascending=[True, False, False])
    return by_size.drop_duplicates("frame")
