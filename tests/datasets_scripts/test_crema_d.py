"""CREMA-D from its official folders: counts of the whole corpus, and the six real clips sample for sample."""

import io
import logging
import os
import shutil
from collections import Counter

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
from support.corpora import crema_d_names, shared_file, tiny_openface, tiny_sound

from datasets_scripts import SAMPLE_DIR, CremaD, load_crema_d
from datasets_scripts.crema_d import EMOTIONS, KNOWN_BAD_CLIPS, NUM_CLIPS, SENTENCES
from datasets_scripts.hub.build import build_corpus
from datasets_scripts.schema import identity_of
from modeling_aver.features.base import FaceTrack, FeatureIdentity
from modeling_aver.features.openface_csv import ACTION_UNITS
from modeling_aver.features.tables import write_features
from modeling_aver.io.media import MediaError

PERCEIVED = "FileName,VoiceVote,VoiceLevel,FaceVote,FaceLevel,MultiModalVote,MultiModalLevel\n"


def write_tree(root, names, openface=True):
    """A tree of the official shape; its files are one tiny sound and one tiny table under many names."""
    contents = {"AudioWAV": (".wav", tiny_sound())}
    if openface:
        contents["OpenFace"] = (".csv", tiny_openface())
    for folder, (suffix, content) in contents.items():
        (root / folder).mkdir(parents=True)
        first = root / folder / f"{names[0]}{suffix}"
        first.write_bytes(content)
        for name in names[1:]:
            os.link(first, root / folder / f"{name}{suffix}")
    return root


@pytest.fixture(scope="module")
def whole_corpus(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("crema_d"), crema_d_names(), openface=False)


@pytest.fixture
def load(tmp_path):
    """`load_crema_d` with a cache of the test's own."""
    return lambda data_dir, **options: load_crema_d(data_dir, cache_dir=tmp_path / "cache", **options)


@pytest.fixture
def three_clips(tmp_path):
    return write_tree(tmp_path / "three", ["1001_DFA_ANG_XX", "1001_IEO_SAD_LO", "1002_TIE_HAP_XX"])


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("all", {"train": 7442}),
        ("emobox", {"train": 5586, "test": 1856}),
        ("speaker_5fold_1", {"train": 5974, "test": 1463}),
        ("speaker_5fold_2", {"train": 5967, "test": 1470}),
        ("speaker_5fold_3", {"train": 5962, "test": 1475}),
        ("speaker_5fold_4", {"train": 5963, "test": 1474}),
        ("speaker_5fold_5", {"train": 5882, "test": 1555}),
        ("speaker_holdout", {"train": 5144, "validation": 738, "test": 1556}),
    ],
)
def test_each_configuration_of_the_whole_corpus_has_its_published_sizes(whole_corpus, tmp_path, name, sizes):
    parts = CremaD(config_name=name, data_dir=str(whole_corpus), cache_dir=tmp_path, action_units_folder="").parts()
    assert {part: len(clips) for part, clips in parts.items()} == sizes


@pytest.mark.slow
def test_the_whole_corpus_builds_with_exact_counts_of_emotions_and_speakers(tmp_path, load):
    built = load(write_tree(tmp_path / "whole", crema_d_names()), name="emobox", num_proc=2)
    assert {part: len(rows) for part, rows in built.items()} == {"train": 5586, "test": 1856}
    labels = [built["train"].features["label"].int2str(label) for part in built.values() for label in part["label"]]
    assert Counter(labels) == dict.fromkeys(EMOTIONS.values(), 1271) | {"neutral": 1087}
    assert len({speaker for part in built.values() for speaker in part["speaker_id"]}) == 91
    assert len({name for part in built.values() for name in part["utterance_id"]}) == NUM_CLIPS


