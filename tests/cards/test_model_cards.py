"""The card of a run says what was measured, of which clips, and what the model is not for."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import ModelCard
from support.runs import change_json, made_up_predictions, made_up_run

from modeling_aver.cards import model_card as card
from modeling_aver.cards.model_card import PICTURES, check_card, render_card, write_card
from modeling_aver.evaluation.run_folder import FinishedRun, portable_results

MODEL_CARDS = Path(__file__).resolve().parents[2] / "model_cards"
COMMITTED = sorted(path.parent for path in MODEL_CARDS.glob("*/config.json"))  # of one run each


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is never changed."""
    return made_up_run(tmp_path_factory.mktemp("runs") / "aver-holdout")


@pytest.fixture
def run(finished, tmp_path):
    """A copy to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "aver-holdout"))


def card_of(folder):
    return ModelCard(render_card(FinishedRun.read(folder)))


def section(text, name):
    return re.search(rf"\n## {name}\n(.*?)(\n## |\Z)", text, flags=re.DOTALL)[1]


def row(text, name):
    """Cells of a Markdown table's row behind its first."""
    return [cell.strip() for cell in re.search(rf"^\| {name} \|(.*)\|$", text, flags=re.MULTILINE)[1].split("|")]


def test_scores_and_recalls_are_those_of_the_results(run):
    results = section(card_of(run).text, "Results")
    intervals = json.loads((run / "results.json").read_text())["intervals"]
    low, high = intervals["clips"]["war"]
    assert row(results, "WAR")[:2] == ["71.43", f"{100 * low:.2f} to {100 * high:.2f}"]
    assert row(results, "UAR")[0] == "73.33" and row(results, "macro F1") == ["80.00", "—", "—"]
    table = made_up_predictions()
    for emotion, clips in table.groupby("label"):
        right = (clips["label"] == clips["prediction"]).mean()
        assert row(results, emotion) == [str(len(clips)), f"{100 * right:.2f}"]
    assert row(results, "sad") == ["0", "—"], "an emotion without clips has no recall"
    assert 'To\nanswer always "anger" would give a WAR of 21.43 %' in results


def test_the_metadata_is_what_the_hub_reads(run):
    data = card_of(run).data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "audio-classification",
        "apache-2.0",
    )
    assert data.datasets == ["crema_d"] and data.language == "en" and data.base_model is None
    assert {"audio-visual", "emotion-recognition"} <= set(data.tags) and data.metrics == ["accuracy", "recall", "f1"]


def test_the_model_index_holds_the_measured_values_unrounded(run):
    data = card_of(run).data
    measured = json.loads((run / "results.json").read_text())["metrics"]
    assert data.model_name == "aver-holdout"
    assert {result.metric_name: result.metric_value for result in data.eval_results} == {
        "WAR": measured["eval_war"],
        "UAR": measured["eval_uar"],
        "macro F1": measured["eval_macro_f1"],
    }
    for result in data.eval_results:
        assert (result.dataset_type, result.dataset_config, result.dataset_split) == (
            *("crema_d", "speaker_holdout", "test"),
        )


def test_scores_of_clips_trained_on_are_called_so_and_not_published(tmp_path):
    made = card_of(made_up_run(tmp_path, train_split="test"))
    assert made.data.eval_results is None and made.data.model_name is None
    assert "> **The clips that were scored are those that the model was trained on. Their scores say" in made.text
    assert "**Every scored clip was trained on.**" in made.text


@pytest.mark.parametrize("scored", [True, False])
def test_clips_without_action_units_are_told_first(tmp_path, scored):
    counts = {"train": {"count": 1150, "total": 1152}, "test": {"count": 1, "total": 14}}
    text = card_of(made_up_run(tmp_path / "most", scored=scored, without_action_units=counts)).text
    told = "1,150 of 1,152 clips of `train` and 1 of 14 clips of `test` have no action units: of these the model had"
    assert f"> **{told} the sound alone. The scores are those of an audio model" in text and f"- **{told}" in text
    few = {"train": {"count": 0, "total": 1152}, "test": {"count": 1, "total": 14}}
    text = card_of(made_up_run(tmp_path / "few", scored=scored, without_action_units=few)).text
    assert "> **1 of 14 clips of `test` have no action units: of these the model had the sound alone.**" in text
    none = {"train": {"count": 0, "total": 1152}}
    assert "action units:" not in card_of(made_up_run(tmp_path / "none", without_action_units=none)).text


