"""The transformers pipeline: every kind of input, both kinds of users, one answer."""

import functools
import http.server
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from conftest import aver_config, aver_model
from made_up_extractor import Brightness, BrightnessInPassing
from made_up_media import cut, tone, write_video
from transformers import pipeline

from datasets_scripts import SAMPLE_DIR, load_crema_d
from modeling_aver import AverProcessor, EmotionPipeline, pipeline_aver
from modeling_aver.features import (
    ExtractorUnavailableError,
    MediaError,
    read_audio,
    read_openface,
    read_timestamps,
    write_features,
)
from modeling_aver.features.openface import ACTION_UNITS

TASK = "audio-visual-emotion-recognition"
CLIP = "1001_DFA_HAP_XX"
VIDEO, WAV = SAMPLE_DIR / "VideoFlash" / f"{CLIP}.flv", SAMPLE_DIR / "AudioWAV" / f"{CLIP}.wav"
OPENFACE = {"name": "openface", "settings": {}, "columns": list(ACTION_UNITS)}


def saved(folder, **values):
    """A tiny model's folder."""
    config = aver_config(**values)
    aver_model(config).save_pretrained(folder)
    AverProcessor.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("openface"), num_action_units=35, feature_identity=OPENFACE)


@pytest.fixture(scope="module")
def recognize(folder):
    return pipeline(TASK, model=str(folder))


@pytest.fixture(scope="module")
def sees(tmp_path_factory):
    """A pipeline whose features are how bright a picture is."""
    identity = {"name": "brightness", "settings": {"corner": 4}, "columns": ["mean", "corner"]}
    folder = saved(tmp_path_factory.mktemp("brightness"), num_action_units=2, feature_identity=identity)
    log = tmp_path_factory.mktemp("log") / "calls.txt"
    return pipeline(TASK, model=str(folder), extractor=Brightness(log))


@pytest.fixture(scope="module")
def clip():
    track = read_openface(SAMPLE_DIR / "OpenFace" / f"{CLIP}.csv")
    return {
        "audio": read_audio(WAV),
        "action_units": track.features,
        "action_units_success": track.success,
        "video_timestamps": track.timestamps,
    }


def scores(answer):
    return {emotion["label"]: emotion["score"] for emotion in answer["emotions"]}


def close(answer, other, atol=1e-5):
    assert scores(answer) == pytest.approx(scores(other), abs=atol)


def test_it_is_registered_and_needs_no_trust_where_the_package_is(recognize):
    assert type(recognize) is EmotionPipeline


def test_the_answer_is_the_model_s(recognize, clip):
    with torch.inference_mode():
        batch = recognize.processor(**clip, sampling_rate=16_000)
        expected = recognize.model(**batch).logits.softmax(-1)[0].tolist()
    answer = recognize(clip)
    assert [emotion["score"] for emotion in answer["emotions"]] == pytest.approx(
        sorted(expected, reverse=True), abs=1e-6
    )
    assert scores(answer) == pytest.approx(dict(zip(recognize.model.config.label2id, expected, strict=True)), abs=1e-6)
    assert answer["streams"] == ["audio", "video"] and answer["face"] == 1.0 and answer["notes"] == []


def test_a_row_of_a_dataset_is_an_input(recognize, clip):
    rows = load_crema_d(SAMPLE_DIR, split="train")
    row = next(row for row in rows if row["utterance_id"] == CLIP)
    close(recognize(row), recognize(clip), atol=1e-4)  # 16-bit sound in the dataset


def test_a_pair_of_numpy_or_torch_is_an_input(recognize, clip):
    even = {"audio": clip["audio"], "action_units": clip["action_units"]}
    close(recognize((clip["audio"], clip["action_units"])), recognize(even))
    close(recognize((torch.tensor(clip["audio"]), torch.tensor(clip["action_units"]))), recognize(even))


def test_sixteen_bit_samples_are_scaled_as_the_processor_scales_them(recognize, clip):
    integers = np.round(clip["audio"] * 32768).astype(np.int16)
    close(recognize({**clip, "audio": integers}), recognize({**clip, "audio": integers / np.float32(32768)}))


def test_sound_and_features_may_be_files(recognize, clip, tmp_path):
    track = read_openface(SAMPLE_DIR / "OpenFace" / f"{CLIP}.csv")
    write_features(tmp_path / "clip.npz", track)
    close(recognize({"audio": str(WAV), "action_units": tmp_path / "clip.npz"}), recognize(clip))
    close(recognize({"audio": WAV.read_bytes(), "action_units": tmp_path / "clip.npz"}), recognize(clip))


