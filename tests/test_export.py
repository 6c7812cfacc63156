"""An exported model is the model: the same logits over lengths and masks, the same answers for real clips."""

import importlib.util
import json
import zipfile

import pytest
import torch
from conftest import aver_config, aver_model
from test_cli import aver
from test_predict import OPENFACE, TABLES, VIDEOS, saved

from modeling_aver import AverProcessor
from modeling_aver.inference import load_pipeline
from modeling_aver.inference.export import _example, _parity, export_onnx, export_torch
from modeling_aver.inference.onnx_model import OnnxModel, complete, input_names

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
    with pytest.raises(ValueError, match=r"`runtime` \('tensorrt'\) may be torch, onnx"):
        load_pipeline(str(tmp_path), runtime="tensorrt")
    if not NEEDED:
        with pytest.raises(OSError, match="There is no .*model.onnx. aver export onnx"):
            load_pipeline(str(tmp_path), runtime="onnx")


def test_without_the_packages_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = aver_config()
    with pytest.raises(ImportError, match=r'needs onnx, onnxscript, onnxruntime: pip install "modeling-aver\[onnx\]"'):
        export_onnx(aver_model(config), AverProcessor.from_config(config), tmp_path)


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
    output = aver("export", "onnx", folder, "--out", str(tmp_path / "onnx"), "--quantize", "int8")
    report = json.loads((tmp_path / "onnx" / "export.json").read_text())
    assert "the same answer in" in output and report["agreement"]["windows"] > 12
    assert report["parity"]["max_difference"] <= 1e-4 and report["agreement"]["faces"] == "OpenFace's features"
    command = ("predict", str(VIDEOS), "--action-units-folder", str(TABLES))
    answers = []
    for name, runtime in (("model", "torch"), ("onnx", "onnx")):
        aver(*command, "--model", str(tmp_path / name), "--runtime", runtime, "--out", str(tmp_path / f"by_{name}"))
        answers.append(json.loads((tmp_path / f"by_{name}" / "predictions.json").read_text()))
    torch_answers, onnx_answers = answers
    assert torch_answers["settings"]["model"] != onnx_answers["settings"]["model"]
    limit = 2 * report["agreement"]["max_change"] + 1e-4
    for one, other in zip(torch_answers["clips"], onnx_answers["clips"], strict=True):
        assert other["probabilities"] == pytest.approx(one["probabilities"], abs=limit)


def _check_lengths_and_masks(model, exported):
    for num_clips, seconds, num_frames in ((1, 0.25, 5), (4, 1.4, 21), (2, 3.0, 90), (3, 0.6, 0), (2, 0.0, 44)):
        inputs = _example(model.config, num_clips, seconds, num_frames)
        with torch.inference_mode():
            expected = model(**inputs).logits
        torch.testing.assert_close(exported(**inputs).logits, expected, atol=1e-4, rtol=0)
