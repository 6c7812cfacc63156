"""`aver data`: what it builds, what it finds wrong, and what comes back from the Hub."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from support.corpora import ravdess_names, shared_file, tiny_sound
from support.crema_d_tree import crema_d_tree
from support.runs import change_json
from typer.testing import CliRunner

from datasets_scripts import SAMPLE_DIR, CremaD, load_crema_d
from datasets_scripts.crema_d import KNOWN_BAD_CLIPS
from datasets_scripts.hub.record import Build
from datasets_scripts.hub.shards import sha256_of
from modeling_aver.cli.main import app

ROOT = Path(__file__).resolve().parents[2]


def aver(*arguments, answer=None):
    return CliRunner().invoke(app, ["data", *map(str, arguments)], input=answer)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A built little CREMA-D, never changed."""
    folder = tmp_path_factory.mktemp("built")
    run = aver("build", "crema_d", crema_d_tree(folder / "source"), "--out", folder / "out")
    assert run.exit_code == 0, run.output
    return folder / "out"


@pytest.fixture
def sample(tmp_path):
    """The six built clips, to be damaged."""
    assert aver("build", "crema_d", SAMPLE_DIR, "--out", tmp_path / "six").exit_code == 0
    return tmp_path / "six"


def test_every_clip_is_stored_once_and_every_configuration_is_whole_files(built):
    build = Build.read(built)
    files = {file for parts in build.files.values() for some in parts.values() for file in some}
    assert files == {path.relative_to(built).as_posix() for path in built.glob("data/*.parquet")}
    stored = [clip for file in files for clip in pq.read_table(built / file)["utterance_id"].to_pylist()]
    assert len(stored) == len(set(stored)) == sum(build.counts["all"]["train"]["emotions"].values())
    for name, parts in build.files.items():
        for part, some in parts.items():
            assert sum(pq.read_metadata(built / file).num_rows for file in some) == build.counts[name][part]["clips"]


def test_load_dataset_reads_a_built_folder_as_the_builder_gives_it(sample, tmp_path):
    ours = load_crema_d(SAMPLE_DIR, name="emobox", cache_dir=tmp_path / "cache")
    read = datasets.load_dataset(str(sample), "emobox", cache_dir=str(tmp_path / "hub"))
    assert set(read) == {"train", "test"}
    for part in read:
        assert read[part].features == ours[part].features
        assert read[part].to_list() == ours[part].to_list()


def test_the_table_counts_clips_speakers_and_emotions_of_each_part(built, tmp_path):
    run = aver("build", "crema_d", SAMPLE_DIR, "--out", tmp_path / "out")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in run.output.splitlines() if "│" in line]
    assert ["emobox", "train", "4", "1", "1", "1", "1", "0", "1", "0"] in lines
    assert ["emobox", "test", "2", "1", "0", "0", "0", "1", "0", "1"] in lines
    counts = Build.read(built).counts
    assert set(counts["speaker_holdout"]) == {"train", "validation", "test"}
    assert counts["speaker_holdout"]["test"]["speakers"] == 2


def test_the_card_says_licence_configurations_sources_and_that_speakers_overlap(built):
    card = DatasetCard.load(built / "README.md")
    assert card.data.license == "odbl" and "DbCL-1.0" in card.text and "cao2014crema" in card.text
    assert [config["config_name"] for config in card.data.configs] == list(CremaD.builder_configs)
    assert "emobox: the same speakers are in train and test" in card.text
    for split in CremaD.SPLITS.values():
        claim = "yes, checked" if split.speaker_independent else "**no**"
        assert f"| `{split.name}` | test | " in card.text and f"| {claim} | {split.source} |" in card.text
    assert "of 7,442 clips, so sizes differ" in card.text
    assert all(f"- `{name}`: " in card.text for name in KNOWN_BAD_CLIPS)
    assert "openface (version unknown)" in card.text and "AU45_c" in card.text


