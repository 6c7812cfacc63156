"""The transformers pipeline: every kind of input, both kinds of users, one answer."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from types import SimpleNamespace

import av
import datasets
import numpy as np
import pytest
import soundfile
import torch
from support.fake_extractor import Brightness, BrightnessInPassing
from support.media import cut, tone, write_video
from support.models import aver_config, aver_model
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from datasets_scripts import SAMPLE_DIR, load_crema_d
from modeling_aver import AverFeatureExtractor, AverProcessor, EmotionPipeline, pipeline_aver, processing_aver
from modeling_aver.analysis.dynamics import alignments
from modeling_aver.features.base import ExtractorUnavailableError
from modeling_aver.features.openface_csv import ACTION_UNITS, read_openface
from modeling_aver.features.tables import write_features
from modeling_aver.io.media import MediaError, read_audio, read_timestamps

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


def test_top_k_beyond_the_labels_is_all_of_them(folder, recognize, clip):
    everything, labels = recognize(clip)["emotions"], recognize.model.config.num_labels
    assert len(everything) == labels
    for top_k in (None, labels, labels + 1, np.int64(1000)):
        assert recognize(clip, top_k=top_k)["emotions"] == everything
    likeliest = pipeline(TASK, model=str(folder), top_k=1)
    assert likeliest(clip)["emotions"] == everything[:1]
    assert likeliest(clip, top_k=None)["emotions"] == everything


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "2", True])
def test_a_top_k_that_names_no_emotion_is_refused(recognize, clip, top_k):
    with pytest.raises(ValueError, match=rf"`top_k` \({top_k!r}\) must be a whole number of at least 1, or None"):
        recognize(clip, top_k=top_k)


def samples_of(waveform, rate):
    """torchcodec's `AudioDecoder` as `datasets` gives it, which needs an ffmpeg of the system."""
    samples = SimpleNamespace(data=torch.tensor(waveform)[None], sample_rate=rate)
    return SimpleNamespace(get_all_samples=lambda: samples)


FORMS = {
    "array": lambda wave: {"array": wave, "sampling_rate": 16_000},
    "raw": lambda wave: {"raw": wave, "sampling_rate": 16_000},
    "old datasets": lambda wave: {"path": "clip.wav", "array": wave, "sampling_rate": 16_000},
    "tensor": lambda wave: {"array": torch.tensor(wave), "sampling_rate": 16_000},
    "bytes": lambda wave: {"bytes": WAV.read_bytes(), "path": None},
    "bytes with a name": lambda wave: {"bytes": WAV.read_bytes(), "path": "elsewhere/.."},
    "path": lambda wave: {"bytes": None, "path": str(WAV)},
    "decoder": lambda wave: samples_of(wave, 16_000),
    "stereo": lambda wave: np.stack([wave + 0.1, wave - 0.1]),
    "one channel": lambda wave: torch.tensor(wave)[None],
    "file": lambda wave: WAV,
}


@pytest.mark.parametrize("form", FORMS)
def test_sound_comes_in_every_form_of_transformers_and_datasets(recognize, clip, form):
    sound, expected = FORMS[form](clip["audio"]), recognize(clip["audio"])
    answer = recognize(sound)
    close(answer, expected)
    assert answer["streams"] == ["audio"]
    close(recognize({"audio": sound}), expected)
    both = {name: values for name, values in clip.items() if name != "audio"}
    close(recognize({"audio": sound, **both}), recognize(clip))


