"""A saved folder loads in a process that does not have this package."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.models import aver_config, aver_model
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification

from modeling_aver import AverForEmotionClassification, AverProcessor
from modeling_aver.encoder import FusionEncoder

CLOSURE = {
    *(
        "positions.py",
        "losses.py",
        "configuration_aver.py",
        "audio_encoders.py",
        "encoder.py",
        "modeling_aver.py",
        "processing_aver.py",
    ),
    *("pipeline_aver.py", "windows.py"),
}

# `-S` would hide transformers too, so the package is hidden by name.
STRANGER = """
import sys
sys.modules["modeling_aver"] = None
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, AutoProcessor
folder, inputs, out = sys.argv[1:]
clip = torch.load(inputs, weights_only=True)
remote = {"trust_remote_code": True}
processor = AutoProcessor.from_pretrained(folder, **remote)
extractor = AutoFeatureExtractor.from_pretrained(folder, **remote)
assert AutoConfig.from_pretrained(folder, **remote).model_type == "aver"
batch = processor(clip["audio"], clip["action_units"], sampling_rate=16000)
again = extractor(clip["audio"], clip["action_units"], sampling_rate=16000)
assert all(torch.equal(batch[name], again[name]) for name in batch)
models = [auto.from_pretrained(folder, **remote) for auto in (AutoModel, AutoModelForAudioClassification)]
torch.save([model(**batch).logits for model in models], out)
"""


def saved(folder, dtype=torch.float32, **values):
    config = aver_config(**values)
    model = aver_model(config).to(dtype)
    model.save_pretrained(folder)
    AverProcessor.from_config(config).save_pretrained(folder)
    return model


def clip():
    generator = np.random.default_rng(0)
    return {"audio": torch.tensor(generator.normal(size=4000)), "action_units": torch.tensor(generator.random((8, 7)))}


def logits_of(model):
    with torch.no_grad():
        return model(**AverProcessor.from_config(model.config)(**clip(), sampling_rate=16_000)).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("audio", ["wav2vec2-layer", "hubert-group", "data2vec-audio", "whisper"])
@pytest.mark.parametrize("position", ["tarope", "learnable"])
def test_what_is_saved_is_what_is_loaded(audio, position, dtype, tmp_path):
    model = saved(tmp_path, dtype, audio=audio, position_embedding_type=position, fusion_layers=["isa", "msa"])
    for auto in (AutoModel, AutoModelForAudioClassification):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is AverForEmotionClassification
        assert loaded.dtype == dtype
        # Not bit by bit: matrix kernels choose their order of summation by where weights lie in memory.
        torch.testing.assert_close(logits_of(loaded), logits_of(model), atol=1e-6, rtol=0)
    for name, tensor in {**dict(loaded.named_buffers()), **loaded.state_dict()}.items():
        original = {**dict(model.named_buffers()), **model.state_dict()}[name]
        assert torch.equal(tensor, original), f"{name} did not survive the meta device"


def test_the_fusion_encoder_saves_and_loads_alone(tmp_path):
    encoder = FusionEncoder(aver_config(position_embedding_type="learnable"))
    encoder.save_pretrained(tmp_path)
    for name, weight in FusionEncoder.from_pretrained(tmp_path).state_dict().items():
        assert torch.equal(weight, encoder.state_dict()[name])


def test_a_folder_holds_exactly_the_nine_files_and_only_safetensors(tmp_path):
    saved(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert {name for name in files if name.endswith(".py")} == CLOSURE
    assert files - CLOSURE == {"config.json", "model.safetensors", "processor_config.json"}


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_a_stranger_loads_it_by_remote_code(dtype, tmp_path):
    """The other process has transformers, and this package is hidden from it."""
    model = saved(tmp_path / "model", dtype)
    torch.save(clip(), tmp_path / "clip.pt")
    script = tmp_path / "stranger.py"
    script.write_text(STRANGER)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    arguments = [
        sys.executable,
        str(script),
        str(tmp_path / "model"),
        str(tmp_path / "clip.pt"),
        str(tmp_path / "out.pt"),
    ]
    run = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    for logits in torch.load(tmp_path / "out.pt", weights_only=True):
        torch.testing.assert_close(logits.detach(), logits_of(model), atol=1e-6, rtol=0)


def test_a_checkpoint_of_other_labels_is_not_loaded_silently(tmp_path):
    saved(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AverForEmotionClassification.from_pretrained(tmp_path, num_labels=8)
    other = AverForEmotionClassification.from_pretrained(tmp_path, num_labels=8, ignore_mismatched_sizes=True)
    assert other.classifier.out_features == 8


def test_the_configuration_names_every_auto_class(tmp_path):
    saved(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).auto_map == {
        "AutoConfig": "configuration_aver.AverConfig",
        "AutoModel": "modeling_aver.AverForEmotionClassification",
        "AutoModelForAudioClassification": "modeling_aver.AverForEmotionClassification",
    }
