"""Adapters on the audio encoder: what trains, where a resumed run ends, and that the result is a plain model."""

import json
import shutil

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file
from support.models import AUDIO_ENCODERS, aver_config, aver_model
from support.training import TINY

import train_hf
from modeling_aver import AverForEmotionClassification
from modeling_aver.training import adapters
from modeling_aver.training.adapters import add_lora, merge_lora
from modeling_aver.training.arguments import parse_arguments
from modeling_aver.training.checkpoints import problem_of

LORA = {"lora_rank": 2, "lora_alpha": 8.0, "max_steps": 4, "save_strategy": "steps", "save_steps": 1}


@pytest.fixture(scope="module", autouse=True)
def peft():
    return pytest.importorskip("peft", reason="waits for the extra peft")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "lora.yaml"
    path.write_text(yaml.safe_dump({**TINY, **LORA, "freeze_feature_encoder": True}))
    return path


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    """A finished run, with a checkpoint of each step."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    train_hf.main([str(recipe), "--output_dir", str(folder)])
    return folder


def trained_adapters(name="wav2vec2-layer", target_modules=("q_proj", "v_proj")):
    """A model whose adapters have moved away from zero."""
    model = aver_model(aver_config(name))
    add_lora(model.base_model.audio_encoder, rank=3, alpha=6, target_modules=target_modules)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    return model


DENSE = ("intermediate_dense", "output_dense")
TARGETS = {"wav2vec2-bert": ("linear_q", "linear_v"), "wavlm-layer": DENSE, "wavlm-group": DENSE}


@pytest.mark.parametrize("name", AUDIO_ENCODERS)
def test_a_merged_model_gives_the_same_logits_and_has_the_weights_of_a_plain_one(name):
    model = trained_adapters(name, TARGETS.get(name, ("q_proj", "v_proj")))
    plain = aver_model(aver_config(name))
    generator = torch.Generator().manual_seed(1)
    shapes = {"whisper": (2, 80, 40), "wav2vec2-bert": (2, 40, 160)}
    inputs = {
        model.config.audio_input_name: torch.randn(shapes.get(name, (2, 3200)), generator=generator),
        "action_units": torch.rand(2, 6, 7, generator=generator),
    }
    with torch.no_grad():
        before, untrained = model(**inputs).logits, plain(**inputs).logits
        merge_lora(model.base_model.audio_encoder)
        torch.testing.assert_close(model(**inputs).logits, before, atol=1e-5, rtol=0)
    assert (before - untrained).abs().max() > 1e-3, "the adapters do nothing"
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_layers_that_are_not_called_get_no_adapter():
    with pytest.raises(ValueError, match="WavLMModel reads the weights of q_proj, v_proj and would pass by adapters"):
        trained_adapters("wavlm-layer")


def test_adapters_begin_as_nothing():
    model, plain = aver_model(aver_config()), aver_model(aver_config())
    add_lora(model.base_model.audio_encoder, rank=3, alpha=6, target_modules=["q_proj"])
    audio = torch.randn(1, 3200, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(audio).logits, plain(audio).logits)


def test_adapters_and_all_but_the_audio_encoder_train(recipe, run):
    """The tiny encoder has one layer of 24 channels: two adapters of rank 2, each of 24 × 2 and 2 × 24."""
    results = json.loads((run / "results.json").read_text())
    model = AverForEmotionClassification.from_pretrained(run)
    encoder = model.base_model.audio_encoder.num_parameters()
    assert results["num_parameters"] == model.num_parameters()
    assert results["num_trainable_parameters"] == model.num_parameters() - encoder + 2 * (24 * 2 + 2 * 24)
    assert results["lora"] == {"rank": 2, "alpha": 8.0, "target_modules": ["q_proj", "v_proj"]}
    first, last = (
        load_file(run / "checkpoint-1" / "model.safetensors"),
        load_file(run / "checkpoint-4" / "model.safetensors"),
    )
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert {name for name in moved if ".audio_encoder." in name} == {name for name in first if ".lora_" in name}
    assert "classifier.weight" in moved


def test_the_run_is_a_plain_model_with_the_adapters_within(run):
    weights, last = load_file(run / "model.safetensors"), load_file(run / "checkpoint-4" / "model.safetensors")
    assert not [name for name in weights if "lora" in name or "base_layer" in name]
    layer = "aver.audio_encoder.encoder.layers.0.attention.q_proj"
    learned = 8.0 / 2 * last[f"{layer}.lora_B.default.weight"] @ last[f"{layer}.lora_A.default.weight"]
    assert learned.abs().max() > 1e-5
    torch.testing.assert_close(weights[f"{layer}.weight"], last[f"{layer}.base_layer.weight"] + learned)
    assert "(rank 2, alpha 8, on q_proj, v_proj), which are merged into its weights" in (run / "README.md").read_text()
    assert not [path for path in run.rglob("*") if "adapter" in path.name]


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_undisturbed_one_does(recipe, run, tmp_path):
    assert problem_of(run / "checkpoint-2") is None
    shutil.copytree(run / "checkpoint-2", tmp_path / "checkpoint-2")
    train_hf.main([str(recipe), "--output_dir", str(tmp_path), "--resume"])
    weights, expected = load_file(tmp_path / "model.safetensors"), load_file(run / "model.safetensors")
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-7, rtol=0)


MISTAKES = {
    "no layer of that name": (("--lora_target_modules", "query"), ValueError, "Wav2Vec2Model has no query. Name its"),
    "no rank": (("--lora_rank", "0"), ValueError, r"`lora_rank` \(0\) must be 1 or more"),
    "a frozen encoder": (("--freeze_audio_encoder", "true"), ValueError, "adapters train the audio encoder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_before_training(recipe, tmp_path, mistake):
    flags, kind, message = MISTAKES[mistake]
    with pytest.raises(kind, match=message):
        train_hf.main([str(recipe), "--output_dir", str(tmp_path), *flags])


def test_weights_in_parts_are_refused_for_they_could_not_be_merged(recipe, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="`lora_rank` merges adapters into whole weights at the end, but FSDP"):
        parse_arguments([str(recipe)])


def test_values_of_adapters_without_a_rank_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`lora_alpha` and `lora_target_modules` need `lora_rank`"):
        parse_arguments(["--output_dir", str(tmp_path), "--lora_alpha", "16"])


def test_without_peft_one_line_says_what_to_install(recipe, monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'^`lora_rank` needs PEFT: pip install "modeling-aver\[peft\]"\.$'):
        parse_arguments([str(recipe)])


def test_a_peft_older_than_transformers_asks_for_is_a_warning(recipe, peft, monkeypatch, caplog):
    """As with transformers 5.24 and peft 0.21."""
    monkeypatch.setattr(adapters, "MIN_PEFT_VERSION", "999.0")
    parse_arguments([str(recipe)])
    (message,) = [record.getMessage() for record in caplog.records if record.name == adapters.__name__]
    assert f"transformers {transformers.__version__} asks for peft 999.0 or newer" in message
    assert f"but peft {peft.__version__} is installed" in message
    assert 'pip install "transformers<5.24"' in message and "\n" not in message