def test_the_six_real_clips_keep_every_sample_of_sound_and_every_row_of_openface(load):
    rows = load(SAMPLE_DIR)["train"]
    assert sorted(row["utterance_id"] for row in rows) == sorted(f"1001_DFA_{emotion}_XX" for emotion in EMOTIONS)
    for row in rows:
        name = row["utterance_id"]
        ours, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="int16")
        theirs, _ = soundfile.read(SAMPLE_DIR / "AudioWAV" / f"{name}.wav", dtype="int16")
        assert rate == 16_000 and np.array_equal(ours, theirs)
        table = pd.read_csv(SAMPLE_DIR / "OpenFace" / f"{name}.csv", skipinitialspace=True)
        assert len(row["action_units"]) == len(row["action_units_success"]) == len(table)
        np.testing.assert_allclose(row["action_units"], table[list(ACTION_UNITS)].to_numpy(), atol=1e-6)
        assert row["video_timestamps"] == table["timestamp"].tolist()
        assert row["audio_duration"] == len(theirs) / 16_000
        assert row["video_frame_rate"] == pytest.approx(29.97, abs=0.02)  # OpenFace rounds timestamps to 1 ms
        assert row["video_duration"] == pytest.approx(row["audio_duration"], abs=0.1)


def test_a_row_says_who_made_its_features_and_what_was_said(load):
    row = load(SAMPLE_DIR, split="train")[0]
    identity = identity_of(row)
    assert identity.name == "openface" and identity.columns == ACTION_UNITS
    assert row["sentence"] == "DFA" and row["transcript"] == SENTENCES["DFA"]


def test_the_sound_of_the_films_and_of_mp3_files_serves_as_well(load, tmp_path):
    (tmp_path / "mp3" / "AudioMP3").mkdir(parents=True)
    shutil.copytree(SAMPLE_DIR / "OpenFace", tmp_path / "mp3" / "OpenFace")
    for film in (SAMPLE_DIR / "VideoFlash").glob("*.flv"):  # their sound is MP3: copied as it is, not encoded again
        with av.open(str(film)) as source, av.open(str(tmp_path / f"mp3/AudioMP3/{film.stem}.mp3"), "w") as target:
            stream = target.add_stream_from_template(source.streams.audio[0])
            for packet in source.demux(source.streams.audio[0]):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
    wav = load(SAMPLE_DIR, split="train")
    flv = load(SAMPLE_DIR, split="train", audio_folder="VideoFlash")
    mp3 = load(tmp_path / "mp3", split="train")
    for one in (flv, mp3):
        assert one["utterance_id"] == wav["utterance_id"]
        np.testing.assert_allclose(one["audio_duration"], wav["audio_duration"], atol=0.1)


def test_sound_alone_builds_with_a_missing_video_stream(load, tmp_path):
    row = load(write_tree(tmp_path / "d", ["1001_DFA_ANG_XX"], openface=False), action_units_folder="")["train"][0]
    assert row["action_units"] == row["video_timestamps"] == row["feature_names"] == []
    assert row["video_frame_rate"] is None and row["video_duration"] == 0 and identity_of(row) is None


def test_features_of_another_extractor_bring_their_own_columns_and_identity(load, tmp_path, three_clips):
    mediapipe = FeatureIdentity("mediapipe", "1.2.2", {"blendshapes": 3}, ("jawOpen", "browDownLeft", "mouthPucker"))
    for name in ("1001_DFA_ANG_XX", "1001_IEO_SAD_LO"):
        track = FaceTrack(np.array([0.0, 0.04]), np.full((2, 3), 0.25, np.float32), np.array([True, True]), mediapipe)
        write_features(tmp_path / "mine" / f"{name}.npz", track)
    strange = FaceTrack(
        track.timestamps, track.features, track.success, FeatureIdentity("table", columns=tuple("abc"))
    )
    write_features(tmp_path / "mine" / "1002_TIE_HAP_XX.parquet", strange)
    folder = str(tmp_path / "mine")
    rows = load(three_clips, action_units_folder=folder)["train"]
    assert rows["utterance_id"] == ["1001_DFA_ANG_XX", "1001_IEO_SAD_LO"]
    assert rows[0]["action_units"] == [[0.25] * 3] * 2 and rows[0]["video_frame_rate"] == 25.0
    assert identity_of(rows[0]) == mediapipe
    with pytest.raises(MediaError, match="1002_TIE_HAP_XX.parquet is not like the other tables"):
        load(three_clips, action_units_folder=folder, strict=True)


