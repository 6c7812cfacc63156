"""RAVDESS from its official zips or folders: counts of the whole corpus, files joined by name, tracking from zips."""

import io
import logging
import shutil
import time
import zipfile
from collections import Counter

import pytest
import soundfile
from support.corpora import ravdess_names, shared_file, tiny_openface, tiny_sound
from support.media import tone, write_video

from datasets_scripts import Ravdess, load_ravdess
from datasets_scripts.ravdess import EMOTIONS
from datasets_scripts.schema import identity_of
from modeling_aver.features.openface_csv import CONFIDENCE_THRESHOLD
from modeling_aver.io.media import MediaError


def write_zip(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_files(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def official_audio(names):
    """Members of an official zip of sound: Actor_NN/03-….wav."""
    sound = tiny_sound(sampling_rate=48_000)
    return {f"Actor_{name[-2:]}/03{name[2:]}.wav": sound for name in names}


@pytest.fixture(scope="module")
def whole_corpus(tmp_path_factory):
    """The official zips with every name: speech, song, and the tracking of both."""
    root = tmp_path_factory.mktemp("ravdess")
    speech, song = ravdess_names(), ravdess_names("02")
    write_zip(root / "Audio_Speech_Actors_01-24.zip", official_audio(speech))
    write_zip(root / "Audio_Song_Actors_01-24.zip", official_audio(song))
    table = tiny_openface(success=False)
    write_zip(root / "FacialTracking_Actors_01-24.zip", {f"{name}.csv": table for name in speech + song})
    return root


@pytest.fixture
def load(tmp_path):
    """`load_ravdess` with a cache of the test's own."""
    return lambda data_dir, **options: load_ravdess(data_dir, cache_dir=tmp_path / "cache", **options)


def test_the_official_zips_hold_1440_clips_of_speech_and_1012_of_song(whole_corpus, tmp_path):
    speech = Ravdess(config_name="all", data_dir=str(whole_corpus), cache_dir=tmp_path).parts()["train"]
    song = Ravdess(config_name="song", data_dir=str(whole_corpus), cache_dir=tmp_path).parts()["train"]
    assert speech == sorted(ravdess_names()) and len(speech) == 1440
    assert song == sorted(ravdess_names("02")) and len(song) == 1012
    assert not [name for name in song if name.endswith("18")]


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [(f"luna_jimenez_5fold_{fold}", 1140, 300) for fold in range(1, 5)]
    + [("luna_jimenez_5fold_5", 1200, 240)]
    + [(f"emobox_6fold_{fold}", 1200, 240) for fold in range(1, 7)],
)
def test_each_fold_has_its_published_size_and_shares_no_actor(whole_corpus, tmp_path, name, train, test):
    parts = Ravdess(config_name=name, data_dir=str(whole_corpus), cache_dir=tmp_path).parts()
    assert (len(parts["train"]), len(parts["test"])) == (train, test)
    assert not {clip[-2:] for clip in parts["train"]} & {clip[-2:] for clip in parts["test"]}


@pytest.mark.slow
def test_the_whole_corpus_builds_out_of_its_zips_with_exact_counts(whole_corpus, load):
    rows = load(whole_corpus, num_proc=2)["train"]
    labels = Counter(rows.features["label"].int2str(rows["label"][:]))
    assert labels == dict.fromkeys(EMOTIONS, 192) | {"neutral": 96}
    assert Counter(rows["speaker_id"]) == {f"{actor:02d}": 60 for actor in range(1, 25)}
    assert {len(units) for units in rows["action_units"]} == {2}


@pytest.mark.slow
def test_the_1440_real_recordings_build_in_two_minutes_with_their_own_lengths(load):
    source = shared_file("data", "ravdess")
    start = time.monotonic()
    rows = load(source, name="all", num_proc=2)["train"]
    assert time.monotonic() - start < 120
    assert len(rows) == 1440
    for trial, duration in zip(rows["utterance_id"], rows["audio_duration"], strict=True):
        file = source / f"Audio_Speech_Actors_01-24/Actor_{trial[-2:]}/03{trial[2:]}.flac"
        assert duration == soundfile.info(file).duration
    assert sum(bool(units) for units in rows["action_units_success"]) == 2  # as many tables as there are


def test_real_recordings_meet_their_real_tables(load, tmp_path):
    source, root = shared_file("data", "ravdess"), tmp_path / "two"
    frames = {"01-01-01-01-01-01-01": 99, "01-01-05-02-01-02-14": 131}
    for trial in frames:
        write_files(
            root, {f"Actor_{trial[-2:]}/03{trial[2:]}.flac": next(source.rglob(f"03{trial[2:]}.flac")).read_bytes()}
        )
    shutil.copytree(source / "OpenFace", root / "OpenFace")
    for row in load(root)["train"]:
        assert len(row["action_units"]) == frames[row["utterance_id"]]
        assert row["video_frame_rate"] == pytest.approx(29.97, abs=0.01)
        assert row["video_duration"] == pytest.approx(row["audio_duration"], abs=0.05)


def test_a_name_says_everything_about_its_trial(load, tmp_path):
    write_files(tmp_path / "one", {"Actor_12/03-01-06-01-02-01-12.wav": tiny_sound()})
    rows = load(tmp_path / "one")["train"]
    row, features = rows[0], rows.features
    assert features["label"].names == [
        "neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"
    ]  # fmt: skip
    assert features["label"].int2str(row["label"]) == "fearful"
    assert features["intensity"].int2str(row["intensity"]) == "normal"
    assert features["statement"].int2str(row["statement"]) == "Dogs are sitting by the door"
    assert features["actor_sex"].int2str(row["actor_sex"]) == "female"
    assert (row["repetition"], row["speaker_id"], row["utterance_id"]) == (1, "12", "01-01-06-01-02-01-12")


def test_sound_of_48_khz_stereo_comes_out_at_16_khz_mono(load, tmp_path):
    file = io.BytesIO()
    soundfile.write(file, [[0.1, 0.1]] * 4800, 48_000, format="WAV", subtype="PCM_16")
    write_files(tmp_path / "one", {"03-01-06-01-02-01-12.wav": file.getvalue()})
    row = load(tmp_path / "one")["train"][0]
    info = soundfile.info(io.BytesIO(row["audio"]["bytes"]))
    assert (info.samplerate, info.channels) == (16_000, 1)
    assert row["audio_duration"] == pytest.approx(0.1, abs=0.002)


def test_the_files_of_a_trial_are_joined_and_the_audio_only_one_is_heard(load, tmp_path):
    film, sound = tiny_sound(seconds=0.05), tiny_sound(seconds=0.02)  # a .mp4 by name; PyAV looks inside
    files = {
        "Video_Speech_Actor_03/Actor_03/01-01-03-01-01-01-03.mp4": film,
        "Video_Speech_Actor_03/Actor_03/02-01-03-01-01-01-03.mp4": b"no sound in it, and never opened",
        "Audio_Speech_Actors_01-24/Actor_03/03-01-03-01-01-01-03.wav": sound,
        "Video_Speech_Actor_03/Actor_03/01-01-04-01-01-01-03.mp4": film,
        "OpenFace/02-01-03-01-01-01-03.csv": tiny_openface(num_frames=3),
        "OpenFace/01-01-04-01-01-01-03.csv": tiny_openface(num_frames=4),
    }
    write_files(tmp_path / "d", files)
    rows = {row["utterance_id"]: row for row in load(tmp_path / "d")["train"]}
    assert {name: (row["audio_duration"], len(row["action_units"])) for name, row in rows.items()} == {
        "01-01-03-01-01-01-03": (0.02, 3),
        "01-01-04-01-01-01-03": (0.05, 4),
    }


def test_the_sound_of_a_real_film_is_read_inside_its_zip(load, tmp_path):
    film = write_video(tmp_path / "film.mp4", sound=tone(seconds=0.4, rate=48_000, layout="stereo"))
    members = {"Actor_03/01-01-03-01-01-01-03.mp4": film.read_bytes(), "Actor_03/02-01-03-01-01-01-03.mp4": b"mute"}
    write_zip(tmp_path / "d/Video_Speech_Actor_03.zip", members)
    row = load(tmp_path / "d")["train"][0]
    assert row["audio_duration"] == pytest.approx(0.4, abs=0.1)  # AAC pads
    waveform, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]))
    assert rate == 16_000 and 0.3 < abs(waveform[1600:4800]).max() < 0.6


