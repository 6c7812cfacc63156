import importlib.util

import pytest
from support.commands import aver
from support.models import aver_config, aver_model

from modeling_aver import AverProcessor, __version__


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = aver_config(num_action_units=35)
    aver_model(config).save_pretrained(folder)
    AverProcessor.from_config(config).save_pretrained(folder)
    return str(folder)


def test_version():
    assert aver("--version").strip() == f"modeling-aver {__version__}"


def test_evaluate_prints_every_clip_and_the_scores(saved, tmp_path):
    output = aver("evaluate", saved, "--out", str(tmp_path / "clips.csv"))
    for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"):
        assert f"1001_DFA_{emotion}_XX" in output
    assert "war" in output and "uar" in output
    assert len((tmp_path / "clips.csv").read_text().splitlines()) == 7


def test_figure3_draws_a_clip(saved, tmp_path):
    picture = tmp_path / "figure.png"
    assert "derivative sign agreement" in aver("figure3", saved, "--clip", "1001_DFA_SAD_XX", "--out", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_clip_that_is_not_there_is_named(saved):
    with pytest.raises(ValueError, match="There is no clip 1001_DFA_XXX among 6 clips such as 1001_DFA_ANG_XX"):
        aver("figure3", saved, "--clip", "1001_DFA_XXX")


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="^There is no folder runs/my/model, and it is not a Hub id such as org/name"):
        aver("evaluate", "runs/my/model")


def test_a_model_of_other_labels_is_refused(tmp_path):
    config = aver_config(num_action_units=35, id2label={0: "calm", 1: "sad"})
    aver_model(config).save_pretrained(tmp_path)
    AverProcessor.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"The model has 2 labels \(calm, sad\) but the dataset has 6") as caught:
        aver("evaluate", str(tmp_path))
    assert "--audio_model_name_or_path" not in str(caught.value), "an option of train_hf.py"


def test_features_of_another_extractor_are_refused(tmp_path):
    config = aver_config(num_action_units=35, feature_identity={"name": "mediapipe", "version": "1.2.2"})
    aver_model(config).save_pretrained(tmp_path)
    AverProcessor.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"trained on features of mediapipe 1.2.2, but these are of openface"):
        aver("evaluate", str(tmp_path))


def without(monkeypatch, *packages):
    """As on a machine where packages are not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in packages else real(name, *rest)
    )


@pytest.mark.parametrize(
    "command",
    [
        ("figure3", "runs/no/model"),
        ("explain", "clip.mp4", "--model", "runs/no/model", "--out", "why"),
        ("predict", "clip.mp4", "--model", "runs/no/model", "--out", "answers", "--timeline"),
    ],
)
def test_pictures_without_matplotlib_are_refused_before_a_model_is_looked_for(command, monkeypatch):
    without(monkeypatch, "matplotlib")
    with pytest.raises(ImportError, match=r'matplotlib: pip install "modeling-aver\[plot\]"'):
        aver(*command)


def test_the_onnx_runtime_is_asked_for_before_a_model_is_looked_for(monkeypatch):
    without(monkeypatch, "onnxruntime")
    with pytest.raises(ImportError, match=r'onnxruntime: pip install "modeling-aver\[onnx\]"'):
        aver("predict", "clip.mp4", "--model", "runs/no/model", "--runtime", "onnx")


def test_evaluate_names_its_own_options_where_the_clips_are_not_there(saved, tmp_path):
    with pytest.raises(ValueError, match=rf"^There is no folder {tmp_path}/none. --data-dir takes CREMA-D's folder.$"):
        aver("evaluate", saved, "--data-dir", str(tmp_path / "none"))
    with pytest.raises(
        ValueError, match=rf"No audio under {tmp_path}. Give --data-dir the folder that holds AudioWAV"
    ):
        aver("evaluate", saved, "--data-dir", str(tmp_path))
    with pytest.raises(ValueError, match=r"^--action-units-folder \(none\) is neither a folder nor a zip"):
        aver("evaluate", saved, "--action-units-folder", "none")


def test_evaluate_without_the_sample_clips_asks_for_a_folder(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets_scripts.SAMPLE_DIR", tmp_path / "sample")
    with pytest.raises(ValueError, match=r"six sample clips are not in .*sample. Give CREMA-D's folder: --data-dir"):
        aver("evaluate", saved)
