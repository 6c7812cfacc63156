"""Cross-validation and repetitions from the command line, on made-up sound of RAVDESS's 24 actors."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from support.corpora import ravdess_names, tiny_sound
from support.training import ROOT, TINY

import train_hf
from modeling_aver.cards.experiment_card import write_experiment_card
from modeling_aver.cards.push import push_run
from modeling_aver.evaluation.cross_validation import ARGUMENTS, Run, find_folds, plan_runs, summarize

FAMILY = "luna_jimenez_5fold"
FOLDS = ["1", "2", "3", "4", "5"]
SCORES = ("war", "uar", "macro_f1")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Two clips of each actor: calm and happy."""
    folder = tmp_path_factory.mktemp("made_up")
    for name in ravdess_names():
        if name[6:17] in ("02-01-01-01", "03-01-01-01"):
            (folder / f"03{name[2:]}.wav").write_bytes(tiny_sound(seconds=0.1 + 0.01 * int(name[7])))
    data = {"dataset_name": "ravdess", "data_dir": str(folder), "dataset_config_name": FAMILY, "eval_split": "test"}
    path = tmp_path_factory.mktemp("recipe") / "folds.yaml"
    path.write_text(yaml.safe_dump({**TINY, **data, "max_steps": 1, "per_device_eval_batch_size": 48}))
    return path


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """The folder of a cross-validation."""
    folder = tmp_path_factory.mktemp("finished")
    train_hf.main([str(recipe), "--output_dir", str(folder), "--fold", "all"])
    return folder