def test_two_processes_and_streams_give_the_rows_of_one_process(load, three_clips, tmp_path):
    alone, together = load(three_clips)["train"], load(three_clips, num_proc=2, strict=True)["train"]
    by_name = {row["utterance_id"]: row for row in together}
    assert {row["utterance_id"]: row for row in alone} == by_name
    builder = CremaD(config_name="all", data_dir=str(three_clips), cache_dir=tmp_path / "stream")
    streamed = {row["utterance_id"]: row for row in builder.as_streaming_dataset(split="train")}
    for row in alone:
        assert row["audio"]["bytes"] == streamed[row["utterance_id"]]["audio"]["bytes"]
        assert streamed[row["utterance_id"]] == row


def test_bad_clips_are_left_out_by_name_and_the_rest_is_kept(load, three_clips, caplog):
    (three_clips / "AudioWAV" / "1001_DFA_ANG_XX.wav").unlink()
    (three_clips / "AudioWAV" / "1001_DFA_ANG_XX.wav").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 72804\n"
    )
    (three_clips / "OpenFace" / "1002_TIE_HAP_XX.csv").unlink()
    (three_clips / "AudioWAV" / "holiday.wav").write_bytes(tiny_sound())
    (three_clips / "AudioWAV" / "._1001_IEO_SAD_LO.wav").write_bytes(b"what macOS leaves behind")
    with caplog.at_level(logging.WARNING, logger="datasets_scripts"):
        rows = load(three_clips)["train"]
    assert rows["utterance_id"] == ["1001_IEO_SAD_LO"]
    for expected in ("holiday is left out", "1001_DFA_ANG_XX is left out", "git lfs pull", "1002_TIE_HAP_XX is left"):
        assert expected in caplog.text
    assert "._1001" not in caplog.text
    with pytest.raises(MediaError, match="holiday is not a name of CREMA-D"):
        load(three_clips, strict=True)


BROKEN = {
    "empty": lambda sound: b"",
    "cut short": lambda sound: sound[:20],
    "flipped bytes": lambda sound: bytes(byte ^ 0xFF for byte in sound),
    "a text": lambda sound: b"this is no sound at all",
    "a pointer": lambda sound: b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 7\n",
}


@pytest.mark.slow
def test_fifty_broken_clips_of_the_whole_corpus_are_named_and_the_rest_is_kept(tmp_path):
    names = crema_d_names()
    tree, sound = write_tree(tmp_path / "whole", names, openface=False), tiny_sound()
    broken = names[::149][:50]
    for number, name in enumerate(broken):
        (tree / "AudioWAV" / f"{name}.wav").unlink()  # a link to the one sound
        (tree / "AudioWAV" / f"{name}.wav").write_bytes(list(BROKEN.values())[number % len(BROKEN)](sound))
    (tree / "AudioWAV" / "loop").symlink_to(tree, target_is_directory=True)
    build = build_corpus("crema_d", tree, tmp_path / "out", num_proc=2, action_units_folder="")
    assert sorted(build.left_out) == broken and all(name in reason for name, reason in build.left_out.items())
    assert build.counts["all"]["train"]["clips"] == NUM_CLIPS - 50
    with pytest.raises(MediaError, match=broken[0]):
        build_corpus("crema_d", tree, tmp_path / "strict", strict=True, action_units_folder="")


def test_problems_names_every_clip_that_cannot_be_used(three_clips, tmp_path):
    (three_clips / "OpenFace" / "1002_TIE_HAP_XX.csv").unlink()
    problems = CremaD(config_name="all", data_dir=str(three_clips), cache_dir=tmp_path).problems()
    assert list(problems) == ["1002_TIE_HAP_XX"] and "no table of features in OpenFace" in problems["1002_TIE_HAP_XX"]


def test_the_name_that_older_copies_cut_short_is_recognised(load, tmp_path):
    tree = write_tree(tmp_path / "old", ["1040_ITH_SAD_X"])
    with pytest.raises(MediaError, match="It is 1040_ITH_SAD_XX, cut short in older copies: rename it"):
        load(tree, strict=True)


