"""Features that are already there: one table a clip, as npz, parquet or csv, of any number of columns.

`aver extract` writes such tables, and anybody's own are read too. An npz holds `timestamps` (T,), `features` (T, D),
`success` (T,) if frames can fail, and as JSON `identity` and `source`. A parquet or csv has a column `timestamp`,
perhaps `success`, and a column a feature; parquet keeps the JSON in its schema. Nothing is ever unpickled.
"""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from tokenize import TokenError

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..io.atomic import write_whole
from ..io.media import MAX_UNPACKED, ZIP_ERRORS, MediaError, check_is_media, one_line, read_bytes
from .base import FeatureIdentity, checked_track

FORMATS = (".npz", ".parquet", ".csv")
DOUBTS = "doubts"  # key of the source
NOT_FEATURES = ("timestamp", "success", "frame", "face_id", "confidence")  # columns of a table beside its features


def read_features(path, columns=None):
    """
    Features of one clip from a table.

    Args:
        path (`str` or `Path`): A `.npz`, `.parquet` or `.csv` file.
        columns (`list[str]`, *optional*): The wanted features, in this order. Defaults to all, in the file's order.

    Returns:
        [`FaceTrack`]: timestamps in seconds as float64, features `(T, D)` as float32, success; and the identity that
        the file carries, else one with the name `table`.

    Raises:
        `MediaError`: if the file is missing, empty, a Git-LFS pointer, damaged, not such a table, lacks columns
        (named), holds values that are no finite numbers where a face was found, or runs backwards in time.
    """
    path = Path(path)
    content = read_bytes(path)
    check_is_media(content, path.name)
    timestamps, features, success, header = _reader(path)(content, path.name)
    identity = _identity(header, features, path.name)
    track = checked_track(path.name, timestamps, features["values"], success, identity)
    track = replace(track, doubts=doubts_of(_source(header, path.name)))
    return track if columns is None else _selected(track, columns, path.name)


def write_features(path, track, source=None):
    """
    Writes one clip's features in one step: the file is whole, or not there.

    Args:
        path (`str` or `Path`): Its suffix says the format: `.npz` or `.parquet`.
        track ([`FaceTrack`]): With its identity.
        source (`dict`, *optional*): Of what it was made, as JSON holds it. The track's doubts are added to it.

    Raises:
        [`WriteError`]: where there is no room, or no right to write.
    """
    path = Path(path)
    source = {**(source or {}), **({DOUBTS: list(track.doubts)} if track.doubts else {})}
    header = {"identity": json.dumps(track.identity.to_dict()), "source": json.dumps(source)}
    file = io.BytesIO()
    if path.suffix == ".npz":
        timestamps = np.asarray(track.timestamps, np.float64)
        np.savez_compressed(file, timestamps=timestamps, features=track.features, success=track.success, **header)
    elif path.suffix == ".parquet":
        names = track.identity.columns
        values = {
            "timestamp": track.timestamps,
            "success": track.success,
            **dict(zip(names, track.features.T, strict=True)),
        }
        table = pa.table({name: np.ascontiguousarray(column) for name, column in values.items()})
        pq.write_table(table.replace_schema_metadata(header), file)
    else:
        raise ValueError(f"`path` ({path.name}) must end in .npz or .parquet.")
    write_whole(path, file.getvalue())


def read_header(path):
    """
    What a table of [`write_features`] says of itself, without its features.

    Returns:
        `tuple[FeatureIdentity, dict, np.ndarray]`: identity, source and success `(T,)`.

    Raises:
        `MediaError`: if the file is not whole or not such a table.
    """
    path = Path(path)
    _, features, success, header = _reader(path)(read_bytes(path), path.name)
    return _identity(header, features, path.name), _source(header, path.name), success


def _reader(path):
    readers = {".npz": _from_npz, ".parquet": _from_parquet, ".csv": _from_csv}
    if path.suffix not in readers:
        raise MediaError(f"{path.name} is no table of features: its name must end in {', '.join(FORMATS)}.")
    return readers[path.suffix]


