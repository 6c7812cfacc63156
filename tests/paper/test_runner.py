"""`aver reproduce`: the paper's grids, what runs and what does not run again, and the tables."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from support.commands import aver
from support.corpora import ravdess_names, tiny_sound
from support.training import TINY
from typer.testing import CliRunner

import train_hf
from modeling_aver import AverConfig, AverForEmotionClassification
from modeling_aver.cli.main import app
from modeling_aver.paper import runner as reproduction
from modeling_aver.paper.command import find_recipe
from modeling_aver.paper.experiments import EXPERIMENTS, fusion_cost, parameter_note
from modeling_aver.paper.results import RowRuns, measure
from modeling_aver.paper.runner import Plan, last_lines, plan_experiment, run_jobs
from modeling_aver.paper.tables import experiment_table, notes_of, write_tables

TABLE_2 = EXPERIMENTS["table2"]
ROWS_2 = [row.name for row in TABLE_2.rows]
# Stands in for train_hf.py where only the running of rows is looked at: fails for concat, else leaves results.
SCRIPT = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
print("step 1\\rstep 2\\r", flush=True)
if "concat" in str(folder):
    sys.exit("train_hf.py: something is wrong with concat")
print(" ".join(sys.argv[1:]))
(folder / "results.json").write_text(json.dumps({"metrics": {"eval_war": 0.5}}))
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "report_to": "none", "max_steps": 1, "seed": 7}))
    return path


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Rows run [`SCRIPT`]."""
    path = tmp_path / "train_hf.py"
    path.write_text(SCRIPT)
    monkeypatch.setattr(reproduction.train_hf, "__file__", str(path))


@pytest.fixture
def in_this_process(monkeypatch):
    """Rows train in this process: to load torch for each takes longer than to train it. Names of their folders."""
    folders = []

    def run(command, stdout, **_):
        argv = command[command.index(train_hf.__file__) + 1 :]
        folders.append(Path(argv[argv.index("--output_dir") + 1]).parent.name)
        with contextlib.redirect_stdout(stdout):
            train_hf.main(argv)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(reproduction, "subprocess", SimpleNamespace(run=run, STDOUT=subprocess.STDOUT))
    return folders


def read(path):
    return json.loads(path.read_text())


# ── the grids ───────────────────────────────────────────────────────────────────────────────────────────────────────


def printed_table(shared, number):
    """Lines of a table of the paper, as lists of cells."""
    text = (shared / "paper.md").read_text().split(f"**Table {number}.**")[1].split("\n\n")[1]
    return [[re.sub(r"</?b>", "", cell).strip() for cell in line.split("\t")] for line in text.splitlines()[1:]]


def test_table_1_is_the_papers(shared):
    table = EXPERIMENTS["table1"]
    ours = [[method.title, str(method.year), method.paper] for method in table.earlier]
    ours.append([table.rows[0].title, "2025", table.rows[0].paper])
    corpora = ("crema_d", "ravdess")
    as_printed = [
        [title, year, *(f"{paper[corpus]:.2f}" if corpus in paper else "-" for corpus in corpora)]
        for title, year, paper in ours
    ]
    assert as_printed == printed_table(shared, 1)


def test_tables_2_and_3_are_the_papers(shared):
    printed = printed_table(shared, 2)
    assert [[row.title, f"{row.paper['crema_d']:.2f}"] for row in TABLE_2.rows] == [
        [cells[0], cells[-1]] for cells in printed
    ]
    cells = [f"{row.paper['crema_d']:.2f}" for row in EXPERIMENTS["table3"].rows]
    printed = printed_table(shared, 3)
    assert cells == [cell for line in printed for cell in line[1:]]
    titles = [row.title.split(",")[0] for row in EXPERIMENTS["table3"].rows]
    assert titles == [line[0] for line in printed for _ in line[1:]]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_rows_differ_in_configuration_alone_and_the_papers_choice_is_the_papers_model(name):
    rows = EXPERIMENTS[name].rows
    configs = [AverConfig(**row.values()) for row in rows]
    assert len({row.folder for row in rows}) == len({str(config.to_dict()) for config in configs}) == len(rows)
    chosen = next((row for row in rows if row.name == EXPERIMENTS[name].reference), rows[0])
    assert AverConfig(**{**chosen.values(), "ctm_loss_weight": 0.5}).to_dict() == AverConfig().to_dict()