def test_what_cannot_be_used_is_listed_on_screen_and_on_the_card(tmp_path):
    tree = crema_d_tree(tmp_path / "source")
    (tree / "AudioWAV" / "1001_DFA_ANG_XX.wav").write_bytes(b"")
    (tree / "AudioWAV" / "party.wav").write_bytes(tiny_sound())
    run = aver("build", "crema_d", tree, "--out", tmp_path / "out", "--num-proc", "2")
    assert run.exit_code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    for name, reason in {
        "1001_DFA_ANG_XX": "1001_DFA_ANG_XX.wav is empty",
        "party": "is not a name of CREMA-D",
    }.items():
        assert f"left out: {name}: " in run.output and reason in run.output
        assert f"- `{name}`: " in card and reason in card
    strict = aver("build", "crema_d", tree, "--out", tmp_path / "other", "--strict")
    assert strict.exit_code != 0 and "party is not a name of CREMA-D" in str(strict.exception)


def test_a_sound_build_has_no_problem_and_damage_is_named_by_clip(sample):
    run = aver("validate", sample)
    assert (run.exit_code, run.output) == (0, "No problem.\n")
    path = sample / "data" / "clips-001.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index("video_timestamps")
    late = pa.array(
        [[time + 9 for time in row] for row in table["video_timestamps"].to_pylist()], table.schema.types[at]
    )
    pq.write_table(table.set_column(at, table.schema.field(at), late), path)
    digests = json.loads((sample / "build.json").read_text())["digests"]
    change_json(sample / "build.json", digests={**digests, "data/clips-001.parquet": sha256_of(path)})
    run = aver("validate", sample)
    assert run.exit_code == 1 and "Problems: 2." in run.output
    assert "1001_DFA_HAP_XX: sound lasts" in run.output and "1001_DFA_SAD_XX: sound lasts" in run.output


def test_an_official_folder_is_checked_before_anything_is_built(tmp_path):
    assert aver("validate", SAMPLE_DIR, "--corpus", "crema_d").output == "No problem.\n"
    tree = crema_d_tree(tmp_path)
    (tree / "OpenFace" / "1001_DFA_ANG_XX.csv").unlink()
    run = aver("validate", tree, "--corpus", "crema_d")
    assert run.exit_code == 1
    assert run.output == "1001_DFA_ANG_XX: 1001_DFA_ANG_XX has no table of features in OpenFace.\nProblems: 1.\n"


def test_a_split_that_was_tampered_with_is_found(built, tmp_path):
    shutil.copytree(built, tmp_path / "copy")
    record = json.loads((tmp_path / "copy" / "build.json").read_text())
    parts = record["files"]["speaker_holdout"]
    parts["train"] = sorted({*parts["train"], *parts["test"][:1]})
    (tmp_path / "copy" / "build.json").write_text(json.dumps(record))
    run = aver("validate", tmp_path / "copy")
    assert run.exit_code == 1 and "speaker_holdout: Clips" in run.output and "are in both train and test" in run.output


def test_a_missing_file_and_a_folder_that_is_no_build_are_refused(sample, tmp_path):
    (sample / "data" / "clips-000.parquet").unlink()
    assert "lacks data/clips-000.parquet of its 2 files" in str(aver("validate", sample).exception)
    for command in (["validate", tmp_path], ["push", tmp_path, "org/x"]):
        assert "holds no build.json" in str(aver(*command).exception)


def test_an_earlier_build_is_replaced_and_anything_else_is_kept(sample, tmp_path):
    (sample / "data" / "clips-999.parquet").write_bytes(b"of an earlier build")
    (sample / "notes.txt").write_text("mine")
    assert aver("build", "crema_d", SAMPLE_DIR, "--out", sample).exit_code == 0
    assert not (sample / "data" / "clips-999.parquet").exists() and (sample / "notes.txt").read_text() == "mine"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    run = aver("build", "crema_d", SAMPLE_DIR, "--out", tmp_path / "mine")
    assert "is not empty and no earlier build" in str(run.exception)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    run = aver("build", "crema_d", SAMPLE_DIR, "--out", tmp_path / "mine" / "thesis.txt")
    assert "is a file. Name a folder" in str(run.exception)


def test_a_build_that_fails_leaves_nothing_behind(tmp_path):
    (tmp_path / "source" / "AudioWAV").mkdir(parents=True)
    assert aver("build", "crema_d", tmp_path / "source", "--out", tmp_path / "out").exit_code != 0
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    silent = aver("build", "ravdess", tmp_path / "source", "--out", tmp_path / "out")
    assert "holds no sound of speech or song" in str(silent.exception)
    unknown = aver("build", "iemocap", tmp_path / "source", "--out", tmp_path / "out")
    assert "`corpus` ('iemocap') must be one of crema_d, ravdess, clips" in str(unknown.exception)