def test_the_five_known_bad_clips_are_those_that_hicmae_leaves_out(whole_corpus, tmp_path):
    assert set(KNOWN_BAD_CLIPS) == CremaD.SPLITS["speaker_5fold_1"].left_out
    options = {"data_dir": str(whole_corpus), "cache_dir": tmp_path, "action_units_folder": ""}
    kept = CremaD(config_name="all", **options, leave_out_known_bad=True).parts()["train"]
    assert len(kept) == NUM_CLIPS - 5 and not set(kept) & set(KNOWN_BAD_CLIPS)


def test_loading_emobox_warns_that_speakers_overlap_and_other_splits_are_silent(load, three_clips, caplog):
    with caplog.at_level(logging.WARNING, logger="datasets_scripts"):
        load(three_clips, name="speaker_5fold_1")
        assert "same speakers" not in caplog.text
        load(three_clips, name="emobox")
    assert "emobox: the same speakers are in train and test" in caplog.text


def test_validation_speakers_are_cut_from_training(whole_corpus, tmp_path):
    options = {
        "data_dir": str(whole_corpus),
        "cache_dir": tmp_path,
        "validation_fraction": 0.1,
        "action_units_folder": "",
    }
    parts = CremaD(config_name="speaker_5fold_1", **options).parts()
    speakers = {part: {name[:4] for name in names} for part, names in parts.items()}
    assert len(speakers["validation"]) == 7 and not speakers["validation"] & (speakers["train"] | speakers["test"])
    with pytest.raises(ValueError, match="cuts the training part of a split, and all is none"):
        CremaD(config_name="all", **options).parts()


def test_the_official_tables_give_the_actor_and_what_the_crowd_perceived(load, tmp_path):
    tree = write_tree(tmp_path / "d", ["1001_IEO_ANG_MD", "1001_IEO_NEU_XX"])
    shutil.copy(shared_file("data", "crema_d_official", "VideoDemographics.csv"), tree)
    (tree / "processedResults").mkdir()
    shutil.copy(shared_file("data", "crema_d_official", "summaryTable.csv"), tree / "processedResults")
    rows = load(tree)["train"]
    angry, neutral = rows[0], rows[1]
    assert (angry["actor_age"], angry["actor_race"], angry["actor_ethnicity"]) == (51, "Caucasian", "Not Hispanic")
    assert rows.features["actor_sex"].int2str(angry["actor_sex"]) == "male"
    to_name = rows.features["perceived_voice"].feature.int2str
    assert to_name(angry["perceived_voice"]) == ["anger", "disgust"]  # a tie, as the table has it
    assert angry["perceived_voice_level"] == pytest.approx([37.2, 58.6])
    assert to_name(neutral["perceived_both"]) == ["neutral"]
    assert neutral["perceived_face_level"] == pytest.approx([92.22])


def test_every_clip_and_actor_of_the_official_tables_is_understood():
    from datasets_scripts.crema_d_tables import read_demographics, read_perceived

    folder = shared_file("data", "crema_d_official")
    assert sorted(read_perceived(folder / "summaryTable.csv")) == crema_d_names()
    actors = read_demographics(folder / "VideoDemographics.csv")
    assert Counter(actor["actor_sex"] for actor in actors.values()) == {"male": 48, "female": 43}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("FileName,VoiceVote\n1001_DFA_ANG_XX,A\n", r"summaryTable.csv lacks the columns VoiceLevel, FaceVote"),
        (
            PERCEIVED + "1001_DFA_ANG_XX,A,1,Q,1,A,1\n",
            r"FaceVote of 1001_DFA_ANG_XX \(Q\) must be of A, D, F, H, N, S",
        ),
        (PERCEIVED + "1009_DFA_ANG_XX,A,1,A,1,A,1\n", r"summaryTable.csv has no row for 1001_DFA_ANG_XX, the clip"),
    ],
    ids=["missing columns", "unknown vote", "missing clip"],
)
def test_a_broken_table_is_refused_by_name_and_value(load, tmp_path, table, message):
    tree = write_tree(tmp_path / "d", ["1001_DFA_ANG_XX"])
    (tree / "summaryTable.csv").write_text(table)
    with pytest.raises(MediaError, match=message):
        load(tree, strict=True)