def test_a_run_serves_every_table_that_it_is_a_row_of():
    folders = {name: {row.folder for row in experiment.rows} for name, experiment in EXPERIMENTS.items()}
    assert folders["figure3"] < folders["table3"] and folders["table1"] < folders["table3"]
    assert len(folders["table2"] & folders["table3"]) == 1


def test_costs_are_those_of_the_fusion_layers():
    model = AverForEmotionClassification(
        AverConfig(audio_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4})
    )
    rows = {row.name: row for row in TABLE_2.rows}
    assert fusion_cost(rows["msa+msa"]).parameters == model.aver.fusion_encoder.num_parameters()
    assert fusion_cost(rows["concat"]).parameters == 0
    # Section 3.4: "approximately 0.5 GFLOPs for a 2-second input", each of two layers.
    assert all(abs(fusion_cost(row).gflops - 1.0) < 0.1 for name, row in rows.items() if name != "concat")


def test_the_printed_parameter_counts_are_explained(shared):
    counts = [line[1] for line in printed_table(shared, 2) if "M" in line[1]]
    assert counts == ["12.61M", "6.83M"] and all(f"({count})" in parameter_note() for count in counts[1:])
    assert "12,609,536 parameters, 12.61M" in parameter_note()


# ── what the command says without training ──────────────────────────────────────────────────────────────────────────


def test_table2_prints_what_can_be_counted_before_anything_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = aver("reproduce", "table2")
    assert output.count("12,609,536") == 5 and output.count("not yet run") == len(ROWS_2)
    assert "6,829,568 (6.83M)" in output and "Nothing was run here yet" in output
    folder = tmp_path / "runs" / "reproduce" / "crema_d"
    assert sorted(path.name for path in folder.iterdir()) == ["table2.csv", "table2.md", "table2.tex"]
    assert pd.read_csv(folder / "table2.csv")["paper_crema_d"].tolist() == [
        row.paper["crema_d"] for row in TABLE_2.rows
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("table4",), "experiments are table1, table2, table3, figure3; got table4"),
        (("table2", "nothing"), "There is no recipe nothing. Name a file, or one of the package: crema_d"),
        (("table2", "--only", "msa"), "table2 has no row msa, only concat, isa[+]isa"),
        (("table2", "--fusion_layers", "msa"), "table2 sets --fusion_layers itself: leave it out"),
        (("table2", "--ctm_loss=0.1"), "table2 sets --ctm_loss_weight itself"),
        (("table2", "--output_dir", "there"), "table2 sets --output_dir itself: leave it out. Its folder is --out"),
        (("table2", "--model_name_or_path", "org/a"), "Give one of model_name_or_path, audio_model_name_or_path"),
        (("table2", "--push_to_hub", "true"), "`push_to_hub` takes the model of one run, but table2 makes several"),
        (("table2", "--overwrite", "true"), "`overwrite` is not for table2, which resumes its runs. Leave it out"),
        (("table2", "--nonsense", "3"), r"not used by the HfArgumentParser: \['--nonsense', '3'\]"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        aver("reproduce", *arguments)
    assert not list(tmp_path.iterdir())


def test_rows_with_ctm_need_it_and_keep_the_recipes_weight(recipe, tmp_path):
    values = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**values, "ctm_loss_weight": 0.25}))
    plan = plan_experiment(EXPERIMENTS["figure3"], recipe, tmp_path)
    assert [job.recipe["ctm_loss_weight"] for job in plan.jobs] == [0.0, 0.25]
    recipe.write_text(yaml.safe_dump({**values, "ctm_loss_weight": 0}))
    with pytest.raises(ValueError, match="`ctm_loss_weight` is 0, but figure3 has rows with CTM"):
        plan_experiment(EXPERIMENTS["figure3"], recipe, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eval_split": None}, "`eval_split` is missing: what each row is scored on"),
        ({"audio_config": None, "model_name_or_path": "org/a"}, r"\(org/a\) is a model with its own fusion"),
    ],
)
def test_recipes_with_which_rows_cannot_be_compared_are_refused(change, message, recipe, tmp_path):
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        plan_experiment(TABLE_2, recipe, tmp_path)