@pytest.fixture
def ravdess(tmp_path):
    """Speech and song of actors 1 and 2, built."""
    names = [name for channel in ("01", "02") for name in ravdess_names(channel) if name[-2:] in ("01", "02")][::8]
    for name in names:
        path = tmp_path / "source" / f"Actor_{name[-2:]}" / f"03{name[2:]}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny_sound())
    assert aver("build", "ravdess", tmp_path / "source", "--out", tmp_path / "out").exit_code == 0
    return tmp_path / "out"


def test_speech_and_song_of_ravdess_are_built_side_by_side(ravdess):
    build = Build.read(ravdess)
    assert build.counts["all"]["train"]["clips"] == 15 and build.counts["song"]["train"]["clips"] == 11
    assert build.counts["luna_jimenez_5fold_1"]["test"]["speakers"] == 1
    assert DatasetCard.load(ravdess / "README.md").data.license == "cc-by-nc-sa-4.0"
    assert aver("validate", ravdess).output == "No problem.\n"


@pytest.mark.parametrize(("answer", "pushed"), [("n\n", 0), ("y\n", 1), (None, 0)], ids=["no", "yes", "no answer"])
def test_pushing_recordings_of_ravdess_asks_first(ravdess, monkeypatch, answer, pushed):
    calls = []
    monkeypatch.setattr(
        "datasets_scripts.hub.record.push_build", lambda *call, **options: calls.append(call) or "https://"
    )
    run = aver("push", ravdess, "org/ravdess", answer=answer)
    assert "CC BY-NC-SA 4.0" in run.output and len(calls) == pushed
    assert (run.exit_code == 0) == bool(pushed)


def test_clips_of_ones_own_are_built_by_their_csv(tmp_path):
    (tmp_path / "a.wav").write_bytes(tiny_sound())
    (tmp_path / "table.csv").write_text("file,label,speaker,split\na.wav,happy,anna,test\n")
    assert aver("build", "clips", tmp_path / "table.csv", "--out", tmp_path / "out").exit_code == 0
    rows = datasets.load_dataset(str(tmp_path / "out"), "all", cache_dir=str(tmp_path / "hub"))["test"]
    assert rows["utterance_id"] == ["a"] and aver("validate", tmp_path / "out").exit_code == 0


ROUND_TRIP = """
    import json, sys
    from datasets import load_dataset
    from datasets_scripts.hub.record import Build, push_build
    from datasets_scripts.validation import check_columns

    folder, found = sys.argv[1], {}
    push_build(folder, "org/crema-d-au")
    push_build(folder, "org/crema-d-au")  # once more: nothing is doubled
    for name, parts in Build.read(folder).files.items():
        dataset = load_dataset("org/crema-d-au", name)
        found[name] = {part: sorted(rows["utterance_id"]) for part, rows in dataset.items()}
        for part, rows in dataset.items():
            check_columns(rows.features)
            stream = load_dataset("org/crema-d-au", name, split=part, streaming=True)
            assert list(stream) == rows.to_list(), (name, part)
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_every_configuration_comes_back_from_a_hub_and_streams_equal_rows(built, tmp_path):
    path = shared_file("tools", "minihub.py")
    spec = importlib.util.spec_from_file_location("minihub", path)
    minihub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(minihub)
    with minihub.MiniHub() as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "any",
            "HF_HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
        }
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(ROUND_TRIP), str(built)],
            env=environment,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        files = hub.state.get("dataset", "org/crema-d-au")["commits"]
    assert run.returncode == 0, run.stderr[-3000:]
    returned, build = json.loads(run.stdout.splitlines()[-1]), Build.read(built)
    assert list(returned) == list(CremaD.builder_configs)
    for name, parts in build.counts.items():
        assert {part: len(clips) for part, clips in returned[name].items()} == {
            part: counts["clips"] for part, counts in parts.items()
        }
    clips = {clip: clip[:4] for clip in returned["all"]["train"]}
    expected = CremaD.SPLITS["speaker_holdout"].parts(clips)
    assert returned["speaker_holdout"] == expected
    last = list(files.values())[-1]["files"]
    assert "README.md" in last and not [name for name in last if "cache" in name]