@pytest.fixture
def experiment(finished, tmp_path):
    """A copy of it, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "experiment"))


@pytest.fixture
def trainings(monkeypatch):
    """Folders that a Trainer is made for, from now on."""
    folders = []

    class Recorder(train_hf.AverTrainer):
        def __init__(self, model, args, *more, **kwargs):
            folders.append(Path(args.output_dir).name)
            super().__init__(model, args, *more, **kwargs)

    monkeypatch.setattr(train_hf, "AverTrainer", Recorder)
    return folders


def read(path):
    return json.loads(path.read_text())


def cross_validate(recipe, folder, *flags):
    train_hf.main([str(recipe), "--output_dir", str(folder), "--fold", "all", *flags])
    return read(folder / "results.json")


# ── which runs there are ────────────────────────────────────────────────────────────────────────────────────────────


NAMES = ["emobox", "speaker_5fold_1", "speaker_5fold_2", "many_10", "many_9", "all"]


def test_folds_are_found_by_the_name_of_their_protocol_in_the_order_of_their_numbers():
    assert find_folds("many", NAMES) == {"9": "many_9", "10": "many_10"}
    assert list(find_folds("many", NAMES)) == ["9", "10"]


@pytest.mark.parametrize("family", ["emobox", "speaker_5fold_1", "nothing", None])
def test_a_protocol_without_folds_is_told_which_have_some(family):
    with pytest.raises(
        ValueError, match=rf"\({family}\) has no folds. With folds are: many \(2\), speaker_5fold \(2\)"
    ):
        find_folds(family, NAMES)


def planned(fold=None, seeds=1, eval_split="test", push_to_hub=False):
    data_args = SimpleNamespace(fold=fold, dataset_config_name="speaker_5fold", eval_split=eval_split)
    training_args = SimpleNamespace(output_dir="out", seed=7, seeds=seeds, push_to_hub=push_to_hub)
    return [(run.folder.as_posix(), run.seed, run.config) for run in plan_runs(data_args, training_args, NAMES)]


def test_each_seed_trains_each_fold_in_a_folder_of_its_own():
    assert planned() == [("out", 7, "speaker_5fold")]
    assert planned(fold="2") == [("out", 7, "speaker_5fold_2")]
    assert planned(fold="all") == [
        ("out/fold_1", 7, "speaker_5fold_1"),
        ("out/fold_2", 7, "speaker_5fold_2"),
    ]
    assert planned(seeds=2) == [("out/seed_7", 7, "speaker_5fold"), ("out/seed_8", 8, "speaker_5fold")]
    assert [folder for folder, *_ in planned(fold="all", seeds=2)] == [
        "out/seed_7/fold_1",
        "out/seed_7/fold_2",
        "out/seed_8/fold_1",
        "out/seed_8/fold_2",
    ]


def test_a_fold_that_does_not_exist_is_told_which_do():
    with pytest.raises(ValueError, match=r"`fold` \(6\) must be all, or one of 1, 2, the folds of speaker_5fold"):
        planned(fold="6")


@pytest.mark.parametrize("several", [{"fold": "all"}, {"seeds": 2}])
def test_several_runs_have_to_be_scored_and_are_no_single_model_to_push(several):
    with pytest.raises(ValueError, match="`eval_split` is missing"):
        planned(eval_split=None, **several)
    with pytest.raises(ValueError, match="`push_to_hub` takes the model of one run, but these are 2"):
        planned(push_to_hub=True, **several)


def test_clips_of_one_s_own_have_no_folds(tmp_path):
    with pytest.raises(ValueError, match=r"has no folds. With folds are: none"):
        train_hf.main(["--dataset_name", "my.csv", "--fold", "all", "--output_dir", str(tmp_path)])


# ── their results ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_results_bring_the_folds_together(finished):
    results = read(finished / "results.json")
    of_folds = [read(finished / f"fold_{fold}" / "results.json")["metrics"] for fold in FOLDS]
    for name in SCORES:
        values = [metrics[f"eval_{name}"] for metrics in of_folds]
        assert [results["folds"][fold][name] for fold in FOLDS] == values
        assert results["metrics"][f"eval_{name}"] == pytest.approx(sum(values) / 5)
        assert results["std"][name] == pytest.approx(np.std(values, ddof=1))
    assert [results["folds"][fold]["clips"] for fold in FOLDS] == [10, 10, 10, 10, 8]
    assert (results["dataset"]["fold"], results["dataset"]["dataset_config_name"]) == ("all", FAMILY)


def test_pooled_scores_are_those_of_each_clip_once(finished):
    results, together = read(finished / "results.json"), pd.read_csv(finished / "predictions.csv", dtype=str)
    assert together["utterance_id"].is_unique and len(together) == 48
    assert set(together["speaker_id"]) == {f"{actor:02d}" for actor in range(1, 25)}
    assert list(together["fold"].unique()) == FOLDS
    right = (together["label"] == together["prediction"]).mean()
    assert results["pooled"]["war"] == pytest.approx(right)
    assert np.sum(results["confusion"]) == 48 and np.trace(results["confusion"]) == round(48 * right)


def test_clips_without_action_units_are_counted_and_told_on_the_console_and_the_card(recipe, experiment, capsys):
    of_fold = read(experiment / "fold_5" / "results.json")["clips_without_action_units"]
    assert of_fold == {"train": {"count": 40, "total": 40}, "test": {"count": 8, "total": 8}}
    assert read(experiment / "results.json")["clips_without_action_units"] == {"test": {"count": 48, "total": 48}}
    warning = "48 of 48 clips of `test` have no action units: of these the model had the sound alone. The scores are"
    cross_validate(recipe, experiment)
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith(f"Warning: {warning} those of an audio model")
    assert re.search(rf"^> \*\*.*{warning}", (experiment / "README.md").read_text(), re.MULTILINE)
    assert "> **40 of 40 clips of `train` and 8 of 8" in (experiment / "fold_5" / "README.md").read_text()


def test_the_table_has_a_line_for_each_fold_and_for_mean_spread_and_pool(recipe, experiment, capsys):
    results = cross_validate(recipe, experiment)
    table = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    lines = {line[0]: line[1:] for line in table}
    assert [name for name in lines if name in (*FOLDS, "mean", "std", "pooled")] == [*FOLDS, "mean", "std", "pooled"]
    assert lines["mean"] == [f"{100 * results['metrics'][f'eval_{name}']:.2f}" for name in SCORES]
    assert lines["std"][0] == f"{100 * results['std']['war']:.2f}"


# ── their card ──────────────────────────────────────────────────────────────────────────────────────────────────────


def cells(text, name):
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_card_of_a_cross_validation_holds_the_numbers_of_its_results(finished):
    text, results = (finished / "README.md").read_text(), read(finished / "results.json")
    for fold, scores in results["folds"].items():
        assert cells(text, fold) == [str(scores["clips"]), *(f"{100 * scores[name]:.2f}" for name in SCORES)]
        assert (
            f"[`fold_{fold}`](fold_{fold}/README.md)" in text and (finished / f"fold_{fold}" / "README.md").is_file()
        )
    assert cells(text, "mean")[1:] == [f"{100 * results['metrics'][f'eval_{name}']:.2f}" for name in SCORES]
    assert cells(text, "sd")[1:] == [f"{100 * results['std'][name]:.2f}" for name in SCORES]
    assert cells(text, "pooled")[1:] == [f"{100 * results['pooled'][name]:.2f}" for name in SCORES]
    low, high = results["intervals"]["clips"]["war"]
    assert cells(text, "WAR")[:2] == [f"{100 * results['pooled']['war']:.2f}", f"{100 * low:.2f} to {100 * high:.2f}"]
    assert cells(text, "calm")[0] == str(sum(results["confusion"][results["labels"].index("calm")]))


def test_the_card_says_what_the_runs_are_and_that_no_weights_are_here(finished):
    text = (finished / "README.md").read_text()
    assert "**No weights are in this folder.**" in text and not list(finished.glob("*.safetensors"))
    for piece in (
        "Nobody speaks in training and in scoring alike",
        "CC BY-NC-SA 4.0",
        "Acted emotion is not felt emotion",
        "](confusion.png)",
        "livingstone2018ravdess",
    ):
        assert piece in text
    assert (finished / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert "/tmp/" not in text and str(finished.parent) not in text


def test_the_card_of_seeds_has_a_line_for_each(finished, tmp_path):
    for seed in (3, 4):
        shutil.copytree(finished / "fold_2", tmp_path / f"seed_{seed}")
    summarize(tmp_path, [Run(tmp_path / f"seed_{seed}", seed, f"{FAMILY}_2") for seed in (3, 4)])
    text = write_experiment_card(tmp_path).read_text()
    war = f"{100 * read(finished / 'fold_2' / 'results.json')['metrics']['eval_war']:.2f}"
    assert cells(text, "3")[0] == cells(text, "4")[0] == cells(text, "mean")[0] == war
    assert cells(text, "sd")[0] == "0.00" and "pooled" not in text and "predictions.csv" not in text


def test_predictions_of_other_runs_get_no_card(experiment):
    table = pd.read_csv(experiment / "predictions.csv", dtype=str)
    table.loc[0, "prediction"] = "sad"
    table.to_csv(experiment / "predictions.csv", index=False)
    with pytest.raises(ValueError, match="results.json counts other clips or answers"):
        write_experiment_card(experiment)


def test_a_single_run_has_another_card(finished):
    with pytest.raises(ValueError, match="fold_1 holds one run, not several"):
        write_experiment_card(finished / "fold_1")


def test_an_experiment_is_not_pushed_but_each_of_its_runs(finished):
    with pytest.raises(ValueError, match=r"brings 5 runs together and holds no model. Name one of them, .*fold_1\."):
        push_run(finished, "org/aver")


# ── going on ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_finished_fold_is_not_trained_again(recipe, finished, experiment, trainings):
    assert cross_validate(recipe, experiment) == read(finished / "results.json")
    assert trainings == []


@pytest.mark.parametrize("left", ["nothing", "half a file"])
def test_only_the_fold_that_was_broken_off_is_trained_again(recipe, finished, experiment, trainings, left):
    path = experiment / "fold_3" / "results.json"
    path.write_text('{"metrics": {') if left == "half a file" else os.remove(path)
    results = cross_validate(recipe, experiment)
    assert trainings == ["fold_3"]
    assert results["folds"] == read(finished / "results.json")["folds"]


def test_other_arguments_are_refused_by_name(recipe, experiment, trainings):
    with pytest.raises(
        ValueError, match=r"fold_1 was begun with ctm_loss_weight None \(now 0.1\), seed 42 \(now 1\)\."
    ):
        cross_validate(recipe, experiment, "--ctm_loss_weight", "0.1", "--seed", "1")
    with pytest.raises(ValueError, match=rf"dataset_config_name {FAMILY}_1 \(now emobox_6fold_1\)"):
        cross_validate(recipe, experiment, "--dataset_config_name", "emobox_6fold")
    assert trainings == []


def test_one_run_and_several_do_not_replace_each_other_s_results(recipe, finished, experiment, trainings):
    with pytest.raises(ValueError, match=r"holds the results of 5 folds, which one run would replace\. Name another"):
        train_hf.main([str(recipe), "--output_dir", str(experiment), "--fold", "1", "--overwrite", "true"])
    with pytest.raises(
        ValueError, match=r"fold_1\) holds a finished run of .*, which the results of several runs would"
    ):
        cross_validate(recipe, experiment / "fold_1")
    assert trainings == [] and read(experiment / "results.json") == read(finished / "results.json")


def test_a_mistake_leaves_finished_folds_as_they_are(recipe, experiment, monkeypatch):
    def fail(data_args):
        raise ValueError("no data")

    before = {path: path.read_bytes() for path in experiment.rglob("*.json")}
    monkeypatch.setattr(train_hf, "load_splits", fail)
    with pytest.raises(ValueError, match="no data"):
        cross_validate(recipe, experiment, "--overwrite", "true", "--seed", "1")
    assert {path: path.read_bytes() for path in experiment.rglob("*.json")} == before


@pytest.mark.slow
def test_finished_folds_are_trained_again_where_it_is_asked_for(recipe, experiment, trainings):
    results = cross_validate(recipe, experiment, "--overwrite", "true", "--seed", "1")
    assert trainings == [f"fold_{fold}" for fold in FOLDS] and results["seed"] == 1


def test_arguments_that_decide_no_number_may_change(recipe, experiment, trainings):
    cross_validate(recipe, experiment, "--logging_steps", "7", "--resume", "--per_device_eval_batch_size", "3")
    assert trainings == []


def test_what_a_run_was_begun_with_holds_no_path_of_the_machine(finished):
    assert "data_dir" not in read(finished / "fold_1" / ARGUMENTS)
    assert str(finished) not in (finished / "fold_1" / ARGUMENTS).read_text()


# ── seeds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_seeds_repeat_a_run_and_report_its_spread(recipe, tmp_path, trainings, capsys):
    one_fold = ("--fold", "2", "--seeds", "2", "--seed", "3")
    train_hf.main([str(recipe), "--output_dir", str(tmp_path), *one_fold])
    assert trainings == ["seed_3", "seed_4"]
    results = read(tmp_path / "results.json")
    of_seeds = [read(tmp_path / f"seed_{seed}" / "results.json") for seed in (3, 4)]
    assert [one["seed"] for one in of_seeds] == [3, 4] and results["seed"] == [3, 4]
    values = [one["metrics"]["eval_war"] for one in of_seeds]
    assert [results["seeds"][seed]["war"] for seed in ("3", "4")] == values
    assert results["metrics"]["eval_war"] == pytest.approx(np.mean(values))
    assert results["std"]["war"] == pytest.approx(np.std(values, ddof=1))
    assert "confusion" not in results
    assert results["dataset"]["dataset_config_name"] == f"{FAMILY}_2"
    assert "pooled" not in capsys.readouterr().out


def test_seeds_over_folds_report_the_mean_over_seeds_of_the_means_over_folds(recipe, finished, tmp_path, trainings):
    """Each seed's folds are there already, so that nothing is trained."""
    for seed in (42, 43):
        for fold in FOLDS:
            folder = Path(shutil.copytree(finished / f"fold_{fold}", tmp_path / f"seed_{seed}" / f"fold_{fold}"))
            (folder / ARGUMENTS).write_text(json.dumps({**read(folder / ARGUMENTS), "seed": seed}))
    better = tmp_path / "seed_43" / "fold_3" / "results.json"
    changed = read(better)
    changed["metrics"]["eval_war"] += 0.25
    better.write_text(json.dumps(changed))
    results = cross_validate(recipe, tmp_path, "--seeds", "2")
    assert trainings == []
    mean = read(finished / "results.json")["metrics"]["eval_war"]
    assert results["seeds"]["42"]["war"] == pytest.approx(mean)
    assert results["seeds"]["43"]["war"] == pytest.approx(mean + 0.05)
    assert results["metrics"]["eval_war"] == pytest.approx(mean + 0.025)
    assert read(tmp_path / "seed_43" / "results.json")["metrics"]["eval_war"] == pytest.approx(mean + 0.05)
    assert len(pd.read_csv(tmp_path / "seed_42" / "predictions.csv")) == 48


@pytest.mark.slow
def test_two_processes_cross_validate_and_one_of_them_writes(recipe, tmp_path):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29543")
    launch = [*torchrun, str(ROOT / "train_hf.py"), str(recipe), "--output_dir", str(tmp_path), "--fold", "all"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for _ in ("trained", "found finished"):
        run = subprocess.run(launch, capture_output=True, text=True, timeout=240, cwd=ROOT, env=environment)
        assert run.returncode == 0, run.stderr[-3000:]
        assert run.stdout.count("pooled") == 1
        results = read(tmp_path / "results.json")
        assert results["num_processes"] == 2
        assert np.sum(results["confusion"]) == 48