def test_the_caller_s_dict_stays_as_it_was(recognize, clip):
    given = {"raw": clip["audio"], "sampling_rate": 16_000}
    recognize(given)
    assert list(given) == ["raw", "sampling_rate"]


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_a_resampled_array_is_what_a_file_of_the_same_samples_is(recognize, rate, tmp_path):
    seconds = np.arange(rate) / rate
    wave = (0.4 * np.sin(2 * np.pi * 300 * seconds**2 + 1)).astype(np.float32)
    soundfile.write(tmp_path / "clip.wav", wave, rate, subtype="FLOAT")
    answer = recognize({"array": wave, "sampling_rate": rate})
    close(answer, recognize(str(tmp_path / "clip.wav")), atol=1e-7)
    close(answer, recognize({"audio": wave, "sampling_rate": float(rate)}), atol=1e-7)
    stereo = np.stack([wave, wave])
    close(answer, recognize({"raw": stereo.astype(np.float64), "sampling_rate": np.int64(rate)}), atol=1e-7)
    assert answer["duration"] == pytest.approx(1.0, abs=1e-3)


def test_resampling_keeps_a_tone_and_removes_what_would_alias():
    def tone_at(hertz, rate):
        return np.sin(2 * np.pi * hertz * np.arange(rate) / rate).astype(np.float32)

    inner = slice(400, -400)
    kept, removed = (processing_aver._resampled(tone_at(hz, 44_100), 44_100, 16_000, "tone") for hz in (1000, 12_000))
    np.testing.assert_allclose(kept[inner], tone_at(1000, 16_000)[inner], atol=1e-4)
    assert len(kept) == 16_000 and abs(removed[inner]).max() < 1e-3


@pytest.fixture(scope="module")
def rows():
    return load_crema_d(SAMPLE_DIR, split="train")


def test_whole_datasets_are_inputs_and_are_answered_lazily(recognize, rows):
    rows = rows.select(range(3))
    expected = [recognize(row) for row in rows]
    for source, size in ((rows, 1), (rows, 2), (rows.to_iterable_dataset(), 2), ((row for row in rows), 2)):
        answers = recognize(source, batch_size=size)
        assert not isinstance(answers, list)
        for answer, one in zip(answers, expected, strict=True):
            close(answer, one)


def test_a_column_of_a_dataset_is_an_input(recognize, rows):
    rows = rows.select(range(3))
    expected = [recognize(row["audio"]) for row in rows]
    for source in (KeyDataset(rows, "audio"), (row["audio"] for row in rows), [row["audio"] for row in rows]):
        for answer, one in zip(recognize(source, batch_size=2), expected, strict=True):
            close(answer, one)


def test_a_dataset_of_arrays_with_a_path_column_is_an_input(recognize, clip):
    wave, path = clip["audio"], "no/such/file.wav"
    dataset = datasets.Dataset.from_list([{"audio": {"array": wave, "sampling_rate": 16_000}, "path": path}] * 2)
    for answer in recognize(dataset.with_format("numpy"), batch_size=2):
        close(answer, recognize(wave))


def test_rows_that_torchcodec_decodes_are_inputs(recognize, rows, clip):
    try:
        import torchcodec  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        pytest.skip("waits for torchcodec with the ffmpeg libraries of the system")
    decoded, row = rows.cast_column("audio", datasets.Audio()), [row["utterance_id"] for row in rows].index(CLIP)
    assert hasattr(decoded[row]["audio"], "get_all_samples")
    for source in (decoded, KeyDataset(decoded, "audio")):
        answer = list(recognize(source, batch_size=2))[row]
        close(answer, recognize(clip if source is decoded else clip["audio"]), atol=1e-4)
    resampled = decoded.cast_column("audio", datasets.Audio(sampling_rate=44_100))[row]["audio"]
    close(recognize(resampled), recognize(clip["audio"]), atol=1e-2)
    batch = recognize.processor(audio=[decoded[row]["audio"]])
    torch.testing.assert_close(
        batch["input_values"], recognize.processor(clip["audio"])["input_values"], atol=1e-3, rtol=0
    )


