"""Starting from a pretrained speech encoder, in each form in which its weights may be published."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save
from support.loopback_hub import LoopbackHub
from support.models import audio_config
from support.training import TINY
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

from modeling_aver import AverConfig, AverForEmotionClassification, AverProcessor

ROOT = Path(__file__).resolve().parents[1]
XLSR = "facebook/wav2vec2-large-xlsr-53"
PREPROCESSOR = {  # of facebook/wav2vec2-large-xlsr-53
    "do_normalize": True,
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0,
    "return_attention_mask": True,
    "sampling_rate": 16000,
}
SMALL = AverConfig(hidden_size=32, num_attention_heads=4, intermediate_size=48, fusion_layers=["isa"])


def torch_bytes(values):
    file = io.BytesIO()
    torch.save(values, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def published():
    """A tiny `Wav2Vec2ForPreTraining` and its weights under the names of 2021, when xlsr-53 was published."""
    torch.manual_seed(0)
    values = {**audio_config("wav2vec2-layer").to_dict(), "proj_codevector_dim": 18, "codevector_dim": 18}
    config = Wav2Vec2Config.from_dict({**values, "mask_time_prob": 0.075, "num_codevectors_per_group": 6})
    model = Wav2Vec2ForPreTraining(config).eval()
    renamed = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    weights = {}
    for name, weight in model.state_dict().items():
        for new, old in renamed.items():
            name = name.replace(new, old)
        weights[name] = weight
    assert {"wav2vec2.encoder.pos_conv_embed.conv.weight_g", "quantizer.codevectors"} <= weights.keys()
    return model, weights


@pytest.fixture(scope="module")
def files(published):
    """The layout of facebook/wav2vec2-large-xlsr-53: everything but safetensors."""
    model, weights = published
    config = {**model.config.to_dict(), "architectures": ["Wav2Vec2ForPreTraining"], "dtype": None}
    return {
        "config.json": json.dumps(config).encode(),
        "preprocessor_config.json": json.dumps(PREPROCESSOR).encode(),
        "pytorch_model.bin": torch_bytes(weights),
    }


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A loopback Hub for this process, with empty caches."""
    constants = huggingface_hub.constants
    with LoopbackHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "cache" / "assets"))
        yield hub


@pytest.fixture
def offline(monkeypatch):
    """Switches the network off when called."""
    return lambda: monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def frames(model, weights_of=None):
    """Output of the audio encoder for a fixed second of noise."""
    encoder = weights_of or model.base_model.audio_encoder
    with torch.no_grad():
        return encoder(torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))).last_hidden_state


def start(**options):
    return AverForEmotionClassification.from_audio_pretrained(XLSR, SMALL, **options).eval()


def assert_exact(model, published):
    assert torch.equal(frames(model), frames(None, published[0].wav2vec2))


def conversions(tmp_path):
    return list((tmp_path / "cache" / "assets").rglob("model.safetensors"))


def test_safetensors_of_the_revision_are_read(hub, files, published, caplog, tmp_path):
    hub.commit(XLSR, {**files, "model.safetensors": save(published[1], {"format": "pt"})})
    assert_exact(start(), published)
    assert not any("pytorch_model" in line or "discussions" in line for line in hub.log)
    assert "weights-only" not in caplog.text and not conversions(tmp_path)


def test_the_conversion_pull_request_is_read_at_its_commit(hub, files, published, caplog, tmp_path, offline):
    hub.commit(XLSR, files)
    sha = hub.open_pull_request(XLSR, {"model.safetensors": save(published[1], {"format": "pt"})})
    assert_exact(start(), published)
    assert any(f"/resolve/{sha}/model.safetensors" in line for line in hub.log if line.startswith("GET"))
    assert not any("pytorch_model.bin" in line for line in hub.log)
    assert "weights-only" not in caplog.text and not conversions(tmp_path)
    hub.log.clear()
    assert_exact(start(), published)
    assert not any("discussions" in line for line in hub.log), "the pull request was looked for twice"
    offline()
    assert_exact(start(), published)


OTHER_PULL_REQUESTS = {"of somebody else": {"author": "somebody"}, "closed": {"status": "closed"}}


@pytest.mark.parametrize("kind", [*OTHER_PULL_REQUESTS, "of other weights"])
def test_no_other_pull_request_is_trusted(hub, files, published, kind):
    hub.commit(XLSR, files)
    wrong = {name: torch.zeros_like(weight) for name, weight in published[1].items()}
    hub.open_pull_request(XLSR, {"model.safetensors": save(wrong)}, **OTHER_PULL_REQUESTS.get(kind, {}))
    if kind == "of other weights":  # the main branch has gone on since
        hub.commit(XLSR, {**hub.files(XLSR), "pytorch_model.bin": torch_bytes(published[1]) + b" "})
    assert_exact(start(), published)