def test_features_without_names_are_told_apart_by_their_number(load, three_clips, tmp_path):
    (tmp_path / "mine").mkdir()
    for name, width in {"1001_DFA_ANG_XX": 3, "1001_IEO_SAD_LO": 3, "1002_TIE_HAP_XX": 4}.items():
        np.savez(tmp_path / "mine" / f"{name}.npz", timestamps=np.arange(2) / 25, features=np.ones((2, width)))
    folder = str(tmp_path / "mine")
    assert load(three_clips, action_units_folder=folder)["train"].num_rows == 2
    with pytest.raises(MediaError, match=r"1002_TIE_HAP_XX\.npz has 4 features a frame, but the other tables have 3"):
        load(three_clips, action_units_folder=folder, strict=True)


def test_ones_own_csv_tables_serve_unpacked_and_say_so_in_a_zip(load, three_clips, tmp_path):
    (three_clips / "mine").mkdir()
    for name in ("1001_DFA_ANG_XX", "1001_IEO_SAD_LO", "1002_TIE_HAP_XX"):
        (three_clips / "mine" / f"{name}.csv").write_text("timestamp,smile\n0.0,0.5\n0.04,0.25\n")
    row = load(three_clips, action_units_folder="mine")["train"][0]
    assert row["action_units"] == [[0.5], [0.25]] and row["feature_names"] == ["smile"]
    shutil.make_archive(str(three_clips / "zipped"), "zip", three_clips / "mine")
    with pytest.raises(MediaError, match=r"is not OpenFace's\. Unpack zipped\.zip to read other tables"):
        load(three_clips, action_units_folder="zipped")
    (three_clips / "nothing").mkdir()
    with pytest.raises(MediaError, match=r"nothing holds no table of features \(\.npz, \.parquet, \.csv\)"):
        load(three_clips, action_units_folder="nothing")


def test_a_link_that_leads_nowhere_stops_nothing(load, three_clips):
    (three_clips / "VideoFlash").symlink_to(three_clips / "gone")
    assert len(load(three_clips)["train"]) == 3


def test_linked_folders_are_followed_and_a_link_into_itself_is_walked_once(load, three_clips, tmp_path):
    corpus = tmp_path / "linked"
    corpus.mkdir()
    for name in ("AudioWAV", "OpenFace"):
        os.symlink(three_clips / name, corpus / name)
    os.symlink(corpus, corpus / "again")
    rows = load(corpus)["train"]
    assert sorted(rows["utterance_id"]) == sorted(load(three_clips)["train"]["utterance_id"])
    assert all(rows["action_units"])


def test_a_folder_of_features_may_be_named_from_the_current_one(load, three_clips, tmp_path, monkeypatch):
    (three_clips / "OpenFace").rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert all(load(three_clips, action_units_folder="elsewhere")["train"]["action_units"])


def test_a_changed_folder_is_built_again(load, three_clips):
    assert len(load(three_clips)["train"]) == 3
    (three_clips / "AudioWAV" / "1001_DFA_ANG_XX.wav").unlink()
    assert len(load(three_clips)["train"]) == 2


def test_a_folder_without_sound_or_with_an_unknown_one_says_what_to_give(load, tmp_path):
    with pytest.raises(MediaError, match=r"Give `data_dir` the folder that holds AudioWAV or AudioMP3 or VideoFlash"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"`audio_folder` \('Audio'\) must be one of AudioWAV, AudioMP3, VideoFlash"):
        load(tmp_path, audio_folder="Audio")
    (tmp_path / "AudioWAV").mkdir()
    with pytest.raises(MediaError, match=r"No \.wav file under"):
        load(tmp_path)


def test_nothing_usable_is_an_error_and_not_an_empty_dataset(load, three_clips):
    shutil.rmtree(three_clips / "OpenFace")
    with pytest.raises(MediaError, match=r"No action units under .*: no OpenFace\. Name another folder"):
        load(three_clips)
    for path in (three_clips / "AudioWAV").iterdir():
        path.unlink()
        path.write_bytes(b"")
    with pytest.raises(MediaError, match=r"No clip under .* can be used"):
        load(three_clips, action_units_folder="")
