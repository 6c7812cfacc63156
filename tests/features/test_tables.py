"""Tables of features, written and read, and the identity that keeps two extractors apart."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from modeling_aver.features.base import FaceTrack, FeatureIdentity, check_same_features
from modeling_aver.features.tables import read_features, read_header, write_features
from modeling_aver.io.media import MediaError

IDENTITY = FeatureIdentity("openface", "2.2.0", {"calibration": "dynamic"}, ("AU01_r", "AU02_r", "AU04_r"))


@pytest.fixture
def track():
    generator = np.random.default_rng(0)
    success = np.array([True, False, True, True, True])
    features = np.where(success[:, None], generator.random((5, 3)), 0).astype(np.float32)
    return FaceTrack(np.array([0.027, 0.06, 0.0933333333333, 0.2, 0.21]), features, success, IDENTITY)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_what_is_written_is_read_to_the_bit(tmp_path, track, suffix):
    path = tmp_path / f"clip{suffix}"
    write_features(path, track, {"bytes": 11})
    read = read_features(path)
    for mine, theirs in zip(track, read, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    assert read.identity == IDENTITY
    identity, source, success = read_header(path)
    assert (identity, source, success.tolist()) == (IDENTITY, {"bytes": 11}, track.success.tolist())


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_the_same_features_make_the_same_bytes(tmp_path, track, suffix):
    for name in ("one", "two"):
        write_features(tmp_path / f"{name}{suffix}", track)
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_a_failed_write_leaves_neither_a_table_nor_a_part(tmp_path, track, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_features(tmp_path / "clip.npz", track)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_features", [1, 52, 700])
def test_anybodys_npz_of_any_width_is_a_track(tmp_path, num_features):
    features = np.arange(4 * num_features, dtype=np.float64).reshape(4, num_features)
    np.savez(tmp_path / "clip.npz", timestamps=np.arange(4) / 25, features=features)
    track = read_features(tmp_path / "clip.npz")
    assert track.features.shape == (4, num_features) and track.features.dtype == np.float32
    assert track.success.all() and track.identity.name == "table"


def test_a_csv_gives_its_columns_in_the_order_that_is_asked_for(tmp_path):
    table = pd.DataFrame(
        {" frame": [1, 2], " timestamp": [0.0, 0.04], " b": [1.5, 2.5], " a": [3, 4], " success": [1, 0]}
    )
    table.to_csv(tmp_path / "clip.csv", index=False)
    track = read_features(tmp_path / "clip.csv")
    assert track.identity == FeatureIdentity("table", columns=("b", "a"))
    assert track.features.tolist() == [[1.5, 3.0], [0.0, 0.0]] and track.success.tolist() == [True, False]
    picked = read_features(tmp_path / "clip.csv", columns=["a"])
    assert picked.features.tolist() == [[3.0], [0.0]] and picked.identity.columns == ("a",)
    with pytest.raises(MediaError, match="clip.csv lacks the columns c; it has b, a"):
        read_features(tmp_path / "clip.csv", columns=["a", "c"])


class Trap:
    """Unpickling this would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_in_an_npz_is_never_opened(tmp_path):
    made = tmp_path / "made"
    features = np.array([Trap(str(made))], dtype=object)
    np.savez(tmp_path / "clip.npz", timestamps=np.zeros(1), features=features)
    with pytest.raises(MediaError, match="clip.npz is not a whole npz of plain arrays"):
        read_features(tmp_path / "clip.npz")
    assert not made.exists()


def savez(path, **arrays):
    values = {"timestamps": np.arange(3.0), "features": np.ones((3, 2)), **arrays}
    np.savez(path, **{name: value for name, value in values.items() if value is not None})


def half_of_an_npz(path):
    savez(path)
    path.write_bytes(path.read_bytes()[:200])


def a_header_of_a_trillion_rows(path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1000), }"
    savez(path, features=np.ones((3, 2)))
    content = path.read_bytes()
    start = content.index(b"{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }")
    path.write_bytes(content[:start] + header + content[start + len(header) :])