# ── running ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_seed_of_every_row_comes_first(recipe, tmp_path):
    plan = plan_experiment(TABLE_2, recipe, tmp_path, ["--seeds", "2"])
    assert [(job.row.name, job.seed) for job in plan.jobs] == [(name, seed) for seed in (7, 8) for name in ROWS_2]
    assert plan.command == f"aver reproduce table2 .../tiny.yaml --out .../{tmp_path.name} --seeds 2"


def test_a_row_that_fails_stops_no_other_and_is_shown_by_its_last_words(recipe, tmp_path, script):
    plan = plan_experiment(TABLE_2, recipe, tmp_path / "out", ["--learning_rate", "0.5"])
    (failure,) = run_jobs(plan.choose(["concat", "isa+isa"]))
    assert (failure.job.row.name, failure.status) == ("concat", 1)
    assert failure.last_lines[-1] == "train_hf.py: something is wrong with concat"
    assert "step 2" in failure.last_lines and "step 1" not in failure.last_lines
    assert "concat, seed 7 failed (exit status 1)" in failure.to_text()
    done = tmp_path / "out" / "isa+isa_tarope_no-ctm"
    log = (done / "seed_7" / "train.log").read_text()
    assert f"{done}/recipe.yaml --learning_rate 0.5 --output_dir {done}/seed_7 --seed 7 --seeds 1 --resume" in log
    values = yaml.safe_load((done / "recipe.yaml").read_text())
    assert values["fusion_layers"] == ["isa", "isa"] and values["hidden_size"] == TINY["hidden_size"]


def test_what_is_finished_does_not_run_again_and_a_new_seed_does(recipe, tmp_path, script):
    def run(*flags):
        plan = plan_experiment(TABLE_2, recipe, tmp_path / "out", flags)
        return plan, run_jobs(plan.choose(["isa+isa", "concat"]))

    def starts():
        return {path.parent.name: path.read_text().count("$ ") for path in tmp_path.rglob("isa*/*/train.log")}

    run()
    plan, failures = run()
    assert len(failures) == 1 and starts() == {"seed_7": 1}
    assert (tmp_path / "out" / "concat_tarope_no-ctm" / "seed_7" / "train.log").read_text().count("$ ") == 2
    run("--seeds", "2")
    assert starts() == {"seed_7": 1, "seed_8": 1}
    (plan.choose(["isa+isa"])[0].folder / "results.json").write_text('{"metrics": {')  # half a file is not finished
    run("--logging_steps", "9")
    assert starts() == {"seed_7": 2, "seed_8": 1}


def test_runs_of_other_arguments_are_not_mixed_into_a_table(recipe, tmp_path, script):
    run_jobs(plan_experiment(TABLE_2, recipe, tmp_path / "out").choose(["isa+isa"]))
    with pytest.raises(ValueError, match=r"was begun with learning_rate 0.001 \(now 0.5\), num_processes 1 \(now 2\)"):
        plan_experiment(TABLE_2, recipe, tmp_path / "out", ["--learning_rate", "0.5"], processes=2)


