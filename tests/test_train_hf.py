"""The training script, as a user runs it, on the six real clips."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

import train_hf
from modeling_aver import AverForEmotionClassification, AverProcessor
from modeling_aver.training.arguments import parse_arguments

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "modeling_aver" / "training" / "recipes").glob("*.yaml"))

# A tiny model without randomness: two clips a step, no dropout.
TINY = {
    "audio_config": {
        "model_type": "wav2vec2",
        "conv_dim": [16, 16, 16],
        "conv_kernel": [10, 8, 8],
        "conv_stride": [5, 8, 8],
        "num_feat_extract_layers": 3,
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "layerdrop": 0.0,
        "mask_time_prob": 0.0,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
    },
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "dropout": 0.0,
    "freeze_feature_encoder": False,
    "eval_split": "train",
    "max_steps": 2,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "output_dir": str(tmp_path / "run")}))
    return path


def launched(recipe, output_dir, *flags, launcher=(sys.executable,)):
    """Weights after a run in processes of its own."""
    command = [*launcher, str(ROOT / "train_hf.py"), str(recipe), "--output_dir", str(output_dir), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    return load_file(output_dir / "model.safetensors")


def test_two_steps_train_score_and_save(recipe, tmp_path, capsys):
    train_hf.main([str(recipe)])
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text())
    assert {"eval_war", "eval_uar", "eval_macro_f1", "eval_loss", "train_loss"} <= set(results["metrics"])
    assert results["scored_clips_were_trained_on"] is True
    assert torch.tensor(results["confusion"]).sum() == 6
    table = pd.read_csv(run / "predictions.csv")
    assert list(table["label"]) == ["anger", "disgust", "fear", "happy", "neutral", "sad"]
    assert (table.filter(like="p_").sum(axis=1) - 1).abs().max() < 1e-5
    assert (table["label"] == table["prediction"]).mean() == pytest.approx(results["metrics"]["eval_war"])
    model = AverForEmotionClassification.from_pretrained(run)
    assert model.num_parameters() == results["num_parameters"]
    extractor = AverProcessor.from_pretrained(run).feature_extractor
    assert len(extractor.action_unit_mean) == 35
    assert extractor.feature_identity == model.config.feature_identity
    assert extractor.feature_identity["name"] == "openface"
    assert not [path for path in run.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    logged = capsys.readouterr().out
    assert "classification_loss" in logged and "ctm_loss" in logged


def test_logged_parts_add_up_to_the_logged_loss(recipe, tmp_path):
    trainer = {}

    class Recorder(train_hf.AverTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            trainer["it"] = self

    original, train_hf.AverTrainer = train_hf.AverTrainer, Recorder
    try:
        train_hf.main([str(recipe), "--gradient_accumulation_steps", "2", "--per_device_train_batch_size", "2"])
    finally:
        train_hf.AverTrainer = original
    lines = trainer["it"].state.log_history
    train, evaluation = [line for line in lines if "loss" in line], [line for line in lines if "eval_loss" in line]
    assert len(train) == 2
    for line in train:
        assert line["loss"] == pytest.approx(line["classification_loss"] + 0.5 * line["ctm_loss"], rel=1e-4)
    for line in evaluation:
        assert line["eval_loss"] == pytest.approx(
            line["eval_classification_loss"] + 0.5 * line["eval_ctm_loss"], rel=1e-4
        )


@pytest.mark.slow
def test_one_step_of_four_clips_is_the_same_however_it_is_cut(recipe, tmp_path):
    """
    1 process × 4 clips = 1 × 2 accumulated twice = 2 processes × 2 clips, by torchrun (gloo) and from the shell. Four
    clips in all: where an epoch ends in half a step, accelerate fills it up with clips of the beginning. By plain
    gradient descent: AdamW and clipping forget the size of a gradient, and would hide a loss that is counted twice.
    """
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29541")
    descent = ("--optim", "sgd", "--learning_rate", "0.01", "--max_grad_norm", "0")
    four = ("--max_train_samples", "4", *descent)
    halves = (*four, "--per_device_train_batch_size", "2")
    whole = launched(recipe, tmp_path / "whole", *four)
    accumulated = launched(recipe, tmp_path / "accumulated", *halves, "--gradient_accumulation_steps", "2")
    distributed = launched(recipe, tmp_path / "distributed", *halves, launcher=torchrun)
    fresh = launched(recipe, tmp_path / "fresh", *four, "--learning_rate", "0")
    assert json.loads((tmp_path / "distributed" / "results.json").read_text())["num_processes"] == 2
    for name, weight in whole.items():
        assert not torch.equal(weight, fresh[name]), f"{name} did not move"
        for other in (accumulated, distributed):
            assert (other[name] - weight).abs().max() < 1e-6, name


@pytest.mark.slow
def test_accelerate_launches_it(recipe, tmp_path):
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1")
    assert launched(recipe, tmp_path / "run", launcher=launcher)


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_undisturbed_one_does(recipe, tmp_path):
    undisturbed = launched(recipe, tmp_path / "a", "--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2")
    checkpoint = tmp_path / "a" / "checkpoint-2"
    assert (checkpoint / "processor_config.json").is_file()
    flags = ("--max_steps", "4", "--resume_from_checkpoint", str(checkpoint))
    for name, weight in launched(recipe, tmp_path / "b", *flags).items():
        torch.testing.assert_close(weight, undisturbed[name], atol=1e-7, rtol=0)


def test_training_goes_on_from_a_checkpoint_and_refuses_other_labels(recipe, tmp_path):
    train_hf.main([str(recipe)])
    values = {name: value for name, value in TINY.items() if name not in train_hf_model_values()}
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump({**values, "model_name_or_path": str(tmp_path / "run")}))
    train_hf.main([str(again), "--output_dir", str(tmp_path / "again")])
    with pytest.raises(ValueError, match="`model_name_or_path` brings its own configuration, but ctm_loss_weight"):
        train_hf.main([str(again), "--ctm_loss_weight", "0.25"])
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"fear"', '"fearful"'))
    with pytest.raises(ValueError, match=r"The model has 6 labels \(anger, .*fearful.* but the dataset has 6 \(anger"):
        train_hf.main([str(again)])


def train_hf_model_values():
    return {"audio_config", "hidden_size", "num_attention_heads", "intermediate_size", "dropout"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses(recipe):
    model_args, _, _ = parse_arguments([str(recipe), "--use_cpu"])
    assert model_args.config_values() or model_args.audio_model_name_or_path


def test_flags_override_the_recipe(recipe):
    _, _, training_args = parse_arguments([str(recipe), "--learning_rate", "0.5"])
    assert (training_args.learning_rate, training_args.max_steps) == (0.5, 2)


def test_the_defaults_are_section_3_2(tmp_path):
    _, _, args = parse_arguments(["--output_dir", str(tmp_path), "--use_cpu"])
    assert (args.num_train_epochs, args.per_device_train_batch_size, args.learning_rate) == (50, 4, 5e-5)
    assert args.lr_scheduler_type == "linear" and args.warmup_steps == 0 and "adamw" in args.optim


BAD_RECIPES = {
    "unknown name": ("learning_rat: 1.0", "sets learning_rat, which no argument is called"),
    "not a mapping": ("- 1", "must be a mapping of names to values, but is a list"),
    "not YAML": ("a: [", "cannot be read"),
    "two sources": ("audio_model_name_or_path: a\nmodel_name_or_path: b", "Give one of"),
    "audio configuration": ("audio_config: '{'", "`audio_config` is not JSON"),
    "dropped columns": ("remove_unused_columns: true", "`remove_unused_columns` must be False"),
}


@pytest.mark.parametrize("case", BAD_RECIPES)
def test_a_bad_recipe_is_named(case, tmp_path):
    text, message = BAD_RECIPES[case]
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_arguments([str(path)])


def test_a_recipe_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="The recipe nowhere.yaml cannot be read"):
        parse_arguments(["nowhere.yaml"])


def test_a_split_that_is_not_there_is_named(recipe):
    with pytest.raises(ValueError, match="crema_d has no split 'test', only train"):
        train_hf.main([str(recipe), "--eval_split", "test"])


def test_a_mistake_ends_in_one_line():
    command = [sys.executable, str(ROOT / "train_hf.py"), "nowhere.yaml"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith("train_hf.py: The recipe nowhere.yaml cannot be read")
    assert "Traceback" not in run.stderr
