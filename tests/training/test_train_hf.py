"""The training script, as a user runs it, on the six real clips."""

import json
import random
import resource
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import transformers
import yaml
from datasets import ClassLabel, Dataset, Features
from safetensors.torch import load_file
from support.training import RECIPES, ROOT, TINY, launched, own_clips, recipe, trained  # noqa: F401 (fixtures)

import train_hf
from datasets_scripts import SAMPLE_DIR
from modeling_aver import AverForEmotionClassification, AverProcessor
from modeling_aver.features.base import FaceTrack, FeatureIdentity
from modeling_aver.features.tables import write_features
from modeling_aver.training import preflight as rehearsal
from modeling_aver.training import trainer as trainer_module
from modeling_aver.training.arguments import parse_arguments
from modeling_aver.training.modality_dropout import drop_streams
from modeling_aver.training.preflight import unchanged_generators
from modeling_aver.training.setup import balanced_class_weights


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


# ── a finished run ──────────────────────────────────────────────────────────────────────────────────────────────────


def content_of(folder):
    """Bytes of each file."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_not_replaced_without_being_asked(recipe, tmp_path, capsys):
    train_hf.main([str(recipe)])
    run = tmp_path / "run"
    before, war = content_of(run), json.loads((run / "results.json").read_text())["metrics"]["eval_war"]
    named = rf"\({run}\) holds a finished run of 20\d\d-\d\d-\d\d \(WAR {100 * war:.2f} %\)"
    with pytest.raises(ValueError, match=named + r"\. Name another --output_dir, .*--overwrite true"):
        train_hf.main([str(recipe), "--learning_rate", "0.5"])
    with pytest.raises(ValueError, match=r"was begun with learning_rate 0.001 \(now 0.5\)"):
        train_hf.main([str(recipe), "--learning_rate", "0.5", "--resume"])
    capsys.readouterr()
    train_hf.main([str(recipe), "--resume"])
    assert "there is nothing to resume, and nothing changed." in capsys.readouterr().out
    assert content_of(run) == before


def test_a_run_that_is_replaced_leaves_nothing_of_the_earlier_one(recipe, tmp_path):
    run = tmp_path / "run"
    train_hf.main([str(recipe), "--max_steps", "3", "--save_strategy", "steps", "--save_steps", "1"])
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), "eval_split": None}))
    train_hf.main([str(recipe), "--overwrite", "true", "--learning_rate", "0.5"])
    assert not list(run.glob("checkpoint-*")) and not (run / "predictions.csv").exists()
    assert json.loads((run / "arguments.json").read_text())["learning_rate"] == 0.5
    assert "eval_war" not in json.loads((run / "results.json").read_text())["metrics"]
    with pytest.raises(ValueError, match="Give `overwrite` or `resume`, not both"):
        train_hf.main([str(recipe), "--overwrite", "true", "--resume"])


def test_a_mistake_is_found_before_the_earlier_run_is_deleted(recipe, tmp_path):
    train_hf.main([str(recipe)])
    before = content_of(tmp_path / "run")
    with pytest.raises(ValueError, match="`data_dir` .* is no folder|No .* under"):
        train_hf.main([str(recipe), "--overwrite", "true", "--data_dir", str(tmp_path / "nowhere")])
    assert content_of(tmp_path / "run") == before


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


# Clips in steps of four: two whole steps, or a second one that is half full or, of two processes' four, has one clip.
CUTS = {"4 clips": (), "5 clips": (), "6 clips of like length": ("--train_sampling_strategy", "group_by_length")}


@pytest.mark.slow
@pytest.mark.parametrize("cut", CUTS)
def test_steps_of_four_clips_are_the_same_however_they_are_cut(recipe, tmp_path, cut):
    """
    1 process × 4 clips = 1 × 2 accumulated twice = 2 processes × 2 clips, by torchrun (gloo); the scores of five clips
    in batches of two as well. By plain gradient descent: AdamW and clipping forget the size of a gradient, and would
    hide a loss that is counted twice.
    """
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29541")
    descent = ("--optim", "sgd", "--learning_rate", "0.01", "--max_grad_norm", "0")
    scored = ("--max_eval_samples", "5", "--per_device_eval_batch_size", "2")
    fours = ("--max_train_samples", cut[0], *CUTS[cut], *descent, *scored)
    twos = (*fours, "--per_device_train_batch_size", "2")
    whole = trained(recipe, tmp_path / "whole", *fours)
    accumulated = trained(recipe, tmp_path / "accumulated", *twos, "--gradient_accumulation_steps", "2")
    distributed = launched(recipe, tmp_path / "distributed", *twos, launcher=torchrun)
    fresh = trained(recipe, tmp_path / "fresh", *fours, "--learning_rate", "0")
    for name, weight in whole.items():
        assert not torch.equal(weight, fresh[name]), f"{name} did not move"
        for other in (accumulated, distributed):
            assert (other[name] - weight).abs().max() < 1e-6, name
    alone, together = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "distributed"))
    assert together["num_processes"] == 2 and np.sum(together["confusion"]) == 5
    for name in ("loss", "classification_loss", "ctm_loss", "war", "uar"):
        assert together["metrics"][f"eval_{name}"] == pytest.approx(alone["metrics"][f"eval_{name}"], abs=1e-5), name
    tables = [pd.read_csv(tmp_path / name / "predictions.csv") for name in ("whole", "distributed")]
    pd.testing.assert_frame_equal(*tables, atol=1e-5)


@pytest.mark.slow
def test_accelerate_launches_the_same_training(recipe, tmp_path):
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1")
    expected = trained(recipe, tmp_path / "python")
    for name, weight in launched(recipe, tmp_path / "accelerate", launcher=launcher).items():
        assert (weight - expected[name]).abs().max() < 1e-6, name


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
    model_args, _, _ = parse_arguments([str(recipe)])
    assert model_args.config_values() or model_args.audio_model_name_or_path


def test_flags_override_the_recipe(recipe):
    _, _, training_args = parse_arguments([str(recipe), "--learning_rate", "0.5"])
    assert (training_args.learning_rate, training_args.max_steps) == (0.5, 2)


def test_the_defaults_are_section_3_2(tmp_path):
    _, _, args = parse_arguments(["--output_dir", str(tmp_path)])
    assert (args.num_train_epochs, args.per_device_train_batch_size, args.learning_rate) == (50, 4, 5e-5)
    assert args.lr_scheduler_type == "linear" and args.warmup_steps == 0 and "adamw" in args.optim


BAD_RECIPES = {
    "unknown name": ("learning_rat: 1.0", "sets learning_rat, which no argument is called"),
    "not a mapping": ("- 1", "must be a mapping of names to values, but is a list"),
    "not YAML": ("a: [", "cannot be read"),
    "class weights": ("class_weights: even", r"`class_weights` \('even'\) must be one of none, balanced"),
    "dropout of both streams": ("audio_dropout_rate: 0.7\nvideo_dropout_rate: 0.4", "together at most 1: no clip"),
    "negative dropout": ("audio_dropout_rate: -0.1", r"`audio_dropout_rate` \(-0.1\)"),
    "no seed": ("seeds: 0", r"`seeds` \(0\) must be 1 or more"),
    "two beginnings": ("resume: true\nresume_from_checkpoint: a", "Give `resume` or `resume_from_checkpoint`"),
    "smoothed labels": ("label_smoothing_factor: 0.1", r"`label_smoothing_factor` \(0.1\) must be 0"),
    "stopping without evaluation": ("early_stopping_patience: 2", "`early_stopping_patience` chooses by evaluations"),
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


def test_a_dataset_that_lacks_a_column_is_named(recipe, tmp_path):
    Dataset.from_dict({"audio": ["a"], "label": [0]}).to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(ValueError, match="The dataset lacks the columns action_units, .*; it has audio, label"):
        train_hf.main([str(recipe), "--dataset_name", str(tmp_path / "data")])


def test_a_configuration_that_does_not_exist_is_told_which_do(recipe):
    with pytest.raises(ValueError, match="speaker_5fold_9.*speaker_5fold_5"):
        train_hf.main([str(recipe), "--dataset_config_name", "speaker_5fold_9"])


def test_a_place_to_report_to_that_is_not_installed_is_named(recipe, monkeypatch):
    monkeypatch.setattr(transformers.integrations.integration_utils, "is_wandb_available", lambda: False)
    with pytest.raises(ImportError, match=r"^`report_to` \(wandb\): .* requires wandb to be installed"):
        train_hf.main([str(recipe), "--report_to", "wandb"])
    with pytest.raises(ValueError, match="nowhere is not supported, only .*tensorboard"):
        train_hf.main([str(recipe), "--report_to", "nowhere"])


def test_a_mistake_ends_in_one_line():
    command = [sys.executable, str(ROOT / "train_hf.py"), "nowhere.yaml"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith("train_hf.py: The recipe nowhere.yaml cannot be read")
    assert "Traceback" not in run.stderr


# ── a dry pass before the hours are spent ───────────────────────────────────────────────────────────────────────────


def test_a_batch_that_does_not_fit_into_memory_is_told_at_once(recipe, tmp_path, monkeypatch):
    def fail(model, input_values=None, action_units=None, labels=None, **others):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(AverForEmotionClassification, "forward", fail)
    with pytest.raises(
        ValueError, match=r"`per_device_train_batch_size` \(4\) does not fit .*\(up to 2.4 s\)\. Halve it"
    ):
        train_hf.main([str(recipe)])
    assert not list((tmp_path / "run").iterdir())


def test_a_mistake_in_a_batch_that_is_not_about_memory_stays_as_it_is(recipe, monkeypatch):
    def fail(*args):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(train_hf.AverTrainer, "training_step", fail)
    with pytest.raises(RuntimeError, match="^shapes do not fit$"):
        train_hf.main([str(recipe)])


def test_a_disk_that_takes_no_checkpoint_is_told_at_once(recipe, tmp_path, monkeypatch):
    """By a limit on the size of a file: the writing itself fails, as on a full disk."""
    original, limits = rehearsal.rehearse_save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_a_full_disk(trainer):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            original(trainer)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(rehearsal, "rehearse_save", on_a_full_disk)
    with pytest.raises(OSError, match=r"`output_dir` \(.*run\) cannot hold a checkpoint: .*File too large"):
        train_hf.main([str(recipe)])
    assert not list((tmp_path / "run").iterdir())


def test_room_for_the_state_of_the_optimizer_is_asked_for(recipe, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=100_000)
    monkeypatch.setattr(rehearsal.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"cannot hold a checkpoint: it takes 0.00 GB with the optimizer's state"):
        train_hf.main([str(recipe), "--save_strategy", "epoch"])
    train_hf.main([str(recipe), "--save_strategy", "no"])


def test_random_numbers_that_are_drawn_aside_are_drawn_again():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    with unchanged_generators():
        aside = draw()
    assert draw() == aside
    assert draw() != aside


# ── choosing a model ────────────────────────────────────────────────────────────────────────────────────────────────

CHOOSE = ("--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1")
SPLITS = ("train", "train", "train", "validation", "test", "test")
ROWS = [f"{label},{split},{split}" for label, split in zip("abaaba", SPLITS, strict=True)]  # a speaker a split


@pytest.mark.parametrize("flag", [("--load_best_model_at_end",), ("--early_stopping_patience", "1"), ()])
def test_a_model_is_never_chosen_by_the_clips_that_judge_it(recipe, flag):
    name = flag[0].removeprefix("--") if flag else "eval_strategy"
    with pytest.raises(ValueError, match=f"`{name}` scores clips while training, and train is not for that"):
        train_hf.main([str(recipe), *CHOOSE, *flag])


@pytest.mark.slow
def test_the_best_model_is_chosen_by_the_validation_part(recipe, own_clips, tmp_path, monkeypatch):
    chosen_by = []

    def evaluate(trainer, *args, **kwargs):
        chosen_by.append(list(trainer.eval_dataset["speaker_id"]))
        trainer.log(metrics := {"eval_loss": [2.0, 1.0, 3.0][len(chosen_by) - 1]})
        trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
        return metrics

    monkeypatch.setattr(train_hf.AverTrainer, "evaluate", evaluate)
    best = ("--load_best_model_at_end", "--early_stopping_patience", "1", "--save_total_limit", "1")
    data = ("--dataset_name", own_clips(*ROWS), "--eval_split", "test", "--max_steps", "9")
    train_hf.main([str(recipe), *CHOOSE, *best, *data])
    assert chosen_by == [["validation"]] * 3  # it stopped after the third, which was worse than the second
    run = tmp_path / "run"
    weights, second = load_file(run / "model.safetensors"), load_file(run / "checkpoint-2" / "model.safetensors")
    assert all(torch.equal(weights[name], second[name]) for name in second)
    assert set(pd.read_csv(run / "predictions.csv")["speaker_id"]) == {"test"}


# ── class weights and modality dropout ──────────────────────────────────────────────────────────────────────────────


def clips_of(*labels):
    features = Features({"label": ClassLabel(names=["a", "b", "c"])})
    return Dataset.from_dict({"label": list(labels)}, features=features)


def test_balanced_weights_give_each_emotion_the_same_say_and_the_loss_its_size():
    weights = balanced_class_weights(clips_of("a", "a", "a", "b"))
    torch.testing.assert_close(weights, torch.tensor([4 / 6, 4 / 2, 0.0]))
    assert weights[[0, 0, 0, 1]].mean() == 1


UNEVEN = [f"{label},s{index},train" for index, label in enumerate("aaabab")]
DESCENT = ("--optim", "sgd", "--learning_rate", "0.01", "--max_grad_norm", "0", "--class_weights", "balanced")


def test_weighted_losses_are_those_of_the_formula_and_the_logged_parts_add_up(recipe, own_clips, monkeypatch):
    steps = []

    class Recorder(train_hf.AverTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            steps.append((model.training, loss.item(), outputs, inputs["labels"]))
            return (loss, outputs) if return_outputs else loss

    monkeypatch.setattr(train_hf, "AverTrainer", Recorder)
    train_hf.main([str(recipe), "--dataset_name", own_clips(*UNEVEN), *DESCENT, "--max_steps", "1"])
    weights = torch.tensor([6 / (2 * 4), 6 / (2 * 2)])  # four clips of a, two of b
    for training, loss, outputs, labels in steps:
        weighed = F.cross_entropy(outputs.logits, labels, weights if training else None, reduction="sum") / len(labels)
        assert loss == pytest.approx((weighed + 0.5 * outputs.ctm_loss).item(), rel=1e-5)
    assert [training for training, *_ in steps] == [True, True, False]  # the rehearsal, the step, the scoring


@pytest.mark.slow
def test_one_weighted_step_of_four_clips_is_the_same_however_it_is_cut(recipe, own_clips, tmp_path):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29542")
    four = ("--max_train_samples", "4", "--max_steps", "1", "--dataset_name", own_clips(*UNEVEN), *DESCENT)
    halves = (*four, "--per_device_train_batch_size", "2")
    whole = launched(recipe, tmp_path / "whole", *four)
    plain = launched(recipe, tmp_path / "plain", *four, "--class_weights", "none")
    accumulated = launched(recipe, tmp_path / "accumulated", *halves, "--gradient_accumulation_steps", "2")
    distributed = launched(recipe, tmp_path / "distributed", *halves, launcher=torchrun)
    assert (whole["classifier.bias"] - plain["classifier.bias"]).abs().max() > 1e-5
    for name, weight in whole.items():
        for other in (accumulated, distributed):
            assert (other[name] - weight).abs().max() < 1e-6, name


def masks(num_clips):
    """A batch where the first clip has sound alone and the second video alone."""
    audio, video = torch.ones(num_clips, 5, dtype=torch.long), torch.ones(num_clips, 3, dtype=torch.long)
    video[0], audio[1] = 0, 0
    return {"attention_mask": audio, "action_units_mask": video, "labels": torch.zeros(num_clips)}


def test_no_clip_loses_both_streams_or_the_only_one_that_it_has():
    torch.manual_seed(0)
    batch = drop_streams(masks(1000), audio_rate=0.3, video_rate=0.7)
    audio, video = batch["attention_mask"].any(dim=1), batch["action_units_mask"].any(dim=1)
    assert (audio ^ video).all()  # rates that add up to 1: exactly one stream is left
    assert audio[0] and video[1]
    assert (~audio[2:]).float().mean() == pytest.approx(0.3, abs=0.05)  # three deviations of 998 draws


@pytest.mark.parametrize(("audio_rate", "video_rate", "left"), [(1.0, 0.0, "video"), (0.0, 1.0, "audio")])
def test_a_rate_of_one_drops_that_stream_of_every_clip_with_both(audio_rate, video_rate, left):
    batch = drop_streams(masks(50), audio_rate, video_rate)
    assert batch["action_units_mask"][2:].any().item() == (left == "video")
    assert batch["attention_mask"][2:].any().item() == (left == "audio")


def test_nothing_is_dropped_by_default_or_from_clips_of_one_stream():
    batch = masks(4)
    assert drop_streams(batch, 0.0, 0.0) is batch
    audio_only = {"attention_mask": batch["attention_mask"]}
    assert drop_streams(audio_only, 0.5, 0.5) is audio_only


def test_streams_are_dropped_in_training_alone(recipe, monkeypatch):
    rates = []

    def drop(batch, *given):
        rates.append(given)
        return batch

    monkeypatch.setattr(trainer_module, "drop_streams", drop)
    train_hf.main([str(recipe), "--audio_dropout_rate", "0.25", "--video_dropout_rate", "0.5"])
    assert rates == [(0.25, 0.5)] * 3  # the rehearsal and two steps, but no scoring


def test_predictions_stand_beside_their_clips_when_training_groups_by_length(recipe, tmp_path):
    flags = (
        "--train_sampling_strategy",
        "group_by_length",
        "--learning_rate",
        "0",
        "--per_device_eval_batch_size",
        "2",
    )
    train_hf.main([str(recipe), *flags])
    train_hf.main([str(recipe), "--learning_rate", "0", "--output_dir", str(tmp_path / "plain")])
    grouped, plain = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("run", "plain"))
    pd.testing.assert_frame_equal(grouped, plain, rtol=1e-4)


def test_batches_of_clips_of_like_length_are_an_argument_away(recipe, monkeypatch):
    asked = []
    original = train_hf.AverTrainer._get_train_sampler

    def sampler(trainer, *args):
        asked.append(original(trainer, *args))
        return asked[-1]

    monkeypatch.setattr(train_hf.AverTrainer, "_get_train_sampler", sampler)
    train_hf.main([str(recipe), "--train_sampling_strategy", "group_by_length", "--max_steps", "1"])
    (asked,) = asked
    assert sum(asked.sampler.lengths) == pytest.approx(12.878, abs=1e-3)  # seconds


def test_features_of_ones_own_train_a_model_of_their_size(recipe, tmp_path):
    """Six channels instead of 35, as `aver extract` leaves them; the model then refuses OpenFace's."""
    identity = FeatureIdentity("mediapipe", "0", {}, tuple(f"c{index}" for index in range(6)))
    for path in sorted((SAMPLE_DIR / "AudioWAV").glob("*.wav")):
        seconds = np.arange(60) / 30
        track = FaceTrack(seconds, np.outer(seconds, np.arange(6)).astype(np.float32), np.ones(60, bool), identity)
        write_features(tmp_path / "features" / f"{path.stem}.npz", track)
    train_hf.main([str(recipe), "--action_units_folder", str(tmp_path / "features")])
    model = AverForEmotionClassification.from_pretrained(tmp_path / "run")
    assert (model.config.num_action_units, model.config.feature_identity["name"]) == (6, "mediapipe")
    assert str(tmp_path) not in json.dumps(json.loads((tmp_path / "run" / "results.json").read_text())["dataset"])
    again = {name: value for name, value in TINY.items() if name not in train_hf_model_values()}
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump({**again, "model_name_or_path": str(tmp_path / "run")}))
    with pytest.raises(ValueError, match="trained on features of mediapipe 0, but these are of openface"):
        train_hf.main([str(path), "--output_dir", str(tmp_path / "again")])
