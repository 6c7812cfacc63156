"""`aver compare`: two runs on the same clips, and every way in which they may not be comparable."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from typer.testing import CliRunner

from modeling_aver.cli.main import app
from modeling_aver.evaluation.bootstrap import difference_intervals, score_intervals
from modeling_aver.evaluation.comparison import compare_runs
from modeling_aver.evaluation.results import read_predictions, write_results

TRUTH = ["anger", "sad", "anger", "sad"] * 5


def run_table(wrong=(), truth=TRUTH):
    """Twenty clips of five speakers; `wrong` are the clips answered with the other emotion."""
    other = {"anger": "sad", "sad": "anger"}
    return pd.DataFrame(
        {
            "utterance_id": [f"clip{index:02}" for index in range(len(truth))],
            "speaker_id": [f"{index // 4:02}" for index in range(len(truth))],
            "label": truth,
            "prediction": [other[name] if index in wrong else name for index, name in enumerate(truth)],
        }
    )


RUN_A, RUN_B = run_table(wrong=(0, 1, 2, 5, 8, 11)), run_table(wrong=(0, 7))


def saved(table, folder):
    folder.mkdir()
    table.to_csv(folder / "predictions.csv", index=False)
    return folder


def written(folder, predictions, labels=("anger", "sad", "fear")):
    """`results.json` of a made-up run."""
    config = SimpleNamespace(id2label=dict(enumerate(labels)))
    write_results(
        folder,
        metrics={"eval_war": 0.5},
        model=SimpleNamespace(config=config, num_parameters=lambda only_trainable=False: 7),
        training_args=SimpleNamespace(seed=0, world_size=1),
        data_args=SimpleNamespace(dataset_name="made_up"),
        predictions=predictions,
    )
    return json.loads((folder / "results.json").read_text())


def aver(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_the_comparison_by_hand():
    """Both miss clip 0. Only A misses 1, 2, 5, 8, 11; only B misses 7: p = 2 × (1 + 6) / 2^6."""
    found = compare_runs(RUN_A, RUN_B)
    assert (found.num_clips, found.num_speakers) == (20, 5)
    assert (found.scores_a["war"], found.scores_b["war"]) == (14 / 20, 18 / 20)
    assert found.differences["war"] == pytest.approx(0.2)
    assert found.differences["uar"] == pytest.approx((9 / 10 + 9 / 10) / 2 - (7 / 10 + 7 / 10) / 2)
    assert (found.mcnemar.only_a, found.mcnemar.only_b) == (1, 5)
    assert found.mcnemar.p_value == pytest.approx(14 / 64)
    assert found.intervals == difference_intervals(
        RUN_A["label"], RUN_A["prediction"], RUN_B["prediction"], RUN_A["speaker_id"]
    )


def test_the_order_of_the_rows_does_not_matter():
    assert compare_runs(RUN_A, RUN_B[::-1]) == compare_runs(RUN_A, RUN_B)


def test_answers_are_compared_by_name_even_where_a_run_never_gives_one():
    timid = RUN_A.assign(prediction="sad")
    assert compare_runs(timid, RUN_B).scores_a == pytest.approx(
        {"war": 0.5, "uar": 0.5, "macro_f1": 1 / 3, "weighted_f1": 1 / 3}
    )


def test_the_command_prints_scores_differences_and_the_test(tmp_path):
    output = aver("compare", saved(RUN_A, tmp_path / "a"), saved(RUN_B, tmp_path / "b"))
    lines = {line.split()[0]: line.split() for line in output.splitlines() if line.strip()}
    interval = compare_runs(RUN_A, RUN_B).intervals["clips"]["war"]
    ends = [f"{100 * interval[0]:+.2f}", "to", f"{100 * interval[1]:+.2f}"]
    assert lines["war"][:7] == ["war", "70.00", "90.00", "+20.00", *ends]
    assert lines["weighted_f1"][-2:] == ["—", "—"]
    text = " ".join(output.split())
    assert "over 20 clips" in text and "over 5 speakers" in text
    assert "Clips right only in A: 1, only in B: 5; McNemar's exact test: p = 0.22." in text


def test_the_command_writes_everything_as_json(tmp_path):
    arguments = saved(RUN_A, tmp_path / "a"), saved(RUN_B, tmp_path / "b") / "predictions.csv"
    aver("compare", *arguments, "--resamples", 50, "--seed", 7, "--out", tmp_path / "found.json")
    report = json.loads((tmp_path / "found.json").read_text())
    names = {"run_a": str(arguments[0]), "run_b": str(arguments[1])}
    assert report == {**names, **compare_runs(RUN_A, RUN_B, num_resamples=50, seed=7).to_dict()}
    assert report["intervals"]["num_resamples"] == 50 and report["intervals"]["seed"] == 7


def test_the_command_prints_a_markdown_table_with_the_names_of_the_runs(tmp_path):
    renamed = tmp_path / "b|2.csv"
    RUN_B.to_csv(renamed, index=False)
    output = aver("compare", saved(RUN_A, tmp_path / "audio") / "predictions.csv", renamed, "--markdown")
    header, rule, war, uar = output.splitlines()
    assert header.startswith(r"| % | audio | b\|2.csv | difference | 95% over 20 clips | 95% over 5 speakers |")
    assert war.startswith("| war | 70.00 | 90.00 | +20.00 | ") and war.endswith(" | 1 / 5 | 0.22 |")
    assert uar.startswith("| uar | 70.00 | 90.00 | +20.00 | ")
    assert {line.replace(r"\|", "").count("|") for line in (header, rule, war, uar)} == {9}


def test_runs_of_two_protocols_are_called_so(tmp_path):
    calibrated = saved(RUN_B.assign(speaker_profiles="unlabelled"), tmp_path / "b")
    plain = saved(RUN_A, tmp_path / "a")
    caution = (
        "Two protocols: A is without speaker profiles, B calibrated on each speaker's own unlabelled clips, test "
        "speakers included."
    )
    assert caution in " ".join(aver("compare", plain, calibrated).split())
    assert caution in aver("compare", plain, calibrated, "--markdown").splitlines()[-1]
    assert "Two protocols" not in aver("compare", calibrated, calibrated)


def test_one_speaker_leaves_the_interval_over_speakers_out(tmp_path):
    alone = [saved(run.assign(speaker_id="1001"), tmp_path / name) for name, run in (("a", RUN_A), ("b", RUN_B))]
    (war,) = [line for line in aver("compare", *alone).splitlines() if line.split()[:1] == ["war"]]
    assert war.split()[-1] == "—"


def test_different_clips_are_refused_by_name():
    with pytest.raises(ValueError) as error:
        compare_runs(RUN_A[2:], RUN_B[:-5])
    assert str(error.value) == (
        "The runs answered different clips: run B lacks 5 (clip15, clip16, clip17, …) and run A lacks 2 (clip00, "
        "clip01). Score both on the same split, or leave the others out of both files."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"label": ["sad", *TRUTH[1:]]},
            r"disagree on the label of 1 of 20 clips \(clip00: anger in A, sad in B\)\. Were both made from",
        ),
        (
            {"speaker_id": [f"{index // 2:02}" for index in range(20)]},
            r"on the speaker_id of 18 of 20 clips \(clip02: 00 in A, 01 in B; .*; …\)",
        ),
    ],
)
def test_runs_that_disagree_on_what_is_true_are_refused_with_the_first_differences(changes, message):
    with pytest.raises(ValueError, match=message):
        compare_runs(RUN_A, RUN_B.assign(**changes))


def test_predictions_are_read_as_they_were_written(tmp_path):
    table = run_table().replace({"label": {"sad": "NA"}, "prediction": {"sad": "NA"}}).assign(p_NA="0.5")
    pd.testing.assert_frame_equal(read_predictions(saved(table, tmp_path / "run")), table, check_dtype=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"p\.csv is no CSV of predictions: No columns"),
        ("a,b\n1,2\n1,2,3\n", r"p\.csv is no CSV of predictions: .*line 3, saw 3"),
        (
            "utterance_id,label\nc1,sad\n",
            r"p\.csv lacks the columns speaker_id, prediction; it has utterance_id, label",
        ),
        ("utterance_id,speaker_id,label,prediction\n", r"p\.csv holds no clip"),
        (
            "utterance_id,speaker_id,label,prediction\nc1,1,sad,sad\nc2,1,sad,\n",
            r"p\.csv: 1 rows have no prediction, first the row of line 3",
        ),
        (
            "utterance_id,speaker_id,label,prediction\nc1,1,sad,sad\nc1,1,sad,sad\n",
            r"p\.csv has 1 clips more than once, such as c1.*seeds cannot share one",
        ),
    ],
)
def test_a_file_that_is_no_table_of_predictions_is_refused(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_predictions(tmp_path / "p.csv")


def test_a_folder_without_predictions_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no .*predictions\.csv\. Give a run's folder"):
        read_predictions(tmp_path)


def test_a_run_leaves_what_can_be_compared_with_recalls_and_intervals(tmp_path):
    results = written(tmp_path, RUN_A)
    assert results["confusion"] == [[7, 3, 0], [3, 7, 0], [0, 0, 0]]
    assert results["recall"] == {"anger": 0.7, "sad": 0.7, "fear": None}
    assert results["intervals"] == score_intervals(RUN_A["label"], RUN_A["prediction"], RUN_A["speaker_id"])
    assert results["intervals"]["num_resamples"] == 2000 and results["intervals"]["seed"] == 0
    assert compare_runs(read_predictions(tmp_path), RUN_A).differences["war"] == 0


def test_a_write_that_fails_leaves_the_old_results_whole(tmp_path, monkeypatch):
    before = written(tmp_path, RUN_A)

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            written(tmp_path, RUN_B)
    assert json.loads((tmp_path / "results.json").read_text()) == before
    assert read_predictions(tmp_path)["prediction"].tolist() == RUN_A["prediction"].tolist()


def test_the_published_fusion_beats_the_published_audio_on_ravdess(shared):
    """Reference [2] prints 81.82 and 86.70; whether that is chance it does not say."""
    with (shared / "data" / "ravdess" / "luna_jimenez_predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    clips = [row["utterance_id"] for row in rows]
    facts = {
        "utterance_id": clips,
        "speaker_id": [clip[-2:] for clip in clips],
        "label": [row["label"] for row in rows],
    }
    audio, fusion = (
        pd.DataFrame({**facts, "prediction": [row[column] for row in rows]})
        for column in ("audio_wav2vec2", "late_fusion")
    )
    found = compare_runs(audio, fusion)
    assert (found.num_clips, found.num_speakers) == (1440, 24)
    assert (found.mcnemar.only_a, found.mcnemar.only_b) == (28, 97)
    assert found.mcnemar.p_value < 1e-9
    assert min(found.intervals["speakers"]["war"]) > 0.03
