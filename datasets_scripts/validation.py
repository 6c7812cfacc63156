"""Whether a `datasets` dataset has the columns that the project reads, and whether each of its clips makes sense."""

import io

import datasets
import numpy as np
import soundfile

from modeling_aver.io.media import MediaError, read_audio

from .schema import SAMPLING_RATE

# Seconds that sound and picture of one clip may differ in length. Real clips of CREMA-D and RAVDESS differ by less
# than a tenth; a table of another clip, or a wrong frame rate, by more than this.
LONGEST_DIFFERENCE = 1.0

_REQUIRED = (
    "audio",
    "action_units",
    "action_units_success",
    "video_timestamps",
    "label",
    "speaker_id",
    "utterance_id",
)


class SchemaError(ValueError):
    """A dataset whose columns are not those of [`schema.clip_features`]."""


def check_columns(features):
    """
    Refuses a dataset that lacks a column or has one of another kind. Further columns are welcome.

    Args:
        features (`datasets.Features`): Of any dataset, such as `load_dataset(…)["train"].features`.

    Raises:
        [`SchemaError`]: that names every wrong column, what it is, and what it should be.
    """
    missing = [name for name in _REQUIRED if name not in features]
    if missing:
        raise SchemaError(
            f"The dataset lacks the columns {', '.join(missing)}; it has {', '.join(features)}. Rename yours: "
            "dataset.rename_column(old, new). Rows without video hold empty lists."
        )
    wrong = [
        f"`{name}` is {features[name]}, not {wanted}" for name, wanted, fits in _kinds() if not fits(features[name])
    ]
    if wrong:
        raise SchemaError(f"The dataset has columns of another kind: {'; '.join(wrong)}. See dataset.cast_column.")


def _kinds():
    """(column, what it should be, whether a feature is that)."""
    return (
        ("audio", "Audio(decode=False) or a struct of bytes and path", _is_audio),
        ("action_units", "a list of lists of numbers", lambda f: _is_numbers(_inside(_inside(f)))),
        ("action_units_success", "a list of bool", lambda f: _is(_inside(f), "bool")),
        ("video_timestamps", "a list of seconds", lambda f: _is_numbers(_inside(f))),
        ("label", "a ClassLabel, which names the emotions", lambda f: isinstance(f, datasets.ClassLabel)),
        ("speaker_id", "a string", lambda f: _is(f, "string", "large_string")),
        ("utterance_id", "a string", lambda f: _is(f, "string", "large_string")),
    )


def _is_audio(feature):
    return isinstance(feature, datasets.Audio) or (isinstance(feature, dict) and {"bytes", "path"} <= set(feature))


def _inside(feature):
    return feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else None


def _is(feature, *dtypes):
    return isinstance(feature, datasets.Value) and feature.dtype in dtypes


def _is_numbers(feature):
    return isinstance(feature, datasets.Value) and feature.dtype.startswith(("float", "int"))


def find_problems(dataset):
    """
    Reads every clip of a dataset.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): Its columns are checked first.

    Returns:
        `dict[str, list[str]]`: what is wrong with each clip, by utterance; empty for a sound dataset.

    Raises:
        [`SchemaError`]: see [`check_columns`].
    """
    check_columns(dataset.features)
    if isinstance(dataset.features["audio"], datasets.Audio):
        dataset = dataset.cast_column("audio", datasets.Audio(decode=False))
    problems, seen = {}, set()
    for row in dataset:
        found = list(_problems(row))
        if row["utterance_id"] in seen:
            found.append("another clip has the same utterance_id")
        seen.add(row["utterance_id"])
        if found:
            problems.setdefault(row["utterance_id"], []).extend(found)
    return problems


def _problems(row):
    """Sentences on what is wrong with one row."""
    if not row["speaker_id"]:
        yield "no speaker_id"
    if row["label"] is None or row["label"] < 0:
        yield "no label"
    yield from _video_problems(row)
    if row["audio"] is None and not row["action_units"]:
        yield "neither sound nor action units"
    if row["audio"] is not None:
        yield from _audio_problems(row)


def _video_problems(row):
    frames, timestamps = row["action_units"], np.asarray(row["video_timestamps"], np.float64)
    lengths = {"action_units_success": len(row["action_units_success"]), "video_timestamps": len(timestamps)}
    for name, length in lengths.items():
        if length != len(frames):
            yield f"{len(frames)} rows of action_units but {length} of {name}"
    if len({len(frame) for frame in frames}) > 1:
        yield "rows of action_units have different lengths"
    elif not np.isfinite(np.asarray(frames, np.float64)).all():
        yield "action_units hold values that are not finite numbers"
    if not np.isfinite(timestamps).all():
        yield "video_timestamps hold values that are not finite numbers"
    elif (np.diff(timestamps) < 0).any():
        yield f"video_timestamps run backwards at frame {int((np.diff(timestamps) < 0).argmax()) + 1}"
    if frames and not any(row["action_units_success"]):
        yield "no face in any frame"


def _audio_problems(row):
    try:
        seconds = _seconds(row["audio"], row["utterance_id"])
    except MediaError as error:
        yield str(error)
        return
    last = max(row["video_timestamps"], default=seconds)
    if abs(seconds - last) > LONGEST_DIFFERENCE:
        yield (
            f"sound lasts {seconds:.2f} s but the last video frame is at {last:.2f} s. Is it another clip's table, or "
            "the frame rate wrong?"
        )


def _seconds(audio, name):
    """Length of a row's sound. Only what is not plain 16 kHz mono is decoded by other means than its header."""
    if not audio["bytes"]:
        raise MediaError(f"{name} has no bytes of sound; {audio['path']} was not embedded.")
    try:
        info = soundfile.info(io.BytesIO(audio["bytes"]))
    except soundfile.LibsndfileError:
        return len(read_audio(audio["bytes"], name=name)) / SAMPLING_RATE
    if not info.frames:
        raise MediaError(f"{name} has no sample of sound.")
    return info.duration