def test_published_tracking_has_no_success_so_confidence_decides(load, tmp_path):
    lines = tiny_openface(num_frames=3, success=False, extra_columns=673).decode().splitlines()
    assert len(lines[0].split(",")) == 712
    lines[2] = lines[2].replace(", 0.98,", f", {CONFIDENCE_THRESHOLD - 0.005},")
    write_zip(tmp_path / "d/FacialTracking_Actors_01-24.zip", {"01-01-02-01-01-01-01.csv": "\n".join(lines)})
    write_zip(tmp_path / "d/Audio_Speech_Actors_01-24.zip", official_audio(["01-01-02-01-01-01-01"]))
    row = load(tmp_path / "d")["train"][0]
    assert row["action_units_success"] == [True, False, True]
    assert row["action_units"][0] == [0.5] * 35 and row["action_units"][1] == [0.0] * 35
    assert identity_of(row).version == "2.1.0"


def test_without_tracking_clips_are_sound_alone_and_can_be_required_to_be_more(load, tmp_path, caplog):
    names = ["01-01-02-01-01-01-01", "01-01-02-01-01-02-01"]
    write_files(tmp_path / "d", official_audio(names))
    with caplog.at_level(logging.WARNING, logger="datasets_scripts"):
        rows = load(tmp_path / "d")["train"]
    assert rows["action_units"] == [[], []] and "sound alone" in caplog.text
    write_files(tmp_path / "d/OpenFace", {f"{names[0]}.csv": tiny_openface()})
    assert [bool(units) for units in load(tmp_path / "d")["train"]["action_units"]] == [True, False]
    assert "1 of 2 clips have no table" in caplog.text
    assert load(tmp_path / "d", require_action_units=True)["train"]["utterance_id"] == names[:1]


