"""An exported model is the model: the same logits over lengths and masks, the same answers for real clips."""

import importlib.util
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from support.commands import aver
from support.models import aver_config, aver_model
from support.saved_models import OPENFACE, TABLES, VIDEOS, saved

from modeling_aver import AverProcessor
from modeling_aver.export import exporter as export
from modeling_aver.export.agreement import check_agreement, own_material, sample_material, samples_were_trained_on
from modeling_aver.export.exporter import _example, _parity, export_onnx, export_torch
from modeling_aver.inference.onnx_model import OnnxModel, complete, input_names, runtime_of, separate_clips
from modeling_aver.inference.predict import load_pipeline

NEEDED = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(NEEDED), reason=f"waits for {', '.join(NEEDED)}")
RICH = {  # what a configuration may add to the paper's model
    "audio_layers": [0, 2],
    "audio_pooling_stride": 2,
    "audio_normalization": "standardize",
    "fusion_layers": ["isa", "ica"],
}


@pytest.mark.parametrize("encoder", ["wav2vec2-layer", "whisper", "wav2vec2-bert"])
def test_zeros_under_a_mask_of_zeros_stand_in_for_a_stream_that_is_absent(encoder):
    """What an export is given in place of a missing stream changes no logits of the model itself."""
    config = aver_config(encoder, **RICH)
    model = aver_model(config)
    for seconds, num_frames in ((0.5, 0), (0.0, 12)):
        inputs = _example(config, 2, seconds, num_frames)
        filled = complete(config, inputs)
        assert list(filled) == input_names(config)
        with torch.inference_mode():
            torch.testing.assert_close(model(**filled).logits, model(**inputs).logits, atol=1e-5, rtol=0)


def test_an_export_has_no_place_for_kept_frames_and_needs_a_stream():
    config = aver_config()
    with pytest.raises(ValueError, match="An exported model takes input_values, .*; not audio_frames"):
        complete(config, {"audio_frames": torch.zeros(1, 3, 1, 24)})
    with pytest.raises(ValueError, match="Neither `input_values` nor `action_units`"):
        complete(config, {"attention_mask": torch.ones(1, 3)})


@pytest.mark.parametrize("error", [2e-4, float("nan")])
def test_logits_that_differ_are_refused(error):
    model = aver_model(aver_config())
    with pytest.raises(ValueError, match=r"logits differ from the model's by .* more than the allowed 1e-04"):
        _parity(model, lambda **inputs: model(**inputs).logits + error)


def test_unknown_words_are_refused_and_a_folder_without_a_model_is_told(tmp_path):
    config = aver_config()
    with pytest.raises(ValueError, match=r"`quantize` \('int4'\) may be int8"):
        export_onnx(aver_model(config), AverProcessor.from_config(config), tmp_path, "int4")
    with pytest.raises(ValueError, match=r"`runtime` \('tensorrt'\) may be auto, torch, onnx"):
        load_pipeline(str(tmp_path), runtime="tensorrt")
    if not NEEDED:
        with pytest.raises(OSError, match="There is no .*model.onnx. aver export onnx"):
            load_pipeline(str(tmp_path), runtime="onnx")


def test_without_the_packages_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = aver_config()
    with pytest.raises(ImportError, match=r'needs onnx, onnxscript, onnxruntime: pip install "modeling-aver\[onnx\]"'):
        export_onnx(aver_model(config), AverProcessor.from_config(config), tmp_path)


def _made_up_clips(extractor, count=16, seed=0):
    """(sound, features, success) of clips of 0.1 to 0.9 s; some lack a stream, one has large action units."""
    generator, clips = np.random.default_rng(seed), []
    for index, seconds in enumerate(generator.permutation(np.linspace(0.1, 0.9, count))):
        sound = generator.normal(size=round(seconds * 16_000)).astype(np.float32)
        units = generator.random((max(round(seconds * 30), 1), extractor.num_action_units))
        success = generator.random(len(units)) > 0.2
        units, success = units * (50 if index == 3 else 1), success | (np.arange(len(units)) == 0)
        clips.append((None if index == 5 else sound, *((None, None) if index == 9 else (units, success))))
    return clips


def _collated(extractor, clips):
    extractor.duration_tolerance = 10.0
    return dict(extractor(*map(list, zip(*clips, strict=True)), sampling_rate=16_000))