def test_the_alignment_is_that_of_the_model_s_embeddings(recognize, clip):
    batch = recognize.processor(**clip, sampling_rate=16_000)
    with torch.inference_mode():
        (expected,) = alignments(recognize.model(**batch))
    assert "alignment" not in recognize(clip)
    (alone,) = recognize(clip, return_alignment=True)["alignment"]
    half = {name: values[: len(values) // 2] for name, values in clip.items()}
    together = recognize([half, clip, clip["audio"]], return_alignment=True, batch_size=3)
    assert together[2]["alignment"] == [None]
    for found in (alone, *together[1]["alignment"]):
        np.testing.assert_allclose(found["similarity"], expected.similarity, atol=1e-4)
        np.testing.assert_allclose(found["audio_timestamps"], expected.audio_timestamps, atol=1e-5)
        np.testing.assert_allclose(found["video_timestamps"], expected.video_timestamps, atol=1e-5)


def test_the_alignment_of_windows_is_on_the_clock_of_the_recording(recognize, clip):
    answer = recognize(clip, window=0.5, hop=0.5, return_alignment=True)
    starts = [found["start"] for found in answer["alignment"]]
    assert starts == pytest.approx([0.0, 0.5, 1.0, 1.5])
    for found in answer["alignment"]:
        assert found["similarity"].shape == (len(found["audio_timestamps"]), len(found["video_timestamps"]))
        for seconds in (found["audio_timestamps"], found["video_timestamps"]):
            assert (found["start"] <= seconds).all() and (seconds < found["end"]).all()


def test_a_model_without_matching_has_no_alignment(tmp_path, clip):
    recognize = pipeline(TASK, model=str(saved(tmp_path, num_action_units=35, ctm_loss_weight=0.0)))
    with pytest.raises(ValueError, match="`return_alignment` needs a model trained with .* `ctm_loss_weight` is 0"):
        recognize(clip, return_alignment=True)


def test_no_inputs_have_no_answers(recognize):
    assert recognize([]) == []


def test_the_extractor_runs_once_for_an_input(recognize, clip, monkeypatch):
    calls, extract = [], AverFeatureExtractor._audio_inputs
    monkeypatch.setattr(
        AverFeatureExtractor, "_audio_inputs", lambda *values: calls.append(len(values[2])) or extract(*values)
    )
    recognize(clip)
    assert calls == [len(clip["audio"])]


@pytest.mark.parametrize("window", [None, 1.0])
def test_a_sound_file_needs_no_extractor(recognize, clip, monkeypatch, tmp_path, window):
    monkeypatch.setattr("modeling_aver.inference.faces.find_faces", None)
    answer = recognize(str(WAV), window=window)
    assert answer["streams"] == ["audio"] and answer["face"] is None
    assert answer["notes"] == [f"{WAV.name} has no picture: only its sound is used."]
    close(answer, recognize(clip["audio"], window=window))
    with pytest.raises(ValueError, match=f"{WAV.name} has no picture, but `streams` is 'video'"):
        recognize(WAV, streams="video")


def test_the_cover_of_a_song_is_no_picture(recognize, clip, tmp_path):
    with av.open(str(tmp_path / "song.mp3"), "w") as container:
        cover = container.add_stream("png", width=8, height=8, pix_fmt="rgb24")
        cover.disposition = av.stream.Disposition.attached_pic
        sound = container.add_stream("libmp3lame", rate=16_000, layout="mono", format="s16p")
        picture = av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8))
        container.mux(cover.encode(picture) + cover.encode())
        frame = av.AudioFrame.from_ndarray((clip["audio"][None] * 32767).astype(np.int16), "s16p", "mono")
        frame.sample_rate = 16_000
        container.mux(sound.encode(frame) + sound.encode())
    with av.open(str(tmp_path / "song.mp3")) as container:
        assert len(container.streams.video) == 1
    assert recognize(tmp_path / "song.mp3")["notes"] == ["song.mp3 has no picture: only its sound is used."]