def test_several_processes_are_launched_by_torch(recipe, tmp_path, monkeypatch):
    commands = []
    ended = SimpleNamespace(returncode=0)
    monkeypatch.setattr(
        reproduction,
        "subprocess",
        SimpleNamespace(run=lambda command, **_: commands.append(command) or ended, STDOUT=0),
    )
    run_jobs(plan_experiment(TABLE_2, recipe, tmp_path, processes=3).choose(["concat"]), processes=3)
    assert commands[0][1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3"]
    assert commands[0][6] == train_hf.__file__


def test_a_failed_row_makes_the_command_fail(recipe, tmp_path, script):
    result = CliRunner().invoke(app, ["reproduce", "table2", str(recipe), "--out", str(tmp_path), "--only", "concat"])
    assert result.exit_code == 1
    assert "something is wrong with concat" in result.stderr and "Written: " in result.stdout


def test_the_last_lines_of_a_log_are_what_a_terminal_would_show(tmp_path):
    (tmp_path / "log").write_text("one\n 0%\r 50%\r100%\n\n  two  \n")
    assert last_lines(tmp_path / "log", count=2) == ("100%", "  two")


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────

TRUTH = ["anger", "fear"] * 6
SPEAKERS = ["ann"] * 4 + ["bob"] * 4 + ["eve"] * 4


def made_up_runs(*wrong):
    """[`RowRuns`] of twelve clips: `wrong` has, for each seed from 7 on, the clips that are wrong."""
    runs = RowRuns({}, {}, {})
    for seed, clips in enumerate(wrong, start=7):
        answers = ["sad" if clip in clips else label for clip, label in enumerate(TRUTH)]
        ids = [f"clip{number}" for number in range(len(TRUTH))]
        columns = {"utterance_id": ids, "speaker_id": SPEAKERS, "label": TRUTH, "prediction": answers}
        runs.predictions[seed] = pd.DataFrame(columns).sample(frac=1, random_state=seed)
        runs.results[seed] = {
            "metrics": {"eval_war": 1 - len(clips) / 12},
            "scored_clips_were_trained_on": False,
            "dataset": {"dataset_name": "crema_d", "dataset_config_name": "emobox", "eval_split": "test"}
            | {"train_split": "train"},
            "command": "train_hf.py a.yaml",
            "num_processes": 1,
            "hardware": "CPU",
            "versions": {"torch": "2"},
        }
    return runs


def made_up_plan(recipe, out, seeds=2):
    return plan_experiment(TABLE_2, recipe, out, ["--seeds", str(seeds)])


def test_a_row_is_the_mean_of_its_seeds_and_is_compared_seed_by_seed():
    """Seed 7: six clips right in the paper's row alone, 2 × 1/2^6; seed 8: no difference, p 1; twice the median."""
    runs = {"msa+msa": made_up_runs((), ()), "concat": made_up_runs(range(6), ())}
    measured = measure(TABLE_2, runs)
    assert measured["msa+msa"].difference is None
    concat = measured["concat"]
    assert (concat.seeds, concat.accuracy) == ((7, 8), 0.75)
    assert concat.deviation == pytest.approx(np.std([0.5, 1.0], ddof=1))
    assert concat.difference.accuracy == pytest.approx(-0.25)
    assert concat.difference.p_value == 1.0  # twice the median of 1/32 and 1 is above 1
    assert concat.over_clips[0] < 0.75 < concat.over_clips[1]
    # Ann is always wrong in one of two seeds, bob in half of his clips, eve never: no resample leaves these.
    assert concat.over_speakers[0] >= 0.5 and concat.over_speakers[1] <= 1.0
    one_seed = measure(TABLE_2, {"msa+msa": made_up_runs(()), "concat": made_up_runs(range(6))})["concat"]
    assert one_seed.deviation is None and one_seed.difference.p_value == pytest.approx(2 / 2**6)


def test_rows_are_compared_on_the_seeds_that_both_have_run():
    runs = {"msa+msa": made_up_runs((), (0, 1)), "concat": made_up_runs((0, 1, 2))}
    assert measure(TABLE_2, runs)["concat"].difference.accuracy == pytest.approx(-0.25)
    del runs["msa+msa"].predictions[7]
    assert measure(TABLE_2, runs)["concat"].difference is None
    assert measure(TABLE_2, {"concat": runs["concat"]})["concat"].difference is None


def written(recipe, out, runs, seeds=2):
    plan = made_up_plan(recipe, out, seeds)
    write_tables(plan, experiment_table(plan, runs), notes_of(plan, runs))
    return (out / "table2.md").read_text(), pd.read_csv(out / "table2.csv"), (out / "table2.tex").read_text()


def test_cells_that_were_not_run_say_so_and_missing_seeds_are_counted(recipe, tmp_path):
    markdown, numbers, _ = written(recipe, tmp_path, {"msa+msa": made_up_runs((), (0,)), "concat": made_up_runs((0,))})
    lines = {line.split("|")[1].strip(): line for line in markdown.splitlines() if line.startswith("|")}
    assert "| 91.67 (1 of 2 seeds) |" in lines["Concat."] and "| 95.83 ± 5.89 |" in lines["MSA + MSA (Ours)"]
    assert all("| not yet run |" in lines[name] for name in ("ISA + ISA", "ICA + ICA", "ISA + ICA", "ICA + ISA"))
    assert numbers.set_index("row").loc["concat", ["accuracy", "num_seeds"]].tolist() == [91.6667, 1]
    assert numbers["accuracy"].isna().sum() == 4


def test_the_table_says_what_it_was_measured_on_and_warns_of_speakers_on_both_sides(recipe, tmp_path):
    markdown, _, _ = written(recipe, tmp_path, {"concat": made_up_runs((0,), ())})
    before, after = markdown.split("Corpus:")
    assert re.search(r"\*\*.*the same speakers are in train and test.*\*\*", before)
    assert "configuration `emobox`" in after and "12 clips of 3 speakers" in after
    assert "the mean of the seeds 7 to 8, ± the standard deviation of the seeds" in after
    assert "| paper (CREMA-D) | ours (CREMA-D) |" in before
    assert "McNemar's exact test" in after and "aver reproduce table2 .../tiny.yaml" in after


def test_latex_escapes_what_latex_would_read(recipe, tmp_path):
    _, _, text = written(recipe, tmp_path, {"concat": made_up_runs((0,), ())})
    table = [line for line in text.splitlines() if not line.startswith("%")]
    assert r"\toprule" in table and any(line.startswith(r"MSA + MSA (Ours) & 15,008 & ") for line in table)
    assert not [line for line in table if re.search(r"(?<!\\)[%#_$]", line)]
    assert {line.count("&") - line.count(r"\&") for line in table if line.endswith(r"\\")} == {9}
    assert r"\caption{Koo et al., Table 2: fusion strategies, accuracy in \%}" in table


def test_table_1_lists_earlier_methods_with_both_corpora(tmp_path):
    experiment = EXPERIMENTS["table1"]
    plan = Plan(experiment, tmp_path, (), {}, 1, "aver reproduce table1")
    table = experiment_table(plan, {}).set_index("row")
    assert table.loc["AttA-Net [7]", ["paper_crema_d", "paper_ravdess"]].isna().tolist() == [True, False]
    assert table.loc["ours", ["paper_crema_d", "paper_ravdess", "parameters"]].tolist() == [89.49, 89.25, 6_304_768]


# ── the whole command, on real clips ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_both_ablations_and_figure_3_on_six_real_clips(recipe, tmp_path, in_this_process):
    out = tmp_path / "out"
    for name in ("table2", "table3", "figure3", "table1"):
        output = aver("reproduce", name, str(recipe), "--out", str(out))
        assert "not yet run" not in output
        measured = pd.read_csv(out / f"{name}.csv").dropna(subset="num_seeds")
        assert len(measured) == len(EXPERIMENTS[name].rows) and measured["accuracy"].between(0, 100).all()
    assert len(in_this_process) == len(set(in_this_process)) == 13, "6 fusions and 8 cells, one of them of both tables"
    assert "Every" not in (out / "table2.md").read_text().split("Corpus:")[0]
    assert "are those that the model was trained on" in (out / "table2.md").read_text().split("Corpus:")[0]
    clips = pd.read_csv(out / "figure3b.csv")
    assert len(clips) == 6 and clips[["without CTM", "with CTM"]].stack().between(0, 1).all()
    for part in "ab":
        assert (out / f"figure3{part}.png").read_bytes().startswith(b"\x89PNG")
    assert f"{clips['with CTM'].mean():.3f} with," in (out / "figure3.md").read_text()
    with pytest.raises(ValueError, match="There is no clip 1087_MTIANG_XX among 6 clips"):
        aver("reproduce", "figure3", str(recipe), "--out", str(out), "--clip", "1087_MTIANG_XX")


MISSING = {
    "data": (("--data", "nowhere"), r"`data_dir` \(nowhere\) is no folder. Give --data the folder of the corpus"),
    "no data": (("--dataset_name", "ravdess"), "`data_dir` is missing: give --data the folder of RAVDESS's official"),
    "clips": (("--dataset_name", "my.csv"), r"`dataset_name` \(my.csv\) is no file. Give the CSV of your clips"),
    "corpus": (("--dataset_name", "a/b/c"), r"`dataset_name` \(a/b/c\) is neither crema_d, ravdess, a folder, nor"),
    "features": (("--action_units_folder", "nowhere"), r"`action_units_folder` \(nowhere\) is neither a folder nor a"),
    "encoder": (("--encoder", "path/to/xlsr"), "There is no folder path/to/xlsr, and it is not a Hub id"),
    "encoder without a configuration": (
        ("--encoder", "."),
        r"The audio encoder \. cannot be loaded: .*Check --encoder",
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_path_that_is_not_there_is_told_once_and_starts_nothing(case, recipe, tmp_path, script, monkeypatch):
    flags, message = MISSING[case]
    monkeypatch.chdir(tmp_path)
    if "--encoder" in flags:
        recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), "audio_config": None}))
    with pytest.raises(ValueError, match=message) as error:
        aver("reproduce", "table2", str(recipe), "--seeds", "3", "--out", "out", *flags)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_folds_and_seeds_of_a_row_are_brought_together(recipe, tmp_path, in_this_process):
    """Two clips of each of RAVDESS's 24 actors, made up: calm and happy."""
    folder = tmp_path / "made_up"
    folder.mkdir()
    for name in ravdess_names():
        if name[6:17] in ("02-01-01-01", "03-01-01-01"):
            (folder / f"03{name[2:]}.wav").write_bytes(tiny_sound(seconds=0.1 + 0.01 * int(name[7])))
    protocol = {"dataset_name": "ravdess", "dataset_config_name": "luna_jimenez_5fold", "fold": "all"}
    values = yaml.safe_load(recipe.read_text()) | protocol | {"eval_split": "test", "per_device_eval_batch_size": 48}
    recipe.write_text(yaml.safe_dump(values))
    out = tmp_path / "out"
    data = ("--data", str(folder))
    aver("reproduce", "table2", str(recipe), *data, "--out", str(out), "--only", "concat", "--seeds", "2")
    line = pd.read_csv(out / "table2.csv").set_index("row").loc["concat"]
    of_folds = [
        read(out / "concat_tarope_no-ctm" / f"seed_{seed}" / f"fold_{fold}" / "results.json")["metrics"]["eval_war"]
        for seed in (7, 8)
        for fold in range(1, 6)
    ]
    assert line["accuracy"] == pytest.approx(100 * np.mean(of_folds), abs=1e-3)
    markdown = (out / "table2.md").read_text()
    assert "the mean of the 5 folds and the seeds 7 to 8" in markdown and "48 clips of 24 speakers" in markdown
    assert "Nobody speaks in training and in scoring alike" in markdown and str(folder) not in markdown
    one_fold = ("figure3", str(recipe), *data, "--fold", "2", "--out", str(tmp_path / "one_fold"))
    aver("reproduce", *one_fold, "--only", "tarope")
    assert not (tmp_path / "one_fold" / "figure3a.png").exists(), "one of two runs is not there"
    assert "No picture: in no scored clip do both streams last" in aver("reproduce", *one_fold)  # sound alone
    assert not (tmp_path / "one_fold" / "figure3a.png").exists()


