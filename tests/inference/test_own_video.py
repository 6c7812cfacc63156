"""Real video from the file to the answer: MediaPipe's features, a pretrained speech encoder, six clips made anew."""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import SHARED
from support.reencoded_media import CLIPS, RATE, at_rate, clip, joined, remake, unevenly

from modeling_aver import AverConfig, AverFeatureExtractor, AverForEmotionClassification, AverProcessor
from modeling_aver.features.clips import find_clips
from modeling_aver.features.extraction import extract_clips, find_extractor
from modeling_aver.features.mediapipe import MODEL_VARIABLE
from modeling_aver.inference.faces import FacesOfExtractor, find_faces
from modeling_aver.inference.predict import load_pipeline, predict_clips
from modeling_aver.io.media import read_audio

pytestmark = pytest.mark.slow
README = Path(__file__).parents[2] / "README.md"
NEEDED = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
EMOTIONS = ["anger", "disgust", "fear", "happy", "neutral", "sad"]


@pytest.fixture(scope="module")
def recognize(tmp_path_factory):
    """A pipeline that has learnt the six real clips from MediaPipe's features and a frozen pretrained encoder."""
    pytest.importorskip("mediapipe", reason='waits for pip install "modeling-aver[mediapipe]"', exc_type=ImportError)
    if not SHARED.is_dir():
        pytest.skip("waits for the development material in ../shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MODEL_VARIABLE, str(SHARED / "models" / "face_landmarker.task"))
        yield load_pipeline(_fitted(SHARED / "models" / "whisper-tiny-encoder", tmp_path_factory.mktemp("model")))


def _fitted(encoder, folder):
    extractor = find_extractor("mediapipe")
    tracks, sounds = [extractor.extract(path) for path in CLIPS], [read_audio(path) for path in CLIPS]
    identity = extractor.identity.to_dict()
    features = AverFeatureExtractor.from_audio_pretrained(encoder, num_action_units=52, feature_identity=identity)
    features.fit_action_units([track.features for track in tracks])
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "dropout": 0.0}
    config = AverConfig(num_action_units=52, feature_identity=identity, **sizes)
    model = AverForEmotionClassification.from_audio_pretrained(encoder, config)
    batch = features(
        sounds,
        [track.features for track in tracks],
        video_timestamps=[track.timestamps for track in tracks],
        sampling_rate=16_000,
    )
    heard = {name: batch.pop(name) for name in ("input_features", "attention_mask")}
    with torch.no_grad():
        batch["audio_frames"], batch["audio_frames_mask"] = model.base_model.encode_audio(**heard)
    model.freeze_audio_encoder()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    for _ in range(40):
        model(**batch, labels=torch.arange(6)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    AverProcessor(features).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def unseen(recognize, tmp_path_factory):
    """16 videos of 0.7 to 2.2 s that are in no training, and their features: mirrored faces with other voices."""
    from support.models import SHARED

    folder = tmp_path_factory.mktemp("unseen")
    voices = sorted(
        (SHARED / "data" / "ravdess" / "Audio_Speech_Actors_01-24").glob("Actor_*/03-01-*-02-01-01-*.flac")
    )
    (folder / "videos").mkdir()
    for index, seconds in enumerate(np.random.default_rng(0).permutation(np.linspace(0.7, 2.2, 16))):
        frames = [(second, pixels[:, ::-1].copy()) for second, pixels in clip(index % 6)[0] if second < seconds]
        voice = read_audio(voices[index * len(voices) // 16])
        sound = voice[8_000:][: round(seconds * RATE)]  # after the silence at the beginning
        remake(folder / "videos" / f"{index:02d}.mp4", frames, sound)
    extractor, found = find_extractor("mediapipe"), find_clips([folder / "videos"])
    extract_clips(extractor, found, folder / "tables", workers=0)
    return folder


@pytest.fixture(scope="module")
def exported(recognize, unseen, tmp_path_factory):
    """A scratch folder where README's commands ran on `MODEL` and `clip.mp4`, and what they printed."""
    if NEEDED:
        pytest.skip(f"waits for {', '.join(NEEDED)}")
    folder = tmp_path_factory.mktemp("scratch")
    shutil.copytree(recognize.model.name_or_path, folder / "MODEL")
    shutil.copy(unseen / "videos" / "00.mp4", folder / "clip.mp4")
    lines = [line.partition("#")[0] for line in README.read_text(encoding="utf-8").splitlines()]
    commands = [line for line in lines if line.startswith("aver export onnx") or "--model exported" in line]
    assert len(commands) == 2
    return folder, [as_printed(command, folder) for command in commands]


def as_printed(command, folder):
    """What a command of README prints, typed in `folder`."""
    words = [sys.executable, "-m", "modeling_aver.cli.main", *shlex.split(command)[1:]]
    options = {"cwd": folder, "capture_output": True, "text": True, "timeout": 600}
    done = subprocess.run(words, env={**os.environ, "COLUMNS": "200"}, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def scores(answer):
    return {emotion["label"]: emotion["score"] for emotion in answer["emotions"]}


def test_the_six_clips_it_was_trained_on_are_known(recognize, tmp_path):
    faces = FacesOfExtractor(find_extractor("mediapipe"))
    predictions = predict_clips(recognize, find_clips([CLIPS[0].parent]), faces, tmp_path, batch_size=4)
    assert [predictions.done[path.stem]["label"] for path in CLIPS] == EMOTIONS
    assert all(one["face"] == 1.0 and not one["notes"] for one in predictions.done.values())


@pytest.mark.parametrize("index", [0, 3])
def test_other_frame_rates_give_the_same_answer(recognize, tmp_path, index):
    frames, sound = clip(index)
    expected = recognize(CLIPS[index])
    rates = {rate: at_rate(frames, rate) for rate in (25, 30_000 / 1001, 30, 60)}
    for name, changed in {**rates, "variable": unevenly(frames)}.items():
        answer = recognize(remake(tmp_path / f"{index}-{name}.mkv", changed, sound))
        assert answer["emotions"][0]["label"] == expected["emotions"][0]["label"] == EMOTIONS[index], name
        assert scores(answer) == pytest.approx(scores(expected), abs=0.05), name


def test_a_timeline_of_a_real_clip_no_longer_than_a_window_is_the_single_answer(recognize):
    single, answer = recognize(CLIPS[2]), recognize(CLIPS[2], window=3.0)
    assert all(step["emotions"] == single["emotions"] for step in answer["timeline"])


def test_clips_joined_are_told_apart_over_time(recognize, tmp_path):
    answer = recognize(remake(tmp_path / "joined.mp4", *joined(12.0)), window=2.0, hop=0.5, batch_size=8)
    middles = [next(step for step in answer["timeline"] if step["end"] > 2 * turn + 1) for turn in range(6)]
    assert [step["emotions"][0]["label"] for step in middles] == EMOTIONS
    assert answer["duration"] == pytest.approx(12.0, abs=0.1) and answer["face"] == 1.0


def test_a_shaken_middle_is_answered_or_refused_in_a_line(recognize, tmp_path):
    path = remake(tmp_path / "clip.mp4", *clip(1))
    content = bytearray(path.read_bytes())
    middle = slice(len(content) * 2 // 5, len(content) * 3 // 5)
    content[middle] = np.random.default_rng(0).integers(0, 256, len(content[middle]), dtype=np.uint8).tobytes()
    path.write_bytes(bytes(content))
    predictions = predict_clips(recognize, find_clips([path]), FacesOfExtractor(find_extractor("mediapipe")))
    (reason,) = predictions.failed.values()
    assert reason.startswith("clip.mp4 ") and "\n" not in reason


def test_black_pictures_answer_by_the_sound_and_say_so(recognize, tmp_path):
    frames, sound = clip(1)
    black = [(seconds, np.zeros_like(pixels)) for seconds, pixels in frames]
    answer = recognize(remake(tmp_path / "black.mp4", black, sound))
    assert answer["streams"] == ["audio"] and answer["face"] == 0.0
    assert answer["notes"] == [f"No face was found in {len(black)} pictures."]


def test_black_pictures_without_sound_are_refused_in_a_line(recognize, tmp_path):
    black = [(seconds, np.zeros_like(pixels)) for seconds, pixels in clip(1)[0][:20]]
    with pytest.raises(ValueError, match="black.mp4 has neither sound nor a face to go by.*has no sound.*No face"):
        recognize(remake(tmp_path / "black.mp4", black, None))


def test_two_faces_answer_by_one_of_them(recognize, tmp_path):
    frames, sound = clip(0)
    both = [(seconds, np.concatenate([pixels, pixels[:, ::-1]], axis=1)) for seconds, pixels in frames]
    answer = recognize(remake(tmp_path / "two.mp4", both, sound))
    assert answer["streams"] == ["audio", "video"] and answer["face"] == 1.0


def test_a_third_of_a_second_answers(recognize, tmp_path):
    frames, sound = clip(0)
    answer = recognize(remake(tmp_path / "short.mp4", frames[:9], sound[:4800]))
    assert answer["streams"] == ["audio", "video"] and answer["duration"] == pytest.approx(0.3, abs=0.1)


def test_the_command_answers_a_video_that_is_longer_than_the_encoder_reads(recognize, tmp_path):
    from test_predict import ends_with, predictions_in

    path = remake(tmp_path / "interview.mp4", *joined(32.0))
    model, out = recognize.model.config.name_or_path, tmp_path / "answers"
    file = SHARED / "models" / "face_landmarker.task"
    ends_with(0, "predict", path, CLIPS[0], "--model", model, "--out", out, "--face-landmarker", file)
    answers = predictions_in(out)
    assert answers[CLIPS[0].stem]["label"] == "anger" and answers[CLIPS[0].stem]["notes"] == []
    assert answers["interview"]["notes"][0].startswith("Longer than 30 s: the answer is the mean over windows")
    assert answers["interview"]["face"] == 1.0 and answers["interview"]["duration"] == pytest.approx(32.0, abs=0.1)
    assert max(answers["interview"]["probabilities"].values()) < 0.5, "six emotions in turn have no one answer"


def test_readme_s_commands_export_to_int8_and_predict_by_the_exported_folder(exported):
    folder, (export, predict) = exported
    report = json.loads((folder / "exported" / "export.json").read_text())["agreement"]
    assert "int8: the same label for " in export and report["num_clips"] == 30
    assert "the sound of one with the face (mediapipe) of another, in batches of 8" in export
    assert "is not known" in export  # no results.json beside this model
    assert any(emotion in predict for emotion in EMOTIONS) and "clip" in predict


@pytest.mark.parametrize("batch_size", [2, 8])
def test_int8_answers_for_unseen_clips_in_batches_are_those_alone(exported, unseen, batch_size):
    """16 clips of mixed lengths: the same labels, and probabilities that differ by less than 0.02."""
    recognize, found = load_pipeline(str(exported[0] / "exported")), find_clips([unseen / "videos"])
    faces = find_faces(recognize.processor.feature_extractor, unseen / "tables")
    alone = predict_clips(recognize, found, faces, batch_size=1).done
    batched = predict_clips(recognize, found, faces, batch_size=batch_size).done
    assert len(alone) == len(batched) == 16 and all(len(one["streams"]) == 2 for one in alone.values())
    for name, one in alone.items():
        assert batched[name]["label"] == one["label"]
        assert batched[name]["probabilities"] == pytest.approx(one["probabilities"], abs=0.02)


def test_int8_keeps_the_labels_of_unseen_clips(recognize, exported, unseen, tmp_path):
    clips = f"--agreement-clips {unseen / 'videos'} --action-units-folder {unseen / 'tables'}"
    output = as_printed(f"aver export onnx MODEL --out {tmp_path} --quantize int8 {clips}", exported[0])
    report = json.loads((tmp_path / "export.json").read_text())["agreement"]
    assert f"int8 was compared on 16 of 16 clips in {unseen / 'videos'}" in output
    assert report["num_clips"] == 16 and report["changed_labels"] == 0 and report["batch_change"] < 0.02
