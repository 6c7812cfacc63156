"""Clips of one's own go through the same door, and any dataset that claims the schema is checked."""

import logging
import shutil

import datasets
import numpy as np
import pytest
from support.corpora import tiny_openface, tiny_sound

from datasets_scripts import SAMPLE_DIR, SchemaError, check_columns, find_problems, load_clips, load_crema_d
from datasets_scripts.schema import clip_features, identity_of, stream_columns
from modeling_aver.features.base import FaceTrack, FeatureIdentity
from modeling_aver.features.tables import write_features
from modeling_aver.io.media import MediaError

TABLE = "file,label,speaker\nanna/01.wav,happy,anna\nben/01.wav,sad,ben\nben/02.flac,happy,ben\n"


@pytest.fixture
def load(tmp_path):
    """`load_clips` with a cache of the test's own."""
    return lambda table, **options: load_clips(table, cache_dir=tmp_path / "cache", **options)


@pytest.fixture
def mine(tmp_path):
    """Three clips of two speakers; two clips have the same file name."""
    for speaker in ("anna", "ben"):
        (tmp_path / "mine" / speaker).mkdir(parents=True)
        (tmp_path / "mine" / speaker / "01.wav").write_bytes(tiny_sound())
    (tmp_path / "mine" / "ben" / "02.flac").write_bytes(tiny_sound("FLAC"))
    (tmp_path / "mine" / "clips.csv").write_text(TABLE)
    return tmp_path / "mine"


def track(value, names=("a", "b")):
    identity = FeatureIdentity("table", columns=names)
    return FaceTrack(np.array([0.0, 0.04]), np.full((2, len(names)), value, np.float32), np.ones(2, bool), identity)


def test_a_table_of_file_label_speaker_becomes_a_dataset_of_the_schema(load, mine):
    rows = load(mine / "clips.csv")["train"]
    assert rows["utterance_id"] == ["anna/01", "ben/01", "ben/02"]
    assert rows["speaker_id"] == ["anna", "ben", "ben"]
    assert rows.features["label"].names == ["happy", "sad"] and rows["label"] == [0, 1, 0]
    assert rows["action_units"] == [[], [], []]
    assert set(clip_features(["x"])) == set(rows.features)
    check_columns(rows.features)
    assert find_problems(rows) == {}


def test_features_meet_their_clips_by_folder_and_name(load, mine):
    for value, name in enumerate(["anna/01", "ben/01", "ben/02"]):
        write_features(mine / "features" / f"{name}.npz", track(float(value)))
    rows = load(mine / "clips.csv")["train"]
    assert [row["action_units"] for row in rows] == [[[value] * 2] * 2 for value in (0.0, 1.0, 2.0)]
    assert identity_of(rows[2]).columns == ("a", "b")


def test_a_name_without_folders_serves_where_it_is_clear(load, mine):
    write_features(mine / "features" / "02.parquet", track(0.5))
    rows = load(mine / "clips.csv")["train"]
    assert [len(units) for units in rows["action_units"]] == [0, 0, 2]


def test_a_film_gives_its_sound(load, tmp_path):
    (tmp_path / "film").mkdir()
    shutil.copy(SAMPLE_DIR / "VideoFlash" / "1001_DFA_HAP_XX.flv", tmp_path / "film")
    (tmp_path / "film" / "clips.csv").write_text("file,label,speaker\n1001_DFA_HAP_XX.flv,happy,1001\n")
    assert load(tmp_path / "film" / "clips.csv")["train"][0]["audio_duration"] == pytest.approx(1.9, abs=0.1)


def test_a_column_split_parts_the_clips_and_speakers_on_both_sides_are_named(load, mine, caplog):
    lines = TABLE.splitlines()
    table = "\n".join(f"{line},{part}" for line, part in zip(lines, ["split", "train", "train", "test"], strict=True))
    (mine / "clips.csv").write_text(table)
    with caplog.at_level(logging.WARNING, logger="datasets_scripts"):
        parts = load(mine / "clips.csv")
    assert {part: rows["utterance_id"][:] for part, rows in parts.items()} == {
        "train": ["anna/01", "ben/01"],
        "test": ["ben/02"],
    }
    message = "Speakers ben are in both train and test: the split is not speaker-independent."
    assert message in caplog.text
    with pytest.raises(ValueError, match=message):
        load(mine / "clips.csv", strict=True)


def test_validation_speakers_can_be_cut(load, mine):
    parts = load(mine / "clips.csv", validation_fraction=0.5)
    assert set(parts["train"]["speaker_id"]) ^ set(parts["validation"]["speaker_id"]) == {"anna", "ben"}