@pytest.mark.slow
def test_a_killed_row_goes_on_from_its_checkpoint(recipe, tmp_path):
    values = yaml.safe_load(recipe.read_text()) | {"max_steps": 25, "save_strategy": "steps", "save_steps": 1}
    recipe.write_text(yaml.safe_dump({**values, "save_total_limit": 2}))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "modeling_aver", "reproduce", "table2", str(recipe), "--out", str(out)]
    command += ["--only", "msa+msa"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    started = subprocess.Popen(command, start_new_session=True, env=environment, stderr=subprocess.DEVNULL)
    run = out / "msa+msa_tarope_no-ctm" / "seed_7"
    deadline = time.monotonic() + 120
    while not list(run.glob("checkpoint-[2-9]")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)  # the group of this one command
    started.wait()
    assert not (run / "results.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert again.returncode == 0, again.stderr[-3000:]
    log = (run / "train.log").read_text()
    assert "Training goes on from" in log and log.count("$ ") == 2
    assert read(run / "trainer_state.json")["global_step"] == 25
    assert "not yet run" not in next(line for line in again.stdout.splitlines() if "MSA + MSA (Ours)" in line)


def test_recipes_of_the_package_go_by_their_names():
    assert find_recipe("ravdess").name == "ravdess.yaml"