def test_a_table_goes_with_a_sound_file_too(recognize, clip):
    answer = recognize(WAV, action_units_folder=str(SAMPLE_DIR / "OpenFace"))
    assert answer["streams"] == ["audio", "video"]
    close(answer, recognize(clip))


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


WAVE = np.zeros(16_000, np.float32)
WRONG = {
    "None": (None, r"the clip is of type NoneType \(None\), but an input may be a path"),
    "a number": (7, r"the clip is of type int \(7\), but an input may be a path"),
    "a dict of other keys": ({"text": 1, "lang": 2}, "the clip is a dict with the keys text, lang"),
    "an empty dict": ({}, r"the clip is a dict with the keys \(none\)"),
    "neither stream": ({"audio": None}, "the clip holds neither `audio` nor `action_units`"),
    "no sampling rate": ({"array": WAVE}, "`audio` of the clip is a dict with samples, which also needs"),
    "no content": ({"bytes": None, "path": None}, "dict with the keys bytes, path: it needs `array` or `raw`"),
    "a path that is none": ({"path": 7}, "dict with the keys path: it needs `array` or `raw`"),
    "an empty array": (np.zeros(0), r"`audio` of the clip must be one row of samples \(mono\), but has shape \(0,\)"),
    "samples first": (
        np.zeros((16_000, 2)),
        r"has shape \(16000, 2\). Stereo is \(channels, num_samples\): transpose",
    ),
    "three dimensions": (np.zeros((1, 1, 99)), r"has shape \(1, 1, 99\)"),
    "NaN": (np.full(99, np.nan), "`audio` of the clip must be finite, but 99 of its 99 values are NaN"),
    "beyond float32": ({"array": np.full(99, 1e300), "sampling_rate": 8_000}, "must be finite, but 99 of its 99"),
    "an array of words": (np.array(["a", "b"]), "`audio` of the clip must be numbers in rows .* an array of <U1"),
    "rate of words": ({"array": WAVE, "sampling_rate": "44.1 kHz"}, r"\('44.1 kHz'\) must be a positive whole number"),
    "rate of nothing": ({"array": WAVE, "sampling_rate": 0}, r"`sampling_rate` of `audio` of the clip \(0\) must be"),
    "too short": (np.zeros((2, 3)), "neither sound nor a face to go by. the clip: 3 samples are too few"),
    "in a list": ([WAVE, np.full(9, np.inf)], "`audio` of clip 1 must be finite, but 9 of its 9"),
    "in a generator": ((wave for wave in (WAVE, None)), r"clip 1 is of type NoneType \(None\), but an input may be"),
    "34 columns": ({"action_units": np.zeros((4, 34))}, "must have 35 channels .*, but the clip has 34"),
    "another length": (
        {"audio": WAVE, "action_units": np.zeros((300, 35)), "utterance_id": "u7"},
        "`action_units` of u7 lasts 10.00 s at 30.0 Hz .* but its `audio` lasts 1.00 s",
    ),
    "no file": ("nowhere.wav", r"'nowhere.wav' \(the clip\) is neither an existing file nor an http\(s\) address"),
    "no word": ("", r"'' \(the clip\) is neither an existing file"),
    "another protocol": ("s3://bucket/clip.wav", "'s3://bucket/clip.wav' .* is neither an existing file"),
    "a folder": (str(SAMPLE_DIR), "is not a file. Pass the files themselves, as a list"),
    "no file of a dict": ({"bytes": None, "path": "nowhere.wav"}, "'nowhere.wav' .* is neither an existing file"),
    "no file of a row": ({"audio": "nowhere.wav"}, "nowhere.wav cannot be read: No such file"),
    "no media": (b"no media at all", "recording cannot be decoded"),
    "no bytes": (b"", "recording is empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_recording_is_refused_in_a_line(recognize, case):
    source, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as caught:
        list(recognize(source))
    assert "\n" not in str(caught.value)


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


def test_an_address_is_fetched_for_a_stream_too(recognize, clip, address):
    close(recognize({**clip, "audio": f"{address}/{WAV.name}"}), recognize(clip))


@pytest.mark.parametrize(
    "place, reason",
    [
        ("{address}/none.wav", "HTTP Error 404: File not found"),
        ("{closed}/none.wav", ".*[Rr]efused"),
        ("http://no-such-host.invalid/a.wav", ""),
        ("http://[::1/a.wav", ""),
        ("http://127.0.0.1:port/a.wav", ""),
        ("http://", ""),
    ],
)
def test_an_address_that_is_not_there_is_named_in_a_line(recognize, address, place, reason):
    with http.server.HTTPServer(("127.0.0.1", 0), Files) as server:
        closed = f"http://127.0.0.1:{server.server_address[1]}"
    place = place.format(address=address, closed=closed)
    with pytest.raises(OSError) as caught:
        recognize(place)
    assert str(caught.value).startswith(f"{place} cannot be fetched: ") and "\n" not in str(caught.value)
    assert re.search(reason, str(caught.value))


def test_a_download_that_breaks_off_is_no_shorter_clip(recognize, monkeypatch, address):
    size = WAV.stat().st_size
    monkeypatch.setattr(Files, "copyfile", lambda self, source, output: output.write(source.read(size // 2)))
    with pytest.raises(OSError, match=f"{WAV.name} ended after {size // 2} of {size} bytes"):
        recognize(f"{address}/{WAV.name}")


def test_sound_is_decoded_alike_with_and_without_the_package(tmp_path):
    late = write_video(
        tmp_path / "late.mkv", range(0, 400, 40), sound=tone(0.4, rate=44_100, layout="stereo"), sound_start=0.2
    )
    for path in (VIDEO, WAV, late):
        np.testing.assert_array_equal(processing_aver._decoded(path, 16_000), read_audio(path))
    np.testing.assert_array_equal(processing_aver._decoded(WAV.read_bytes(), 16_000), read_audio(WAV))


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
inputs += [{"array": np.repeat(audio, 2), "sampling_rate": 32_000}, {"bytes": open(wav, "rb").read(), "path": None}]
answers = recognize(inputs, batch_size=2)
timeline = recognize((audio, units), window=0.5)
recognize.save_pretrained(again)
answers.append(pipeline(model=again, trust_remote_code=True)((audio, units)))
for name in [name for name in sys.modules if name == "av" or name.startswith("av.")]:
    del sys.modules[name]
sys.modules["av"] = None
answers.append(recognize({"raw": audio, "sampling_rate": 16_000}))
for source in ({"array": audio, "sampling_rate": 44_100}, wav):
    try:
        recognize(source)
    except ImportError as error:
        answers.append(str(error))
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
    pair, sound = (clip["audio"], clip["action_units"]), clip["audio"]
    doubled = {"array": np.repeat(sound, 2), "sampling_rate": 32_000}
    sources = [pair, clip, {"action_units": pair[1]}, sound, doubled, sound, pair, sound]
    for answer, source in zip(answers, sources, strict=False):
        close(answer, recognize(source))
    assert answers[3]["notes"] == [f"{WAV.name} has no picture: only its sound is used."]
    assert answers[len(sources) :] == [
        "`audio` of the clip has 44100 Hz and is resampled to 16000 Hz, which needs PyAV: pip install av",
        f"{WAV.name} is a media file, which needs PyAV: pip install av",
    ]
    for step, other in zip(timeline["timeline"], recognize(pair, window=0.5)["timeline"], strict=True):
        close(step, other)


def test_the_saved_folder_names_the_pipeline_and_the_installed_configuration_does_not(folder, recognize):
    saved = json.loads((folder / "config.json").read_text())
    assert saved["custom_pipelines"][TASK]["impl"] == "pipeline_aver.EmotionPipeline"
    assert not hasattr(recognize.model.config, "custom_pipelines")