def test_labels_of_a_model_fix_their_order_and_other_labels_are_left_out_by_name(load, mine, caplog):
    with caplog.at_level(logging.WARNING, logger="datasets_scripts"):
        rows = load(mine / "clips.csv", labels=["neutral", "happy"])["train"]
    assert rows["label"] == [1, 1]
    assert "label of ben/01.wav (sad) must be one of neutral, happy" in caplog.text


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,label\na.wav,happy\n", "lacks the columns speaker; it has file, label"),
        ("file,label,speaker\n", "has a header but no clips"),
        ("file,label,speaker\na.wav,,anna\n", "line 2: label is empty"),
        ("file,label,speaker\na.wav,x,b\na.flac,x,b\n", r"line 3: a\.flac is the clip of line 2 again"),
        ("file,label,speaker,split\na.wav,x,b,dev\n", r"line 2: split \(dev\) must be one of train, validation, test"),
        (b"file,label,speaker\n\xff\xfe.wav,x,y\n", "is not a CSV in UTF-8"),
        ("", "is not a CSV in UTF-8"),
    ],
    ids=["no speaker", "no clips", "no label", "twice", "unknown split", "other encoding", "empty"],
)
def test_a_wrong_table_is_refused_with_its_line_and_value(load, tmp_path, table, message):
    path = tmp_path / "clips.csv"
    path.write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(MediaError, match=message):
        load(path)


def test_a_missing_table_and_a_missing_clip_are_named(load, mine, tmp_path, caplog):
    with pytest.raises(MediaError, match=r"`table` \(.*nowhere\.csv\) is no file"):
        load(tmp_path / "nowhere.csv")
    (mine / "ben" / "01.wav").unlink()
    with caplog.at_level(logging.WARNING, logger="datasets_scripts"):
        assert load(mine / "clips.csv")["train"]["utterance_id"] == ["anna/01", "ben/02"]
    assert "ben/01 is left out" in caplog.text


def test_the_sample_passes_the_check(tmp_path):
    assert find_problems(load_crema_d(cache_dir=tmp_path)["train"]) == {}


def make_rows(**changes):
    """A dataset of one good clip, `changes` applied to its row."""
    sound = np.zeros(16_000, np.float32)
    frames = FaceTrack(np.arange(3) / 3, np.ones((3, 2), np.float32), np.ones(3, bool), FeatureIdentity("table"))
    row = {**stream_columns("a", sound, frames), "label": 0, "speaker_id": "s", "utterance_id": "a"}
    features = clip_features(["happy"], None)
    features["action_units"] = datasets.List(datasets.List(datasets.Value("float32")))
    return datasets.Dataset.from_list([row | changes], features=features)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"video_timestamps": [0.0, 0.2]}, "3 rows of action_units but 2 of video_timestamps"),
        ({"action_units_success": [True]}, "3 rows of action_units but 1 of action_units_success"),
        ({"video_timestamps": [0.0, 0.3, 0.1]}, "run backwards at frame 2"),
        ({"video_timestamps": [0.0, 0.3, float("nan")]}, "video_timestamps hold values that are not finite"),
        ({"action_units": [[1.0, float("inf")]] * 3}, "action_units hold values that are not finite"),
        ({"action_units": [[1.0], [1.0, 2.0], [1.0]]}, "rows of action_units have different lengths"),
        ({"action_units_success": [False] * 3}, "no face in any frame"),
        ({"video_timestamps": [0.0, 2.0, 4.0]}, "sound lasts 1.00 s but the last video frame is at 4.00 s"),
        ({"audio": {"bytes": b"RIFF", "path": "a.wav"}}, "cannot be decoded"),
        ({"audio": {"bytes": None, "path": "a.wav"}}, "a.wav was not embedded"),
        ({"label": -1}, "no label"),
        ({"speaker_id": ""}, "no speaker_id"),
        (
            {"audio": None, "action_units": [], "action_units_success": [], "video_timestamps": []},
            "neither sound nor action units",
        ),
    ],
)
def test_each_kind_of_bad_row_is_told_by_clip(changes, problem):
    assert find_problems(make_rows()) == {}
    (found,) = find_problems(make_rows(**changes))["a"]
    assert problem in found


def test_a_repeated_utterance_is_told():
    twice = datasets.concatenate_datasets([make_rows(), make_rows()])
    assert find_problems(twice) == {"a": ["another clip has the same utterance_id"]}


def test_a_dataset_of_other_columns_is_refused_with_the_remedy():
    with pytest.raises(SchemaError, match=r"lacks the columns audio, action_units, .* it has text\. Rename yours"):
        check_columns(datasets.Features({"text": datasets.Value("string")}))
    features = clip_features(["happy"])
    features["label"] = datasets.Value("int64")
    features["video_timestamps"] = datasets.Value("float32")
    with pytest.raises(SchemaError, match="`video_timestamps` is .*, not a list of seconds; `label` is .* ClassLabel"):
        check_columns(features)


def test_openface_tables_of_ones_own_clips_serve_too(load, mine):
    (mine / "OpenFace").mkdir()
    (mine / "OpenFace" / "02.csv").write_bytes(tiny_openface(num_frames=3))
    assert [len(units) for units in load(mine / "clips.csv")["train"]["action_units"]] == [0, 0, 3]
