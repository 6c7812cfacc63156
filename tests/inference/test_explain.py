"""Explanations are what masks and weights say: computed by hand here, and planted where they must be found."""

import json

import numpy as np
import pytest
import torch
from support.commands import aver
from support.models import aver_config, aver_model
from support.saved_models import OPENFACE, TABLES, VIDEOS, saved

from modeling_aver import AverProcessor
from modeling_aver.inference.explain import explain_window
from modeling_aver.pipeline_aver import TASK, EmotionPipeline
from modeling_aver.windows import Recording, whole

RATE = 16_000


def pipeline_of(**values):
    config = aver_config(**values)
    processor = AverProcessor.from_config(config)
    return EmotionPipeline(aver_model(config), processor=processor, task=TASK, device=torch.device("cpu"))


def clip(seconds=1.6, streams=("audio", "video"), features=None):
    generators = np.random.default_rng(0).spawn(2)
    sound = [generators[0].normal(size=round(seconds * RATE)).astype(np.float32)] if "audio" in streams else []
    times = np.arange(0, seconds, 1 / 30)
    features = generators[1].random((len(times), 7)).astype(np.float32) if features is None else features(times)
    faces = list(zip(times.tolist(), features, [True] * len(times), strict=True)) if "video" in streams else []
    return whole(Recording("clip", RATE, sound, faces))


def test_a_hidden_stretch_costs_what_masking_its_frames_costs():
    recognize, window = pipeline_of(), clip()
    explanation = explain_window(recognize, window, occluded=0.5, hop=0.25)
    inputs = recognize._inputs([window], [(True, True)], None)
    answer = recognize.model.config.label2id[explanation.label]
    with torch.inference_mode():
        whole_clip = recognize.model(**inputs)
        seconds = inputs["video_timestamps"][0]
        inputs["action_units_mask"][0, (0.25 <= seconds) & (seconds < 0.75)] = 0
        masked = recognize.model(**inputs)
    before, after = (outputs.logits.softmax(-1)[0, answer].item() for outputs in (whole_clip, masked))
    assert explanation.probability == pytest.approx(before, abs=1e-5)
    assert explanation.occlusion["video"][1] == pytest.approx(before - after, abs=1e-5)
    assert explanation.starts[1] == 0.25 and explanation.ends[-1] == pytest.approx(window.end)


def test_each_stream_alone_is_what_the_model_says_of_it_alone():
    recognize = pipeline_of()
    explanation = explain_window(recognize, clip())
    for stream in ("audio", "video"):
        (score,) = [
            one["score"] for one in recognize(clip(streams=[stream]))["emotions"] if one["label"] == explanation.label
        ]
        assert explanation.streams[stream] == pytest.approx(score, abs=1e-5)


def test_the_stretch_that_made_the_answer_is_found():
    """Concat, whose answer is a mean over frames: a face that moves from 0.8 to 1.1 s, and a class made for that."""
    recognize = pipeline_of(fusion_layers=[], ctm_loss_weight=0.0)
    model = recognize.model
    with torch.no_grad():
        for linear in (model.aver.video_projection, model.aver.audio_projection, model.classifier):
            linear.weight.zero_()
            linear.bias.zero_()
        model.aver.video_projection.weight[0] = 1.0
        model.classifier.weight[2, 0] = 9.0
    window = clip(features=lambda times: np.float32((times > 0.8) & (times < 1.1))[:, None].repeat(7, axis=1))
    explanation = explain_window(recognize, window, occluded=0.4, hop=0.1)
    best = explanation.occlusion["video"].argmax()
    assert explanation.label == model.config.id2label[2]
    assert explanation.starts[best] <= 0.81 and explanation.ends[best] >= 1.09
    assert explanation.occlusion["video"][best] > 0.2 > 10 * np.abs(explanation.occlusion["video"][0])
    assert explanation.attention is None and explanation.alignment is None


