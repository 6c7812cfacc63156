"""Names of the two corpora, and small trees of their official shape, for the tests of the dataset builders."""

import csv
import io
from pathlib import Path

import pytest
import soundfile

SHARED = Path(__file__).resolve().parents[3] / "shared"


def shared_file(*parts):
    """A file of the material beside the repository; the test is skipped where there is none."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"waits for {'/'.join(parts)} in ../shared")
    return path


def crema_d_names():
    """The 7,442 official clip names."""
    with shared_file("data", "crema_d_official", "manifest.csv").open() as file:
        return sorted({Path(row["path"]).stem for row in csv.DictReader(file)})


def ravdess_names(channel="01"):
    """The names of the audio-visual trials: 1,440 of speech (01), 1,012 of song (02), by the corpus's own rules."""
    emotions = range(1, 9) if channel == "01" else range(1, 7)
    actors = [actor for actor in range(1, 25) if channel == "01" or actor != 18]
    return [
        f"01-{channel}-{emotion:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}-{actor:02d}"
        for actor in actors
        for emotion in emotions
        for intensity in ((1,) if emotion == 1 else (1, 2))
        for statement in (1, 2)
        for repetition in (1, 2)
    ]


def tiny_sound(format="WAV", sampling_rate=16_000, seconds=0.01):
    """A sound file's bytes."""
    file = io.BytesIO()
    samples = [0.1 * (-1) ** (i // 8) for i in range(round(seconds * sampling_rate))]
    soundfile.write(file, samples, sampling_rate, format=format, subtype="PCM_16")
    return file.getvalue()


def tiny_openface(num_frames=2, success=True, extra_columns=0):
    """An OpenFace table's bytes: commas and spaces as in the real ones, two digits, frames at 29.97 Hz."""
    from modeling_aver.features.openface_csv import ACTION_UNITS

    found = ["success"] if success else []
    more = [f"x_{i}" for i in range(extra_columns)]
    rows = [["frame", "face_id", "timestamp", "confidence", *found, *more, *ACTION_UNITS]]
    for i in range(num_frames):
        values = ["0.98", *(["1"] * len(found)), *(["3.14"] * len(more)), *(["0.50"] * len(ACTION_UNITS))]
        rows.append([str(i + 1), "0", f"{i / 29.97:.3f}", *values])
    return "\n".join(", ".join(row) for row in rows).encode() + b"\n"