@pytest.mark.parametrize("encoder", ["wav2vec2-layer", "whisper", "wav2vec2-bert"])
def test_clips_of_a_batch_are_separated_into_what_each_is_alone(encoder):
    config = aver_config(encoder)
    extractor = AverProcessor.from_config(config).feature_extractor
    clips = _made_up_clips(extractor)
    together = list(separate_clips(config, _collated(extractor, clips)))
    assert len(together) == len(clips)
    for clip, separated in zip(clips, together, strict=True):
        (alone,) = separate_clips(config, _collated(extractor, [clip]))
        for name, values in alone.items():
            torch.testing.assert_close(separated[name], values, atol=0, rtol=0)


def test_sound_shorter_than_one_frame_is_left_out_of_a_separated_clip():
    config = aver_config()
    inputs = _example(config, 2, 0.5, 10)
    inputs["attention_mask"][1, config.min_audio_inputs - 1 :] = 0
    _, short = separate_clips(config, inputs)
    assert not short["attention_mask"].any() and short["action_units_mask"].any()
    inputs["action_units_mask"][1] = 0
    with pytest.raises(ValueError, match="Neither `input_values` nor `action_units`"):
        list(separate_clips(config, inputs))


@pytest.mark.parametrize(
    "files, expected",
    [
        ((), "torch"),
        (("model.safetensors",), "torch"),
        (("model-00001-of-00002.safetensors", "model.onnx"), "torch"),
        (("pytorch_model.bin", "model.pt2"), "torch"),
        (("model.onnx",), "onnx"),
        (("model.onnx", "model.pt2"), "onnx"),
    ],
)
def test_the_runtime_is_chosen_by_what_a_folder_holds(tmp_path, files, expected):
    for name in files:
        (tmp_path / name).touch()
    assert runtime_of(tmp_path) == expected
    assert runtime_of(tmp_path, "onnx") == "onnx"


@pytest.mark.parametrize(
    "command",
    [
        ("predict", "clip.mp4", "--model", "FOLDER", "--runtime", "torch"),
        ("sync", "clip.mp4", "--model", "FOLDER"),
        ("explain", "clip.mp4", "--model", "FOLDER", "--out", "why"),
        ("enroll", "clip.mp4", "--model", "FOLDER", "--out", "anna.safetensors"),
        ("figure3", "FOLDER"),
        ("export", "torch", "FOLDER", "--out", "again"),
    ],
)
@pytest.mark.parametrize("file", ["model.onnx", "model.pt2"])
def test_commands_that_need_the_model_refuse_an_exported_folder_in_one_line(tmp_path, file, command):
    shutil.copy(VIDEOS / "1001_DFA_ANG_XX.flv", tmp_path / "clip.mp4")
    (tmp_path / file).touch()
    words = [str(tmp_path / word) if word == "clip.mp4" else word for word in command]
    with pytest.raises(ValueError, match=rf"holds {file} of aver export .*Give the folder of the model") as caught:
        aver(*(str(tmp_path) if word == "FOLDER" else word for word in words))
    assert "\n" not in str(caught.value)


def test_no_command_runs_what_export_torch_wrote(tmp_path):
    shutil.copy(VIDEOS / "1001_DFA_ANG_XX.flv", tmp_path / "clip.mp4")
    (tmp_path / "model.pt2").touch()
    for command in (("predict", str(tmp_path / "clip.mp4"), "--model"), ("evaluate",), ("live", "--model")):
        with pytest.raises(ValueError, match=r"model.pt2 of aver export torch, which is for torch.export.load"):
            aver(*command, str(tmp_path))


def test_an_exported_folder_without_onnx_runtime_names_the_extra(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxruntime" else find_spec(name, *rest)
    )
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ImportError, match=r'^This needs onnxruntime: pip install "modeling-aver\[onnx\]".$'):
        aver("predict", str(VIDEOS), "--model", str(tmp_path))


def test_the_sample_clips_are_mixed_at_many_lengths():
    config = aver_config(num_action_units=35, feature_identity=OPENFACE)
    material = sample_material(AverProcessor.from_config(config).feature_extractor)
    assert len(material.windows) == 30 and "the face (openface) of another" in material.clips
    seconds = [window.end for window in material.windows]
    assert len(set(np.round(seconds, 2))) > 20 and 0.8 <= min(seconds) and max(seconds) <= 2.3
    assert all(window.success.any() and len(window.sound) > 0.6 * 16_000 for window in material.windows)
    assert "is not known" in material.seen