@pytest.mark.parametrize(
    ("layers", "share"), [(["ica"], 1.0), (["isa", "ica"], 1.0), (["ica", "isa"], 1.0), (["msa", "msa"], None)]
)
def test_attention_is_that_of_the_last_layer_that_crosses_the_streams(layers, share):
    recognize, window = pipeline_of(fusion_layers=layers), clip()
    attention = explain_window(recognize, window).attention
    inputs = recognize._inputs([window], [(True, True)], None)
    with torch.inference_mode():
        outputs = recognize.model(**inputs, output_attentions=True)
    heard = outputs.audio_mask.shape[1]
    block = {"ica": outputs.attentions[2 * layers.index("ica")] if "ica" in layers else None}
    expected = outputs.attentions[-1][0].mean(0)[:heard, heard:] if "msa" in layers else block["ica"][0].mean(0)
    np.testing.assert_allclose(attention.audio_to_video["last"], expected.numpy(), atol=1e-5)
    if share is not None:
        np.testing.assert_allclose(attention.video_to_audio["last"].sum(axis=1), share, atol=1e-5)


def test_rollout_of_one_layer_is_half_its_attention_for_the_other_half_is_the_residual():
    attention = explain_window(pipeline_of(fusion_layers=["msa"]), clip()).attention
    np.testing.assert_allclose(attention.audio_to_video["rollout"], attention.audio_to_video["last"] / 2, atol=1e-6)


def test_layers_that_keep_to_their_stream_have_no_attention_to_the_other():
    assert explain_window(pipeline_of(fusion_layers=["isa"]), clip()).attention is None


@pytest.mark.parametrize("stream", ["audio", "video"])
def test_a_clip_of_one_stream_is_explained_by_that_one(stream):
    explanation = explain_window(pipeline_of(), clip(streams=[stream]))
    assert list(explanation.occlusion) == [stream] and explanation.attention is None
    assert explanation.streams["both"] == pytest.approx(explanation.streams[stream], abs=1e-5)
    assert np.isfinite(explanation.occlusion[stream]).all()


def test_a_clip_no_longer_than_what_is_hidden_is_refused():
    with pytest.raises(ValueError, match=r"lasts 0.40 s, no longer than what is hidden \(0.5 s\)"):
        explain_window(pipeline_of(), clip(0.4))


@pytest.mark.slow
def test_the_command_writes_pictures_and_numbers(tmp_path):
    model = saved(tmp_path / "model", num_action_units=35, feature_identity=OPENFACE)
    video = str(sorted(VIDEOS.iterdir())[0])
    command = ("explain", video, "--model", model, "--action-units-folder", str(TABLES))
    output = aver(*command, "--out", str(tmp_path / "why"), "--hop", "0.5")
    name = "1001_DFA_ANG_XX"
    assert {path.name for path in (tmp_path / "why").iterdir()} == {
        f"{name}.{ending}" for ending in ("json", "occlusion.png", "attention.png", "alignment.png")
    }
    facts = json.loads((tmp_path / "why" / f"{name}.json").read_text())
    assert f"{name}: {facts['label']}" in output and set(facts["streams"]) == {"both", "audio", "video"}
    assert all(-1 <= one["audio"] <= 1 for one in facts["occlusion"])
    assert 0 < facts["attention"]["audio_to_video"]["last"]["share"] < 1


def test_a_long_clip_is_refused_before_features_of_its_face_are_made(tmp_path):
    from support.media import tone, write_video
    from test_predict import ends_with

    model = saved(tmp_path / "model", num_action_units=35, feature_identity=OPENFACE)
    long = write_video(tmp_path / "long.mkv", range(0, 31_000, 40), sound=tone(31.0))
    command = ("explain", long, "--model", model, "--out", tmp_path / "why")
    result = ends_with(1, *command, "--action-units-folder", TABLES)  # where it has no table, which is never read
    assert (
        "long.mkv is longer than 30 s, the most that is explained at once. Cut out a part: ffmpeg -i" in result.output
    )


@pytest.mark.parametrize("streams", ["audio", "both"])
def test_the_command_explains_a_folder_of_sound_files(streams, tmp_path):
    from support.media import tone, write_sound
    from test_predict import ends_with

    model = saved(tmp_path / "model", num_action_units=35, feature_identity=OPENFACE)
    (tmp_path / "sounds").mkdir()
    write_sound(tmp_path / "sounds" / "a.wav", tone(1.0))
    command = ("explain", tmp_path / "sounds", "--model", model, "--out", tmp_path / "why", "--streams", streams)
    ends_with(0, *command, "--action-units-folder", TABLES, "--hop", "0.5")
    assert list(json.loads((tmp_path / "why" / "a.json").read_text())["streams"]) == ["both", "audio"]