def test_a_pull_request_stays_valid_when_only_other_files_have_changed(hub, files, published):
    hub.commit(XLSR, files)
    hub.open_pull_request(XLSR, {"model.safetensors": save(published[1], {"format": "pt"})})
    hub.commit(XLSR, {**files, "README.md": b"new"})
    assert_exact(start(), published)
    assert not any("pytorch_model.bin" in line for line in hub.log)


def test_pickled_weights_are_converted_once_with_one_line(hub, files, published, caplog, tmp_path, offline):
    commit = hub.commit(XLSR, files)
    assert_exact(start(), published)
    (converted,) = conversions(tmp_path)
    assert commit in converted.parts
    notices = [record.message for record in caplog.records if "weights-only" in record.message]
    assert notices == [
        f"{XLSR} has no safetensors: pytorch_model.bin was read by torch's weights-only loader and converted to "
        f"{converted}."
    ]
    for name, weight in load_file(converted).items():
        assert torch.equal(weight, published[1][name]), name
    assert not any(line.startswith("POST") for line in hub.log), "a conversion was requested"
    caplog.clear()
    hub.log.clear()
    for each in hub.commits.values():
        each["pytorch_model.bin"] = b"must not be read again"
    assert_exact(start(), published)
    offline()
    assert_exact(start(), published)
    assert "weights-only" not in caplog.text and not any("discussions" in line for line in hub.log)


def test_a_cached_pickle_is_enough_without_a_network(hub, files, published, offline, tmp_path):
    hub.commit(XLSR, files)
    for name in ("config.json", "pytorch_model.bin"):
        huggingface_hub.hf_hub_download(XLSR, name)
    offline()
    assert_exact(start(), published)
    assert len(conversions(tmp_path)) == 1


def test_a_damaged_conversion_is_made_again(hub, files, published, tmp_path):
    hub.commit(XLSR, files)
    start()
    (converted,) = conversions(tmp_path)
    converted.write_bytes(converted.read_bytes()[:-100])
    assert_exact(start(), published)


def test_where_nothing_can_be_cached_the_weights_are_read_nevertheless(hub, files, published, tmp_path, caplog):
    hub.commit(XLSR, files)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "assets").write_text("a file in the way")
    assert_exact(start(), published)
    assert "is read by torch's weights-only loader" in caplog.text


@pytest.mark.parametrize("state", ["safetensors", "pull request", "pickle"])
def test_the_revision_is_honoured_in_each_state(hub, files, published, state, tmp_path):
    old = {name: weight * 0.5 for name, weight in published[1].items()}
    safe = {"model.safetensors": save(old, {"format": "pt"})} if state == "safetensors" else {}
    tagged = {**files, "pytorch_model.bin": torch_bytes(old), **safe}
    hub.commit(XLSR, tagged)
    if state == "pull request":
        hub.open_pull_request(XLSR, {"model.safetensors": save(old, {"format": "pt"})})
    hub.commit(XLSR, tagged, "v1")
    hub.commit(XLSR, files)
    name = "feature_projection.projection.weight"
    for revision, weights in (("v1", old), ("main", published[1])):
        loaded = start(revision=revision).base_model.audio_encoder.state_dict()[name]
        assert torch.equal(loaded, weights[f"wav2vec2.{name}"]), revision
    assert len(conversions(tmp_path)) == {"safetensors": 1, "pull request": 1, "pickle": 2}[state]


def test_use_safetensors_is_strict(hub, files, published, tmp_path):
    hub.commit(XLSR, files)
    hub.open_pull_request(XLSR, {"model.safetensors": save(published[1], {"format": "pt"})})
    with pytest.raises(ValueError, match=f"^No model.safetensors was found in `{XLSR}` at revision [0-9a-f]{{40}}"):
        start(use_safetensors=True)
    hub.log.clear()
    assert_exact(start(use_safetensors=False), published)
    assert not any("discussions" in line or line.startswith("POST") for line in hub.log)
    assert not conversions(tmp_path)


def test_a_repository_without_weights_is_named(hub, files):
    hub.commit(XLSR, {name: data for name, data in files.items() if name != "pytorch_model.bin"})
    with pytest.raises(ValueError, match=f"^No model.safetensors or pytorch_model.bin was found in `{XLSR}` at rev"):
        start()


def test_the_processor_of_that_layout(hub, files):
    hub.commit(XLSR, files)
    processor = AverProcessor.from_audio_pretrained(XLSR)
    audio = processor.feature_extractor.audio_feature_extractor
    assert (audio["feature_extractor_type"], audio["do_normalize"]) == ("Wav2Vec2FeatureExtractor", True)
    batch = processor([torch.randn(3200).numpy()], sampling_rate=16_000)
    assert abs(batch["input_values"].std().item() - 1) < 1e-3