def test_a_video_with_a_folder_of_tables_is_an_input(recognize, clip):
    answer = recognize(VIDEO, action_units_folder=str(SAMPLE_DIR / "OpenFace"))
    on_its_clock = {"audio": read_audio(VIDEO), "video_timestamps": read_timestamps(VIDEO)}
    close(answer, recognize({**clip, **on_its_clock}))


def test_sound_alone_answers_and_says_what_is_missing(recognize, clip):
    for source in (str(WAV), WAV.read_bytes()):
        answer = recognize(source, streams="audio")
        close(answer, recognize(clip["audio"]))
        assert answer["streams"] == ["audio"] and answer["face"] is None
    assert recognize(clip["audio"])["notes"] == ["the clip: no features of the face were given."]


def test_a_face_alone_answers_and_says_what_is_missing(recognize, clip):
    answer = recognize({**clip, "audio": None})
    assert answer["streams"] == ["video"] and answer["notes"] == ["the clip: no sound was given."]


def test_a_batch_of_unlike_clips_answers_as_each_alone(recognize, clip):
    half = {name: values[: len(values) // 2] for name, values in clip.items()}
    clips = [clip, clip["audio"], {**clip, "audio": None}, half, clip]
    for together, one in zip(recognize(clips, batch_size=3), clips, strict=True):
        close(together, recognize(one))
        assert together["streams"] == recognize(one)["streams"]


def test_top_k_names_the_likeliest(recognize, clip):
    assert recognize(clip, top_k=2)["emotions"] == recognize(clip)["emotions"][:2]


def test_a_timeline_no_longer_than_a_window_is_the_single_answer(recognize, clip):
    single = recognize(clip)
    answer = recognize(clip, window=5.0, hop=0.5)
    assert [step["start"] for step in answer["timeline"]] == pytest.approx([0.0, 0.5, 1.0, 1.5])
    for step in answer["timeline"]:
        assert step["emotions"] == single["emotions"]
    assert scores(answer) == pytest.approx(scores(single), abs=1e-12)


def test_a_timeline_is_the_same_in_every_batch_size(recognize, clip):
    one, more = (recognize(clip, window=0.8, batch_size=size) for size in (1, 3))
    assert len(one["timeline"]) == len(more["timeline"]) == 10 and one["hop"] == 0.2
    for step, other in zip(one["timeline"], more["timeline"], strict=True):
        assert scores(step) == pytest.approx(scores(other), abs=1e-6)


def test_a_window_answers_as_its_part_of_the_clip_alone(recognize, clip):
    """Windows without overlap: each step is one window's answer, whose clock began at its own start."""
    answer = recognize(clip, window=0.5, hop=0.5)
    inside = (clip["video_timestamps"] >= 1.0) & (clip["video_timestamps"] < 1.5)
    part = {name: values[inside] for name, values in clip.items() if name != "audio"}
    part = {**part, "audio": clip["audio"][16_000:24_000], "video_timestamps": part["video_timestamps"] - 1.0}
    close(answer["timeline"][2], recognize(part))


def test_features_of_another_maker_are_refused(recognize, clip):
    row = {**clip, "utterance_id": "u7", "extractor": "mediapipe", "feature_names": ["a"], "extractor_settings": "{}"}
    with pytest.raises(
        ValueError, match="trained on features of openface .*, but the clip u7 has features of mediapipe"
    ):
        recognize(row)


@pytest.mark.parametrize(
    "source, message",
    [
        (np.zeros((2, 3)), r"An input may be a path.*got ndarray\[2, 3\]"),
        (7, "An input may be a path.*got int"),
        ({"audio": None}, "holds neither `audio` nor `action_units`"),
        ({"action_units": np.zeros((4, 34))}, "must have 35 channels"),
        ({"audio": {"array": np.zeros(99), "sampling_rate": 8000}}, "`sampling_rate` is 8000"),
        ({"audio": np.zeros(16_000), "action_units": np.zeros((300, 35))}, "lasts 10.00 s"),
        ("nowhere.wav", "nowhere.wav cannot be read: No such file"),
    ],
)
def test_what_is_no_recording_is_refused_in_a_line(recognize, source, message):
    with pytest.raises(ValueError, match=message):
        recognize(source, streams="audio" if isinstance(source, str) else "both")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"streams": "sound"}, r"`streams` \('sound'\) may be both, audio, video"),
        ({"hop": 1.0}, r"`hop` \(1.0 s\) goes from one window to the next: give `window`"),
        ({"window": 40.0}, r"`window` \(40.0 s\) must be positive, and 30 s at most"),
    ],
)
def test_options_that_mean_nothing_are_refused_in_a_line(recognize, clip, options, message):
    with pytest.raises(ValueError, match=message):
        recognize(clip, **options)