SPLITS = {
    "named by the corpus": ({"dataset_config_name": "emobox"}, "**crema_d emobox: the same speakers are in train"),
    "behind a Hub id": (
        {"dataset_name": "org/crema-d-au", "dataset_config_name": "emobox"},
        "**crema_d emobox: the same speakers are in train",
    ),
    "speaker-independent": ({}, "Nobody speaks in training and in scoring alike"),
    "a fold, numbered beside its name": (
        {"dataset_name": "ravdess", "dataset_config_name": "luna_jimenez_5fold", "fold": "2"},
        "Split: https://github.com/cristinalunaj/MMEmotionRecognition; Luna-Jiménez et al. 2021.",
    ),
    "nowhere published": (
        {"dataset_name": "/home/anna/clips.csv", "dataset_config_name": None},
        "Whether anybody speaks in training and in scoring alike is not recorded",
    ),
}


@pytest.mark.parametrize("case", SPLITS)
def test_the_card_says_whether_speakers_overlap(case, run):
    dataset, sentence = SPLITS[case]
    recorded = json.loads((run / "results.json").read_text())["dataset"]
    change_json(run / "results.json", dataset={**recorded, **dataset})
    text = card_of(run).text
    assert sentence in section(text, "Trained and scored on")
    assert ("> **crema_d emobox" in text) == ("emobox" in sentence), "the warning also stands above the numbers"


def test_a_run_with_speaker_profiles_is_called_so_wherever_its_scores_stand(run):
    plain = card_of(run)
    recorded = json.loads((run / "results.json").read_text())["dataset"]
    change_json(run / "results.json", dataset={**recorded, "speaker_profiles": "unlabelled"})
    made = card_of(run)
    assert "> **This run is calibrated on each speaker's own unlabelled clips, test speakers included:" in made.text
    assert "`aver enroll`" in section(made.text, "Limits")
    assert {"WAR, calibrated on each speaker's own unlabelled clips, test speakers included"} <= {
        result.metric_name for result in made.data.eval_results
    }
    assert "calibrated on" not in plain.text and "WAR" in {result.metric_name for result in plain.data.eval_results}


@pytest.mark.parametrize("choice", [{"load_best_model_at_end": True}, {"early_stopping_patience": 3}])
def test_a_checkpoint_chosen_by_the_scored_clips_is_called_so(choice, run):
    recorded = json.loads((run / "results.json").read_text())["dataset"]
    (run / "training_args.json").write_text(json.dumps(choice))
    assert "was chosen by" not in card_of(run).text
    change_json(run / "results.json", dataset={**recorded, "eval_split": "validation"})
    assert "> **The checkpoint was chosen by the clips that it was scored on.**" in card_of(run).text


def test_a_card_never_shows_a_number_without_its_results_file(run):
    (run / "results.json").unlink()
    with pytest.raises(ValueError, match=r"aver-holdout holds no results.json, and without one there is no card"):
        write_card(run)
    assert not (run / "README.md").exists()


def test_a_run_that_scored_nothing_has_no_scores(tmp_path):
    made = ModelCard.load(write_card(made_up_run(tmp_path, scored=False, log=False)))
    assert "This run scored no clips" in made.text and made.data.eval_results is None
    assert not re.search(r"\d+\.\d\d", section(made.text, "Results"))
    assert not list(tmp_path.glob("*.png")) and not (tmp_path / "training_log.csv").exists()


def swap_answers(run):
    table = pd.read_csv(run / "predictions.csv")
    table.loc[0, "prediction"] = "sad"
    table.to_csv(run / "predictions.csv", index=False)