# ── folders ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(files, tmp_path):
    path = tmp_path / "xlsr"
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def test_a_folder_with_a_pickle_alone(folder, published, caplog):
    before = sorted(folder.iterdir())
    assert_exact(AverForEmotionClassification.from_audio_pretrained(folder, SMALL).eval(), published)
    assert (
        caplog.messages.count(
            f"{folder} has no safetensors: pytorch_model.bin is read by torch's weights-only loader."
        )
        == 1
    )
    assert sorted(folder.iterdir()) == before
    with pytest.raises(ValueError, match="^No model.safetensors was found in .*xlsr`. Without `use_safetensors=True`"):
        AverForEmotionClassification.from_audio_pretrained(folder, SMALL, use_safetensors=True)


def test_a_folder_of_shards(folder, published):
    weights = published[1]
    names = sorted(weights)
    shards = {"a.bin": names[::2], "b.bin": names[1::2]}
    for file, part in shards.items():
        torch.save({name: weights[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "pytorch_model.bin").unlink()
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_exact(AverForEmotionClassification.from_audio_pretrained(folder, SMALL).eval(), published)
    index.write_text(json.dumps({"weight_map": {"a": "../xlsr/a.bin"}}))
    with pytest.raises(ValueError, match="names '../xlsr/a.bin', which is not a file beside it"):
        AverForEmotionClassification.from_audio_pretrained(folder, SMALL)


def test_tensors_of_one_memory_are_converted(hub, files, published):
    shared = dict(published[1])
    shared["quantizer.codevectors_again"] = shared["quantizer.codevectors"]
    hub.commit(XLSR, {**files, "pytorch_model.bin": torch_bytes(shared)})
    assert_exact(start(), published)


class Touch:
    """Creates a file when it is unpickled by Python itself."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def hostile(path):
    return {
        "a call": (b"cposix\nsystem\n(S'touch " + str(path).encode() + b"'\ntR.", "refers to posix.system, which is"),
        "an object among the tensors": (
            torch_bytes({"a": Touch(path)}),
            "refers to (getattr|pathlib.Path.touch), which is",
        ),
        "a newer protocol": (pickle.dumps({"a": Touch(path)}, 4), "holds more than plain tensors"),
        "no tensors": (torch_bytes({"a": [1, 2]}), "does not hold weights by name"),
        "tensors without values": (torch_bytes({"a": torch.empty(2, device="meta")}), "does not hold weights by name"),
        "cut short": (torch_bytes({"a": torch.zeros(999)})[:900], "cannot be read: .*Was it cut short"),
        "nothing": (b"", "cannot be read: EOFError. Was it cut short"),
    }


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("kind", list(hostile(Path())))
def test_a_pickle_that_is_not_of_tensors_alone_runs_nothing(hub, files, folder, tmp_path, kind):
    data, message = hostile(tmp_path / "pwned")[kind]
    hub.commit(XLSR, {**files, "pytorch_model.bin": data})
    (folder / "pytorch_model.bin").write_bytes(data)
    for name in (XLSR, folder):
        for use_safetensors in (None, False):
            with pytest.raises(ValueError, match=f"^pytorch_model.bin of `{name}` {message}") as error:
                AverForEmotionClassification.from_audio_pretrained(name, SMALL, use_safetensors=use_safetensors)
            assert "\n" not in str(error.value)
    assert not (tmp_path / "pwned").exists() and not conversions(tmp_path)


@pytest.mark.slow
def test_train_hf_starts_from_a_repository_of_pickled_weights(files, tmp_path):
    """The command line of a recipe, with an encoder like the paper's; the second time without the pickled file."""
    recipe = tmp_path / "recipe.json"
    values = {name: value for name, value in TINY.items() if name != "audio_config"}
    recipe.write_text(json.dumps({**values, "use_cpu": True}))
    with LoopbackHub() as hub:
        hub.commit(XLSR, files)
        environment = {
            **{name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"},
            **{"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"},
        }
        outputs = []
        for name in ("first", "second"):
            command = [sys.executable, ROOT / "train_hf.py", recipe, "--audio_model_name_or_path", XLSR]
            run = subprocess.run(
                [*command, "--output_dir", tmp_path / name],
                env=environment,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert run.returncode == 0, run.stderr[-2000:]
            outputs.append(run.stderr)
            assert (tmp_path / name / "results.json").is_file()
    assert [text.count("weights-only loader and converted to") for text in outputs] == [1, 0]