def _from_npz(content, name):
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            if sum(member.file_size for member in packed.infolist()) > MAX_UNPACKED:
                raise ValueError(f"it is over {MAX_UNPACKED:,} bytes once unpacked")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (*ZIP_ERRORS, TokenError) as error:  # the latter of numpy's parser of headers
        raise MediaError(f"{name} is not a whole npz of plain arrays: {one_line(error)}") from error
    missing = [key for key in ("timestamps", "features") if key not in arrays]
    if missing:
        raise MediaError(f"{name} lacks {' and '.join(missing)}; it holds {', '.join(arrays) or 'nothing'}.")
    values = arrays["features"]
    header = {key: str(arrays[key]) for key in ("identity", "source") if key in arrays}
    return (
        arrays["timestamps"],
        {"values": values, "names": None},
        arrays.get("success", np.ones(len(values), bool)),
        header,
    )


def _from_parquet(content, name):
    try:
        table = pq.read_table(io.BytesIO(content))
        metadata = table.schema.metadata or {}
        header = {key: metadata[key.encode()].decode() for key in ("identity", "source") if key.encode() in metadata}
        table = table.to_pandas()
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise MediaError(f"{name} is not a whole parquet file: {one_line(error)}") from error
    return *_columns(table, name), header


def _from_csv(content, name):
    try:
        table = pd.read_csv(io.BytesIO(content), skipinitialspace=True, encoding="utf-8-sig", low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError) as error:
        raise MediaError(f"{name} is not a table in UTF-8 with a header: {one_line(error)}") from error
    return *_columns(table.rename(columns=lambda column: str(column).strip()), name), {}


def _columns(table, name):
    """(timestamps, features with their names, success) of a table with a column each."""
    names = [column for column in table.columns if column not in NOT_FEATURES]
    if "timestamp" not in table or not names:
        shown = one_line(", ".join(map(str, table.columns[:6])) or "no column")
        raise MediaError(f"{name} must have a column timestamp (s) and a column a feature; it has {shown} ….")
    read = ["timestamp", *names, *(["success"] if "success" in table else [])]
    text = [column for column in read if not pd.api.types.is_numeric_dtype(table[column])]
    if text:
        raise MediaError(f"{name} holds values that are no numbers in {one_line(', '.join(text[:6]))}.")
    success = table["success"].to_numpy() > 0 if "success" in table else np.ones(len(table), bool)
    return table["timestamp"].to_numpy(), {"values": table[names].to_numpy(), "names": names}, success


def _identity(header, features, name):
    if "identity" in header:
        try:
            return FeatureIdentity.from_dict(json.loads(header["identity"]))
        except ValueError as error:
            raise MediaError(f"{name} carries an identity that cannot be read: {one_line(error)}") from error
    names = features["names"]
    return FeatureIdentity("table", columns=tuple(names) if names else ())


def _source(header, name):
    try:
        return json.loads(header.get("source", "{}"))
    except ValueError as error:
        raise MediaError(f"{name} says in no readable way what it was made of: {one_line(error)}") from error


def doubts_of(source: dict) -> tuple[str, ...]:
    """Doubts about the features that a table's `source` carries."""
    return tuple(map(str, source[DOUBTS])) if isinstance(source, dict) and isinstance(source.get(DOUBTS), list) else ()


def _selected(track, columns, name):
    missing = [column for column in columns if column not in track.identity.columns]
    if missing:
        known = ", ".join(track.identity.columns[:6]) or "columns without names"
        raise MediaError(f"{name} lacks the columns {', '.join(missing[:6])}; it has {known} ….")
    order = [track.identity.columns.index(column) for column in columns]
    identity = FeatureIdentity(track.identity.name, track.identity.version, track.identity.settings, tuple(columns))
    selected = checked_track(name, track.timestamps, track.features[:, order], track.success, identity)
    return replace(selected, doubts=track.doubts)
