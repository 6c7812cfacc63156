"""A built folder whose files are not what was built, or whose build was broken off: named, never read on."""

import re
import shutil

import filelock
import pyarrow.parquet as pq
import pytest
from support.fault_checks import contents, done, refused
from support.faults import hidden_files
from support.media import cut
from typer.testing import CliRunner

import train_hf
from datasets_scripts import SAMPLE_DIR
from datasets_scripts.hub.record import load_published, push_build
from modeling_aver.cli.main import app
from modeling_aver.io.media import LFS_POINTER
from modeling_aver.training.arguments import DataArguments


def flipped(path):
    """One byte in the middle, which no Parquet reader notices."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def without_labels(path):
    pq.write_table(pq.read_table(path).drop(["label"]), path)


SHARDS = {
    "truncated": (cut, "is no whole Parquet file"),
    "flipped": (flipped, "has changed since it was built: its SHA-256 is another"),
    "of other columns": (without_labels, "has changed since it was built"),
    "empty": (lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)"),
    "a web page": (lambda path: path.write_text("\n<!DOCTYPE html><html>404</html>"), "is a web page, not a Parquet"),
    "a pointer": (lambda path: path.write_bytes(LFS_POINTER + b"v1\n"), "is a Git-LFS pointer.*git lfs pull"),
    "absent": (lambda path: path.unlink(), "No such file"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The six clips in two shards, never changed."""
    folder = tmp_path_factory.mktemp("built") / "six"
    done("data", "build", "crema_d", SAMPLE_DIR, "--out", folder)
    return folder


@pytest.mark.parametrize("damage", SHARDS)
def test_a_damaged_shard_is_named_with_the_remedy_when_checked_loaded_and_pushed(built, tmp_path, damage):
    folder = tmp_path / "six"
    shutil.copytree(built, folder)
    make, reason = SHARDS[damage]
    make(folder / "data" / "clips-001.parquet")
    for call in (lambda: load_published(str(folder), "all"), lambda: push_build(folder, "org/x")):
        with pytest.raises(ValueError, match=rf"clips-001.parquet .*{reason}.* aver data build\.") as told:
            call()
        assert "\n" not in str(told.value)
    if damage != "absent":  # of which another test speaks
        run = CliRunner().invoke(app, ["data", "validate", str(folder)])
        line, last = run.output.splitlines()
        assert line.startswith("data/clips-001.parquet: ") and re.search(reason, line) and last == "Problems: 1."


def test_training_names_a_damaged_shard_in_one_line(built, tmp_path):
    shutil.copytree(built, tmp_path / "six")
    cut(tmp_path / "six" / "data" / "clips-000.parquet")
    data = {"dataset_name": str(tmp_path / "six"), "dataset_config_name": "all", "data_dir": None}
    with pytest.raises(ValueError, match="clips-000.parquet is no whole Parquet file .* aver data build"):
        train_hf.load_corpus(DataArguments(**data))


def test_a_folder_of_parquet_without_a_record_is_told_apart_from_its_damaged_file(built, tmp_path):
    shutil.copytree(built, tmp_path / "six", ignore=shutil.ignore_patterns("build.json"))
    cut(tmp_path / "six" / "data" / "clips-001.parquet")
    with pytest.raises(ValueError, match="six cannot be read: .*Parquet.* Fetch or build it again") as told:
        load_published(str(tmp_path / "six"), "all", cache_dir=str(tmp_path / "cache"))
    assert "\n" not in str(told.value)


def test_a_build_that_was_broken_off_is_not_taken_for_a_whole_one(built, tmp_path):
    folder = tmp_path / "six"
    shutil.copytree(built, folder)
    (folder / "build.json").unlink()
    (folder / ".building" / "cache").mkdir(parents=True)
    (folder / "data" / "clips-009.parquet").write_bytes(b"of it")
    with pytest.raises(ValueError, match="its build was broken off or is under way. Build it again"):
        load_published(str(folder), "all")
    done("data", "build", "crema_d", SAMPLE_DIR, "--out", folder)
    assert contents(folder) == contents(built) and hidden_files(folder) == []


def test_a_record_that_is_cut_short_is_told(built, tmp_path):
    shutil.copytree(built, tmp_path / "six")
    cut(tmp_path / "six" / "build.json")
    assert "build.json is not what aver data build writes" in refused("data", "validate", tmp_path / "six")


def test_a_second_build_into_the_same_folder_is_refused_while_the_first_is_at_it(built, tmp_path):
    folder = tmp_path / "six"
    shutil.copytree(built, folder)
    (folder / ".building").mkdir()
    with filelock.FileLock(folder / ".building" / "lock"):
        told = refused("data", "build", "crema_d", SAMPLE_DIR, "--out", folder)
    assert told.startswith(f"Another process builds {folder} at this moment. Wait until it is done, or choose another")
    assert contents(folder) | contents(built) == contents(folder)