def test_a_copy_inside_a_copy_counts_once(load, tmp_path, caplog):
    clip = official_audio(["01-01-02-01-01-01-01"])
    write_files(tmp_path / "d", clip)
    write_files(tmp_path / "d/audio_speech_actors_01-24", clip)
    write_zip(tmp_path / "d/Audio_Speech_Actors_01-24.zip", clip)
    with caplog.at_level(logging.WARNING, logger="datasets_scripts"):
        assert len(load(tmp_path / "d")["train"]) == 1
    assert "2 files are there more than once, such as 03-01-02-01-01-01-01.wav" in caplog.text


def test_strangers_and_damaged_clips_are_left_out_by_name(load, tmp_path, caplog):
    names = ["01-01-02-01-01-01-01", "01-01-02-01-01-02-01", "01-01-02-01-02-02-01"]
    write_files(tmp_path / "d", official_audio(names))
    write_files(
        tmp_path / "d",
        {
            "Actor_01/03-01-09-01-01-01-01.wav": tiny_sound(),  # no ninth emotion
            "Actor_01/03-01-02-01-01-02-01.wav": b"",
            "OpenFace/01-01-02-01-02-02-01.csv": b"frame, timestamp, confidence\n1, 0.0, 0.98\n",
            "OpenFace/01-01-02-01-01-01-01.csv": tiny_openface(),
        },
    )
    with caplog.at_level(logging.WARNING, logger="datasets_scripts"):
        assert load(tmp_path / "d")["train"]["utterance_id"] == names[:1]
    for reason in ("03-01-09-01-01-01-01.wav is not a name such as", "is empty", "lacks the OpenFace columns"):
        assert reason in caplog.text
    with pytest.raises(MediaError, match="03-01-09-01-01-01-01.wav is not a name"):
        load(tmp_path / "d", strict=True)