def rename_label(run):
    table = pd.read_csv(run / "predictions.csv")
    table.replace({"label": {"anger": "fury"}}).to_csv(run / "predictions.csv", index=False)


DAMAGES = {
    "answers of another run": (swap_answers, r"has 9 of 14 clips right, and results.json counts other clips"),
    "an emotion of another model": (rename_label, r"predictions.csv has fury, no label of the model"),
    "a better number": (
        lambda run: change_json(run / "results.json", metrics={"eval_war": 0.99}),
        r"results.json says eval_war 0.99, but its predictions.csv gives 0.7143",
    ),
    "labels of another model": (
        lambda run: change_json(run / "results.json", labels=["calm", "sad"]),
        r"results.json is of the labels calm, sad, but config.json has anger, disgust",
    ),
    "half a file": (
        lambda run: (run / "results.json").write_text((run / "results.json").read_text()[:99]),
        r"results.json is not JSON .* Was it cut short\?",
    ),
    "results of something else": (
        lambda run: (run / "results.json").write_text('{"war": 1, "labels": []}'),
        r"results.json lacks metrics, scored_clips_were_trained_on, dataset, command, versions: it was not written by",
    ),
    "no processor": (lambda run: (run / "processor_config.json").unlink(), r"lacks processor_config.json: name the"),
    "no folder": (shutil.rmtree, r"aver-holdout is no folder. Name one that train_hf.py wrote"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_pieces_of_different_runs_get_no_card(case, run):
    damage, message = DAMAGES[case]
    damage(run)
    with pytest.raises(ValueError, match=message):
        write_card(run)


def test_predictions_that_are_gone_are_missed(run):
    (run / "predictions.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"predictions.csv"):
        write_card(run)


def test_pictures_are_drawn_and_shown(run):
    text = write_card(run).read_text()
    for name in PICTURES:
        assert (run / name).read_bytes().startswith(b"\x89PNG") and f"]({name})" in text


def test_without_matplotlib_a_table_counts_the_clips_and_old_pictures_go(run, monkeypatch):
    write_card(run)
    find = importlib.util.find_spec
    monkeypatch.setattr(card, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    text = write_card(run).read_text()
    assert not [name for name in PICTURES if name in text or (run / name).exists()]
    assert "| anger | 2 | 0 | 0 | 0 | 0 | 1 |" in text and "training_log.csv" in text


def test_the_log_has_a_row_a_step_with_the_losses_of_both_sides(run):
    write_card(run)
    log = pd.read_csv(run / "training_log.csv")
    assert list(log["step"]) == [1, 2] and list(log["loss"]) == [2.5, 2.25]
    assert log["eval_loss"].isna().tolist() == [True, False] and log["eval_loss"][1] == 2.0
    assert not [name for name in log if "runtime" in name or "per_second" in name]


def test_the_card_says_which_rows_of_the_tables_it_is(tmp_path):
    values = {"fusion_layers": ["isa", "ica"], "position_embedding_type": "rope", "ctm_loss_weight": 0.0}
    facts = section(card_of(made_up_run(tmp_path, config=values)).text, "What it is")
    assert "fusion_layers=['isa', 'ica'], position_embedding_type='rope'" in facts and "ctm_loss_weight=0.0" in facts
    assert "Fusion: ISA + ICA, a row of Table 2. Positions: RoPE without CTM loss, a cell of Table 3." in facts
    odd = {"fusion_layers": ["msa"], "position_embedding_type": "none"}
    facts = section(card_of(made_up_run(tmp_path, config=odd)).text, "What it is")
    assert "MSA, which Table 2 does not have" in facts and "none, which Table 3 does not have; with CTM" in facts


def test_the_card_says_who_made_the_features(run):
    facts = section(card_of(run).text, "What it is")
    assert "openface (static False) (version unknown), `AU00` to `AU06`" in facts and "standardized by" in facts
    change_json(run / "config.json", feature_identity=None)
    assert "Which extractor made them is not recorded." in card_of(run).text


def test_an_audio_encoder_of_the_hub_is_the_base_model(run):
    audio = json.loads((run / "config.json").read_text())["audio_config"]
    assert "no Hub id is on record" in card_of(run).text
    change_json(run / "config.json", audio_config={**audio, "_name_or_path": "facebook/wav2vec2-large-xlsr-53"})
    made = card_of(run)
    assert made.data.base_model == "facebook/wav2vec2-large-xlsr-53"
    assert "started from [facebook/wav2vec2-large-xlsr-53](https://huggingface.co/facebook/wav2vec2" in made.text
    change_json(run / "config.json", audio_config={**audio, "_name_or_path": "/home/anna/xlsr"})
    made = card_of(run)
    assert made.data.base_model is None and "anna" not in made.text


def test_a_model_of_ravdess_is_not_for_commerce(run):
    recorded = json.loads((run / "results.json").read_text())["dataset"]
    ravdess = {**recorded, "dataset_name": "ravdess", "dataset_config_name": "luna_jimenez_5fold_1"}
    change_json(run / "results.json", dataset=ravdess)
    made = card_of(run)
    assert made.data.license == "cc-by-nc-sa-4.0" and "is not for commerce" in section(made.text, "Licences")
    assert "livingstone2018ravdess" in section(made.text, "Citation")


def test_the_card_says_what_the_model_must_not_be_used_for(run):
    text = section(card_of(run).text, "Not for")
    assert "**at work or in education**" in text and "2024/1689" in text and "Article 5(1)(f)" in text
    assert "Acted emotion is not felt emotion" in text


def test_no_path_of_the_machine_is_on_the_card(run):
    made = card_of(run)
    assert "train_hf.py a.yaml --data_dir .../CREMA-D --bf16" in made.text and "anna" not in made.text


@pytest.mark.parametrize(
    ("given", "kept"),
    {
        "/home/anna/x/": ".../x",
        "~/x": ".../x",
        "C:\\data\\x": ".../x",
        "--data_dir=/home/anna/x": "--data_dir=.../x",
        "runs/demo": "runs/demo",
        "org/model": "org/model",
        "1/2": "1/2",
    }.items(),
)
def test_absolute_paths_lose_all_but_their_name(given, kept):
    from shlex import join

    results = {"command": join(["train_hf.py", given]), "dataset": {"dataset_name": given, "max_train_samples": 3}}
    assert portable_results(results) == {
        "command": join(["train_hf.py", kept]),
        "dataset": {"dataset_name": kept, "max_train_samples": 3},
    }


def test_a_label_cannot_break_the_table(tmp_path):
    folder = made_up_run(tmp_path, config={"id2label": dict(enumerate(["a|b", "c", "d", "e", "f", "g"]))})
    assert r"| a\|b | 3 | 66.67 |" in card_of(folder).text


def test_a_card_that_claims_more_than_its_results_is_refused(run):
    path = write_card(run)
    check_card(FinishedRun.read(run))
    path.write_text(path.read_text().replace(f"value: {10 / 14}", "value: 0.95"))
    with pytest.raises(ValueError, match=r"README.md claims WAR 0.95, which results.json does not give"):
        check_card(FinishedRun.read(run))


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_a_committed_card_is_what_its_committed_results_give(folder):
    pictures = [name for name in PICTURES if (folder / name).is_file()]
    assert (folder / "README.md").read_text() == render_card(FinishedRun.read(folder), pictures)
    assert "confusion.png" in pictures
    texts = [path.read_text() for path in folder.iterdir() if path.suffix in (".json", ".csv", ".md")]
    assert not [text for text in texts if re.search(r"/(home|root|tmp|work|Users)/", text)]


def test_there_is_a_committed_card_and_no_weights_beside_it():
    assert COMMITTED
    assert not list(MODEL_CARDS.rglob("*.safetensors")) and not list(MODEL_CARDS.rglob("*.bin"))


def test_the_template_is_installed_with_the_package():
    assert '"modeling_aver.cards" = ["templates/*.md"]' in (MODEL_CARDS.parent / "pyproject.toml").read_text()
    assert (Path(card.__file__).parent / "templates" / card.TEMPLATE).is_file()