def test_a_model_of_other_features_is_compared_on_random_ones():
    material = sample_material(AverProcessor.from_config(aver_config()).feature_extractor)
    assert "random features of the face" in material.clips and material.windows[0].features.shape[1] == 7


@pytest.mark.parametrize(
    "corpus, scored, first, expected",
    [
        ("crema_d", True, "1001_DFA_ANG_XX", True),
        ("crema_d", False, "1001_DFA_ANG_XX", False),
        ("crema_d", False, "1002_DFA_ANG_XX", None),
        ("ravdess", False, "03-01-01", False),
        ("org/clips", False, "1001_DFA_ANG_XX", None),
    ],
)
def test_results_of_a_run_say_whether_it_trained_on_the_sample_clips(tmp_path, corpus, scored, first, expected):
    assert samples_were_trained_on(tmp_path) is None and samples_were_trained_on(None) is None
    results = {"dataset": {"dataset_name": corpus}, "scored_clips_were_trained_on": scored}
    (tmp_path / "results.json").write_text(json.dumps(results))
    names = [first, *(f"1001_DFA_{emotion}_XX" for emotion in ("DIS", "FEA", "HAP", "NEU", "SAD"))]
    (tmp_path / "predictions.csv").write_text("\n".join(["utterance_id", *names]) + "\n")
    assert samples_were_trained_on(tmp_path) is expected


def test_own_clips_are_read_evenly_and_those_that_cannot_be_are_named(tmp_path, monkeypatch):
    config = aver_config(num_action_units=35, feature_identity=OPENFACE)
    extractor = AverProcessor.from_config(config).feature_extractor
    (tmp_path / "empty.mp4").touch()
    material = own_material(extractor, [VIDEOS, tmp_path], TABLES)
    assert len(material.windows) == 6 and list(material.skipped) == [str(tmp_path / "empty.mp4")]
    assert material.clips.startswith("6 of 7 clips in ") and material.windows[0].success.all()
    with pytest.raises(ValueError, match=r"No clip under .* can be read. empty.mp4 is empty \(0 bytes\)"):
        own_material(extractor, [tmp_path], streams="audio")
    monkeypatch.setattr("modeling_aver.export.agreement.MOST_CLIPS", 3)
    names = [window.recording for window in own_material(extractor, [VIDEOS], TABLES).windows]
    assert names == [f"1001_DFA_{emotion}_XX.flv" for emotion in ("ANG", "FEA", "NEU")]


def test_too_many_changed_labels_are_refused():
    agreement = {"same_answer": 0.85, "changed_labels": 3, "num_clips": 20, "clips": "20 clips"}
    with pytest.raises(
        ValueError, match=r"int8 changes the label of 3 of 20 clips .*less than --min-agreement \(90%\)"
    ):
        check_agreement(agreement)
    check_agreement(agreement, 0.85)


def test_agreement_clips_without_int8_are_refused(tmp_path):
    with pytest.raises((ValueError, ImportError), match="give --quantize int8 too|This needs onnx"):
        aver("export", "onnx", "model", "--out", str(tmp_path), "--agreement-clips", str(VIDEOS))


@pytest.mark.slow
@needs_onnx
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("encoder, is_large", [("wav2vec2-layer", False), ("whisper", True)])
def test_int8_answers_of_a_clip_do_not_depend_on_its_neighbours(tmp_path, monkeypatch, encoder, is_large):
    """With weights beside the model, as of a large one, too."""
    monkeypatch.setattr(export, "LARGE", 0 if is_large else export.LARGE)
    config = aver_config(encoder)
    model, processor = aver_model(config), AverProcessor.from_config(config)
    report = export_onnx(model, processor, tmp_path, "int8", min_agreement=0.0)
    assert (tmp_path / "model.onnx.data").is_file() == is_large
    assert report["agreement"]["batch_change"] == 0.0 and report["agreement"]["batch_size"] == 8
    exported, extractor = OnnxModel(tmp_path), processor.feature_extractor
    clips = _made_up_clips(extractor)
    logits = {
        size: torch.cat([exported(**_collated(extractor, clips[at : at + size])).logits for at in range(0, 16, size)])
        for size in (1, 2, 8)
    }
    assert not logits[1].isnan().any()
    for size in (2, 8):
        torch.testing.assert_close(logits[size], logits[1], atol=0, rtol=0)
    with torch.inference_mode():
        expected = model(**_collated(extractor, clips)).logits
    assert 0 < (logits[1] - expected).abs().max()  # int8 it is