def test_a_zip_that_points_outside_writes_nothing_anywhere(load, tmp_path):
    clip = official_audio(["01-01-02-01-01-01-01"])
    evil = {"../../03-01-02-01-01-02-01.wav": tiny_sound(), "/tmp/../03-01-02-01-02-01-01.wav": tiny_sound()}
    write_zip(tmp_path / "d/Audio_Speech_Actors_01-24.zip", clip | evil)
    before = {path for path in tmp_path.rglob("*") if path.suffix == ".wav"}
    assert len(load(tmp_path / "d")["train"]) == 3  # read in place, under the names that count
    assert {path for path in tmp_path.rglob("*") if path.suffix == ".wav"} == before == set()


def test_damaged_zips_and_members_are_named(load, tmp_path):
    path = tmp_path / "d/Audio_Speech_Actors_01-24.zip"
    write_zip(path, official_audio(["01-01-02-01-01-01-01", "01-01-02-01-01-02-01"]))
    content = bytearray(path.read_bytes())
    content[80:90] = bytes(10)  # inside the first member's data
    path.write_bytes(content)
    builder = Ravdess(config_name="all", data_dir=str(path.parent), cache_dir=tmp_path / "cache")
    assert list(builder.problems()) == ["01-01-02-01-01-01-01"]
    assert "cannot be read out of Audio_Speech_Actors_01-24.zip" in builder.problems()["01-01-02-01-01-01-01"]
    path.write_bytes(content[:-40])
    with pytest.raises(MediaError, match=r"Audio_Speech_Actors_01-24\.zip cannot be opened .* Fetch it again"):
        load(path.parent)


def test_a_wrong_folder_channel_or_table_folder_says_what_would_be_right(load, tmp_path):
    with pytest.raises(MediaError, match=r"is no folder\. Give `data_dir` the folder with Audio_Speech_Actors"):
        load(tmp_path / "nowhere")
    with pytest.raises(MediaError, match=r"No sound of speech under .*zenodo\.org/records/1188976"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"`channel` \('opera'\) must be one of speech, song"):
        load(tmp_path, channel="opera")
    write_files(tmp_path / "d", official_audio(["01-01-02-01-01-01-01"]))
    with pytest.raises(MediaError, match=r"`action_units_folder` \(AUs\) is neither a folder nor a zip"):
        load(tmp_path / "d", action_units_folder="AUs", strict=True)


def felt_table(*rows):
    """A table of FELT's shape: frame, box, score, a landmark, two action units, an emotion."""
    header = "frame,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore,x_0,y_0,Pitch,AU01,AU12,anger,input"
    lines = [f"{frame},1,1,{width},10,0.99,1,1,0.1,{first},{second},0.5,a.mp4" for frame, width, first, second in rows]
    return "\n".join([header, *lines]).encode()


def test_felt_reads_as_a_second_feature_set_on_the_clock_of_its_frames(load, tmp_path):
    name = "01-01-02-01-01-01-01"
    rows = [(0, 10, 0.1, 0.2), (2, 10, "", ""), (1, 10, 0.9, 0.9), (1, 20, 0.3, 0.4)]  # two faces in frame 1
    write_files(tmp_path / "d", official_audio([name]))
    write_zip(tmp_path / "d/raw_motion_speech.zip", {f"Actor_01/{name}.csv": felt_table(*rows)})
    row = load(tmp_path / "d", action_units_folder="raw_motion_speech")["train"][0]
    assert row["action_units_success"] == [True, True, False]
    assert row["action_units"] == [pytest.approx([0.1, 0.2]), pytest.approx([0.3, 0.4]), [0.0, 0.0]]
    assert row["video_timestamps"] == pytest.approx([0, 1001 / 30000, 2002 / 30000])
    identity = identity_of(row)
    assert (identity.name, identity.version, identity.settings) == ("pyfeat", "0.6.2", {"smoothed": False})
    assert identity.columns == ("AU01", "AU12")


def test_a_felt_table_without_action_units_is_refused_by_what_it_lacks(load, tmp_path):
    name = "01-01-02-01-01-01-01"
    write_files(tmp_path / "d", official_audio([name]))
    write_files(tmp_path / "d", {f"felt/{name}.csv": b"frame,FaceScore\n0,0.9\n"})
    with pytest.raises(MediaError, match="lacks the Py-Feat columns FaceRectWidth, FaceRectHeight, AU01, AU02"):
        load(tmp_path / "d", action_units_folder="felt")