NAN = float("nan")
BROKEN = {
    "empty.npz": (lambda path: path.touch(), "is empty"),
    "half.npz": (half_of_an_npz, "is not a whole npz"),
    "huge.npz": (a_header_of_a_trillion_rows, "is not a whole npz"),
    "text.npz": (lambda path: path.write_text("timestamps"), "is not a whole npz"),
    "keys.npz": (
        lambda path: savez(path, features=None, values=np.ones(3)),
        "lacks features; it holds timestamps, val",
    ),
    "lengths.npz": (lambda path: savez(path, timestamps=np.arange(4.0)), r"timestamps have shape \(4,\)"),
    "flat.npz": (lambda path: savez(path, features=np.ones(3)), r"features \(3,\)"),
    "words.npz": (lambda path: savez(path, features=np.array([["a", "b"]] * 3)), "no numbers"),
    "nan.npz": (lambda path: savez(path, features=np.array([[1.0], [NAN], [1.0]])), "features of frame 1"),
    "time.npz": (
        lambda path: savez(path, timestamps=np.array([0.0, 2.0, 1.0])),
        "backwards in time: frame 2 is at 1.000",
    ),
    "none.npz": (lambda path: savez(path, timestamps=np.ones(0), features=np.ones((0, 2))), "no frames"),
    "who.npz": (lambda path: savez(path, identity=json.dumps({"who": 1})), "an identity that cannot be read"),
    "text.parquet": (lambda path: path.write_text("PAR1" * 9), "is not a whole parquet"),
    "columns.csv": (lambda path: path.write_text("time,a\n0,1\n"), "must have a column timestamp"),
    "words.csv": (lambda path: path.write_text("timestamp,a\n0,one\n"), "no numbers in a"),
    "yes.csv": (lambda path: path.write_text("timestamp,a,success\n0,1,yes\n"), "no numbers in success"),
    "utf16.csv": (lambda path: path.write_text("timestamp,a\n0,1\n", encoding="utf-16"), "in UTF-8 with a header"),
    "clip.json": (lambda path: path.write_text("{}"), r"must end in .npz, .parquet, .csv"),
    "pointer.npz": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_refused_by_name_and_reason(tmp_path, name):
    make, reason = BROKEN[name]
    make(tmp_path / name)
    with pytest.raises(MediaError, match=reason) as caught:
        read_features(tmp_path / name)
    assert name in str(caught.value)


def test_the_schema_of_a_written_parquet_is_plain_columns(tmp_path, track):
    write_features(tmp_path / "clip.parquet", track)
    schema = pa.parquet.read_schema(tmp_path / "clip.parquet")
    assert schema.names == ["timestamp", "success", *IDENTITY.columns]
    assert [str(kind) for kind in schema.types] == ["double", "bool", "float", "float", "float"]


def test_an_identity_survives_json():
    assert FeatureIdentity.from_dict(json.loads(json.dumps(IDENTITY.to_dict()))) == IDENTITY
    with pytest.raises(ValueError, match="got .'colour', 'name'"):
        FeatureIdentity.from_dict({"name": "openface", "colour": "red"})


OTHERS = {
    "the extractor is mediapipe, not openface": FeatureIdentity("mediapipe", "1.2.2"),
    "calibration is static, not dynamic": FeatureIdentity("openface", settings={"calibration": "static"}),
    "2 columns, not 3": FeatureIdentity("openface", columns=("AU01_r", "AU02_r")),
    "in another order": FeatureIdentity("openface", columns=IDENTITY.columns[::-1]),
    "column AU99_r stands where AU04_r": FeatureIdentity("openface", columns=("AU01_r", "AU02_r", "AU99_r")),
}


@pytest.mark.parametrize("difference", OTHERS)
def test_a_model_refuses_features_of_another_extractor_and_says_what_to_do(difference):
    with pytest.raises(ValueError, match=difference) as caught:
        check_same_features(IDENTITY.to_dict(), OTHERS[difference])
    assert "aver extract … --backend openface" in str(caught.value)


@pytest.mark.parametrize("given", [None, IDENTITY, FeatureIdentity("openface", columns=IDENTITY.columns)])
def test_the_same_features_and_what_nobody_knows_pass(given, caplog):
    check_same_features(IDENTITY, given)
    check_same_features(given, IDENTITY)
    assert caplog.text == ""


def test_another_version_is_told_but_not_refused(caplog):
    check_same_features(IDENTITY, FeatureIdentity("openface", "2.1.0", {"calibration": "dynamic"}, IDENTITY.columns))
    assert "openface 2.2.0" in caplog.text and "openface 2.1.0" in caplog.text