def test_without_the_extractor_the_choices_are_named(recognize, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("OPENFACE_DIR", raising=False)
    with pytest.raises(
        ExtractorUnavailableError, match="features of openface.*--action-units-folder.*--streams audio"
    ):
        recognize(str(VIDEO))


def test_raw_video_goes_through_the_extractor(sees, tmp_path):
    video = write_video(tmp_path / "clip.mkv", range(0, 1000, 40), sound=tone(1.0))
    answer = sees(str(video))
    assert answer["streams"] == ["audio", "video"] and answer["face"] == 1.0
    close(sees(video.read_bytes()), answer)


def test_a_damaged_video_is_refused_at_once_and_used_as_far_as_it_goes_over_time(sees, tmp_path):
    video = cut(write_video(tmp_path / "clip.mkv", range(0, 2000, 40)))
    with pytest.raises(MediaError, match="clip.mkv ends after .* s of the 2.00 s"):
        sees(video)
    answer = sees(video, window=0.5, extractor=BrightnessInPassing(tmp_path / "calls.txt"))
    assert 0.5 < answer["duration"] < 1.5 and "The stream was used as far as it goes." in " ".join(answer["notes"])


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def address():
    """The folder of sounds, served on the loopback."""
    handler = functools.partial(Files, directory=str(WAV.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_an_address_is_fetched_and_left_nowhere(recognize, clip, address, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    close(recognize(f"{address}/{WAV.name}?a=1", streams="audio"), recognize(clip["audio"]))
    assert not list(tmp_path.iterdir())


def test_a_download_that_grows_too_large_is_stopped(recognize, address, monkeypatch):
    monkeypatch.setattr(pipeline_aver, "MAX_DOWNLOAD", 10_000)
    with pytest.raises(ValueError, match="is larger than 10000 bytes"):
        recognize(f"{address}/{WAV.name}", streams="audio")


def test_an_address_that_is_not_there_is_an_error_of_the_system(recognize, address):
    with pytest.raises(OSError, match="404"):
        recognize(f"{address}/none.wav", streams="audio")


def test_sound_is_decoded_alike_with_and_without_the_package(tmp_path):
    late = write_video(
        tmp_path / "late.mkv", range(0, 400, 40), sound=tone(0.4, rate=44_100, layout="stereo"), sound_start=0.2
    )
    for path in (VIDEO, WAV, late):
        np.testing.assert_array_equal(pipeline_aver._decoded(path, 16_000), read_audio(path))
    np.testing.assert_array_equal(pipeline_aver._decoded(WAV.read_bytes(), 16_000), read_audio(WAV))


STRANGER = """
import json, sys
sys.modules["modeling_aver"] = None
import numpy as np, torch
from transformers import pipeline
folder, clip, wav, again = sys.argv[1:]
recognize = pipeline("audio-visual-emotion-recognition", model=folder, trust_remote_code=True)
with np.load(clip) as file:
    audio, units = file["audio"], file["features"]
inputs = [(audio, units), {"audio": torch.tensor(audio), "action_units": clip}, {"action_units": units}, wav]
answers = recognize(inputs, batch_size=2)
timeline = recognize((audio, units), window=0.5)
recognize.save_pretrained(again)
answers.append(pipeline(model=again, trust_remote_code=True)((audio, units)))
print(json.dumps([answers, timeline]))
"""


@pytest.mark.slow
def test_a_stranger_gets_the_pipeline_by_remote_code(recognize, folder, clip, tmp_path):
    """The other process has transformers, and this package is hidden from it."""
    script, arrays = tmp_path / "stranger.py", tmp_path / "clip.npz"
    script.write_text(STRANGER)
    np.savez(
        arrays,
        audio=clip["audio"],
        features=clip["action_units"],
        success=clip["action_units_success"],
        timestamps=clip["video_timestamps"],
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(script), str(folder), str(arrays), str(WAV), str(tmp_path / "again")]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert run.returncode == 0, run.stderr[-2000:]
    answers, timeline = json.loads(run.stdout)
    pair = (clip["audio"], clip["action_units"])
    for answer, source in zip(answers, [pair, clip, {"action_units": pair[1]}, clip["audio"], pair], strict=True):
        close(answer, recognize(source))
    assert "needs the package modeling-aver" in answers[3]["notes"][0]
    for step, other in zip(timeline["timeline"], recognize(pair, window=0.5)["timeline"], strict=True):
        close(step, other)


def test_the_saved_folder_names_the_pipeline_and_the_installed_configuration_does_not(folder, recognize):
    saved = json.loads((folder / "config.json").read_text())
    assert saved["custom_pipelines"][TASK]["impl"] == "pipeline_aver.EmotionPipeline"
    assert not hasattr(recognize.model.config, "custom_pipelines")