@pytest.mark.slow
@needs_onnx
@pytest.mark.filterwarnings("ignore")
def test_an_int8_export_that_changes_labels_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        export, "measure_agreement", lambda *_: {"same_answer": 0.5, "changed_labels": 1, "num_clips": 2, "clips": "2"}
    )
    config = aver_config()
    with pytest.raises(ValueError, match="Nothing was written"):
        export_onnx(aver_model(config), AverProcessor.from_config(config), tmp_path, "int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporters
def test_torch_s_export_equals_the_model_and_holds_no_pickle(tmp_path):
    config = aver_config(**RICH)
    model = aver_model(config)
    report = export_torch(model, AverProcessor.from_config(config), tmp_path)
    assert report["parity"]["max_difference"] <= 1e-4 and report["parity"]["batches"] == 7
    with zipfile.ZipFile(tmp_path / "model.pt2") as file:
        contents = [file.read(name) for name in file.namelist() if not name.rpartition("/")[2].startswith("weight_")]
    assert not any(content.startswith((b"PK", b"\x80\x02")) for content in contents)
    inputs = _example(config, 4, 0.77, 33)
    program = torch.export.load(str(tmp_path / "model.pt2")).module(check_guards=False)
    with torch.inference_mode():
        logits = program(*complete(config, inputs).values())
        torch.testing.assert_close(logits, model(**inputs).logits, atol=1e-4, rtol=0)


@pytest.mark.slow
@needs_onnx
@pytest.mark.filterwarnings("ignore")
def test_onnx_equals_torch_over_lengths_and_masks_of_spectrograms_and_all_that_a_configuration_may_add(tmp_path):
    config = aver_config("whisper", **RICH)
    model = aver_model(config)
    export_onnx(model, AverProcessor.from_config(config), tmp_path)
    _check_lengths_and_masks(model, OnnxModel(tmp_path))


@pytest.mark.slow
@needs_onnx
@pytest.mark.filterwarnings("ignore")
def test_the_commands_export_quantize_and_predict(tmp_path):
    folder = saved(tmp_path / "model", num_action_units=35, feature_identity=OPENFACE)
    exported = str(tmp_path / "exported")
    clips = ("--agreement-clips", str(VIDEOS), "--action-units-folder", str(TABLES))
    output = aver("export", "onnx", folder, "--out", exported, "--quantize", "int8", *clips, "--min-agreement", "0")
    report = json.loads((tmp_path / "exported" / "export.json").read_text())
    assert f"int8 was compared on 6 of 6 clips in {VIDEOS}, in batches of 8" in output
    assert "Whether the model was trained on them is not known here." in output
    assert f"({report['agreement']['worst']['clip']}: " in output and report["agreement"]["num_clips"] == 6
    assert report["parity"]["max_difference"] <= 1e-4 and report["agreement"]["batch_change"] == 0.0
    command = ("predict", str(VIDEOS), "--action-units-folder", str(TABLES))
    answers = []
    for name, size in ((folder, 8), (exported, 8), (exported, 1)):
        out = tmp_path / f"answers_{len(answers)}"
        aver(*command, "--model", name, "--batch-size", str(size), "--out", str(out))
        answers.append(json.loads((out / "predictions.json").read_text()))
    by_torch, in_batches, alone = answers
    assert by_torch["settings"]["model"] != in_batches["settings"]["model"] and in_batches == alone
    limit = report["agreement"]["max_change"] + 1e-4
    for one, other in zip(by_torch["clips"], in_batches["clips"], strict=True):
        assert other["probabilities"] == pytest.approx(one["probabilities"], abs=limit)
    assert "war" in aver("evaluate", exported)
    video, table = str(VIDEOS / "1001_DFA_ANG_XX.flv"), ("--action-units-folder", str(TABLES))
    assert "answers (" in aver("live", "--model", exported, "--file", video, *table)


def _check_lengths_and_masks(model, exported):
    for num_clips, seconds, num_frames in ((1, 0.25, 5), (4, 1.4, 21), (2, 3.0, 90), (3, 0.6, 0), (2, 0.0, 44)):
        inputs = _example(model.config, num_clips, seconds, num_frames)
        with torch.inference_mode():
            expected = model(**inputs).logits
        torch.testing.assert_close(exported(**inputs).logits, expected, atol=1e-4, rtol=0)
