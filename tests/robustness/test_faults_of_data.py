"""Faults while data are read and written, really injected: what is kept, and what the user is told in one line."""

import csv
import io
import json
import os
import tempfile
import time

import pytest
from support.crema_d_tree import crema_d_tree
from support.extraction import by_name, tables
from support.fake_extractor import Brightness
from support.fake_openface import write_openface
from support.fault_checks import contents, done, refused
from support.faults import full_disk, hidden_files, read_only
from support.media import tone, write_video
from support.models import aver_config, aver_model
from support.saved_models import BRIGHTNESS, saved

from datasets_scripts import SAMPLE_DIR, CremaD
from datasets_scripts.hub.build import validate_build
from modeling_aver import AverProcessor
from modeling_aver.features.clips import find_clips
from modeling_aver.features.extraction import extract_clips
from modeling_aver.features.openface import find_openface
from modeling_aver.features.track_folder import TrackFolder
from modeling_aver.inference.faces import FacesOfExtractor, FacesOfTables
from modeling_aver.inference.predict import load_pipeline, predict_clips
from modeling_aver.io.atomic import WriteError

VIDEOS, TABLES = SAMPLE_DIR / "VideoFlash", SAMPLE_DIR / "OpenFace"
NO_ROOM = (
    "cannot be written: No space left on device. Make room or choose another place; what is there already is kept."
)
NO_RIGHT = "cannot be written: (Read-only file system|Permission denied). Make room or choose another place"


@pytest.fixture
def extractor(tmp_path):
    return Brightness(tmp_path / "log.txt")


@pytest.fixture
def clips(tmp_path):
    """A folder of four small clips with sound."""
    for name in ("a", "b", "c", "more/d"):
        path = tmp_path / "clips" / f"{name}.mkv"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, sound=tone())
    return tmp_path / "clips"


@pytest.fixture(scope="module")
def recognize(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brightness")
    return load_pipeline(saved(folder, num_action_units=2, feature_identity=BRIGHTNESS))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved model that standardizes voices."""
    folder = tmp_path_factory.mktemp("model")
    network = aver_model(aver_config(num_action_units=35, audio_normalization="standardize"))
    network.save_pretrained(folder)
    AverProcessor.from_config(network.config).save_pretrained(folder)
    return folder


# ── a full disk ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_extract_on_a_full_disk_names_the_table_and_keeps_the_earlier_ones(clips, extractor, tmp_path):
    out = tmp_path / "out"
    with full_disk(out) as fill:
        extract_clips(extractor, find_clips([clips / "a.mkv"]), out)
        before = contents(out)
        fill()
        with pytest.raises(WriteError, match=f"b.npz {NO_ROOM}"):
            extract_clips(extractor, find_clips([clips]), out)
        assert contents(out) == before and hidden_files(out) == []
        (out / "ballast").unlink()
        assert extract_clips(extractor, find_clips([clips]), out).counts["done"] == 4


@pytest.mark.parametrize("timing", [None, {"window": 0.3, "hop": 0.1}], ids=["clips", "timelines"])
def test_predict_on_a_full_disk_names_the_file_and_keeps_the_earlier_answers(
    recognize, clips, extractor, tmp_path, timing
):
    out, faces = tmp_path / "out", FacesOfExtractor(extractor)
    options = {"timing": timing, "formats": ["json", "csv"]}
    with full_disk(out) as fill:
        predict_clips(recognize, find_clips([clips / "a.mkv"]), faces, out, **options)
        before = contents(out)
        fill()
        name = "predictions.json" if timing is None else "timelines/b.json"
        with pytest.raises(WriteError, match=f"{name} {NO_ROOM}"):
            predict_clips(recognize, find_clips([clips]), faces, out, **options)
        assert contents(out) == before and hidden_files(out) == []


@pytest.mark.parametrize(
    "free", [0, 8_192, 400_000], ids=["no byte is left", "too few for a folder", "too few for clips"]
)
def test_a_build_on_a_full_disk_keeps_the_earlier_one_and_leaves_nothing_beside(tmp_path, free):
    disk = tmp_path / "disk"
    with full_disk(disk, free) as fill:
        done("data", "build", "crema_d", SAMPLE_DIR, "--out", disk / "out")
        before = contents(disk)
        fill()
        told = refused("data", "build", "crema_d", SAMPLE_DIR, "--out", disk / "out")
        reason = "Not enough disk space" if free == 0 else "No space left on device"
        assert told == f"{disk / 'out'} {NO_ROOM}".replace("No space left on device", reason)
        assert contents(disk) == before and hidden_files(disk) == [] and validate_build(disk / "out") == {}


def test_a_profile_that_finds_no_room_is_told_and_the_earlier_one_is_kept(model, tmp_path):
    disk, command = tmp_path / "disk", ("enroll", VIDEOS, "--model", model, "--out")
    with full_disk(disk) as fill:
        done(*command, disk / "a.safetensors")
        before = contents(disk)
        fill()
        assert f"a.safetensors {NO_ROOM}" in refused(*command, disk / "a.safetensors")
        assert contents(disk) == before


# ── folders that nobody can write to ────────────────────────────────────────────────────────────────────────────────


def test_a_folder_that_cannot_be_written_to_is_named(model, recognize, clips, extractor, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with read_only(out):
        for place in (out, out / "new"):
            with pytest.raises(WriteError, match=NO_RIGHT):
                extract_clips(extractor, find_clips([clips]), place)
            with pytest.raises(WriteError, match=NO_RIGHT):
                predict_clips(recognize, find_clips([clips]), FacesOfExtractor(extractor), place)
            for command in (
                ("data", "build", "crema_d", SAMPLE_DIR, "--out", place),
                ("enroll", VIDEOS, "--model", model, "--out", place / "a.safetensors"),
                ("export", "torch", model, "--out", place),
            ):
                assert "cannot be written: " in refused(*command)
    assert list(out.iterdir()) == []


def test_a_folder_that_can_only_be_read_serves_as_input_and_nothing_is_written_beside(
    recognize, clips, extractor, tmp_path
):
    tree = crema_d_tree(tmp_path / "corpus")
    before = contents(tree) | contents(clips)
    with read_only(tree), read_only(clips):
        assert extract_clips(extractor, find_clips([clips]), tmp_path / "features").counts["done"] == 4
        assert (
            len(predict_clips(recognize, find_clips([clips]), FacesOfExtractor(extractor), tmp_path / "p").done) == 4
        )
        done("data", "build", "crema_d", tree, "--out", tmp_path / "built")
        assert done("data", "validate", tmp_path / "built") == "No problem.\n"
    assert contents(tree) | contents(clips) == before


# ── files that vanish between the listing and the reading ───────────────────────────────────────────────────────────


def test_a_clip_that_vanishes_is_named_by_extract_and_the_rest_goes_on(clips, extractor, tmp_path):
    def vanish(outcome):
        (clips / "c.mkv").unlink(missing_ok=True)

    found = by_name(extract_clips(extractor, find_clips([clips]), tmp_path / "out", watch=vanish))
    assert found["c.mkv"].status == "corrupt" and "c.mkv cannot be read: No such file" in found["c.mkv"].reason
    assert {name for name, one in found.items() if one.status == "done"} == {"a.mkv", "b.mkv", "d.mkv"}


@pytest.mark.parametrize("timing", [None, {"window": 0.3, "hop": 0.1}], ids=["clips", "timelines"])
def test_a_clip_that_vanishes_is_named_by_predict_and_the_rest_goes_on(recognize, clips, extractor, tmp_path, timing):
    def vanish(name, seconds):
        (clips / "c.mkv").unlink(missing_ok=True)

    options = {"timing": timing, "formats": ["json"], "batch_size": 1, "watch": vanish}
    predictions = predict_clips(recognize, find_clips([clips]), FacesOfExtractor(extractor), tmp_path / "o", **options)
    assert sorted(predictions.done) == ["a", "b", "more/d"]
    assert "c.mkv cannot be read: No such file" in predictions.failed[str(clips / "c.mkv")]


@pytest.mark.parametrize("folder, suffix", [("AudioWAV", "wav"), ("OpenFace", "csv")])
def test_a_file_that_vanishes_is_named_by_the_build_and_the_rest_goes_on(tmp_path, monkeypatch, folder, suffix):
    tree, read = crema_d_tree(tmp_path / "source"), CremaD._clip

    def vanish(builder, utterance_id):
        (tree / folder / f"1055_TIE_SAD_XX.{suffix}").unlink(missing_ok=True)
        return read(builder, utterance_id)

    monkeypatch.setattr(CremaD, "_clip", vanish)
    told = done("data", "build", "crema_d", tree, "--out", tmp_path / "out")
    assert f"left out: 1055_TIE_SAD_XX: 1055_TIE_SAD_XX.{suffix} cannot be read: No such file" in told
    record = json.loads((tmp_path / "out" / "build.json").read_text())
    assert record["counts"]["all"]["train"]["clips"] == len(list((tree / "AudioWAV").glob("*"))) - (suffix == "csv")


# ── what killed processes left ──────────────────────────────────────────────────────────────────────────────────────


def test_old_parts_of_killed_writers_are_cleared_and_fresh_ones_may_be_a_neighbours(clips, extractor, tmp_path):
    out = tmp_path / "out"
    (out / "more").mkdir(parents=True)
    for name, age in (("more/.old.part", 4_000), (".fresh.part", 0)):
        (out / name).write_bytes(b"half")
        os.utime(out / name, (time.time() - age,) * 2)
    extract_clips(extractor, find_clips([clips]), out)
    assert hidden_files(out) == [".fresh.part"] and set(tables(out)) == {"a.npz", "b.npz", "c.npz", "more/d.npz"}


def test_folders_of_killed_openface_runs_are_cleared(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, age in (("aver-openface-old", 5_000), ("aver-openface-new", 1_000), ("mine", 5_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "clip.csv").touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    find_openface(write_openface(tmp_path / "OpenFace"))
    assert {path.name for path in tmp_path.iterdir()} == {"aver-openface-new", "mine", "OpenFace"}


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = {
    "a new\nline": "a new\nline",
    "a quote": 'it\'s "so" `said`',
    "a dash": "--out",
    "spaces": " two  spaces ",
    "letters": "été 感情 😀",
    "two dots": "a.b.c",
    "a formula": "=1+1,x;y",
    "255 bytes": "x" * 251,
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_file_of_any_name_is_extracted_and_answered(recognize, extractor, tmp_path, kind):
    folder, name = tmp_path / "clips", NAMES[kind]
    folder.mkdir()
    write_video(tmp_path / "clip.mkv", sound=tone()).rename(folder / f"{name}.mkv")
    report = extract_clips(extractor, find_clips([folder]), tmp_path / "out")
    assert report.counts["done"] == 1 and (tmp_path / "out" / f"{name}.npz").exists()
    faces, options = (
        find_faces_in(tmp_path / "out"),
        {"timing": {"window": 0.3, "hop": 0.1}, "formats": ["csv", "vtt"]},
    )
    for out, choice in (("clips", {}), ("timelines", options)):
        if (kind, out) == ("255 bytes", "timelines"):
            continue  # TextGrid and json make a longer name than the clip's
        predictions = predict_clips(recognize, find_clips([folder]), faces, tmp_path / out, **choice)
        assert list(predictions.done) == [name] and predictions.failed == {}
        again = predict_clips(recognize, find_clips([folder]), faces, tmp_path / out, **choice)
        assert again.done == predictions.done
        rows = list(
            csv.DictReader(io.StringIO((tmp_path / out / "predictions.csv").read_text(errors="surrogateescape")))
        )
        assert len(rows) == 1 and rows[0]["label"] == predictions.done[name]["label"]


def test_a_name_that_no_program_can_say_is_refused_by_name_and_the_rest_goes_on(recognize, clips, extractor, tmp_path):
    name = b"\xff\xfe".decode(errors="surrogateescape")
    (clips / "b.mkv").rename(clips / f"{name}.mkv")
    found = find_clips([clips])
    bad = {outcome.reason for outcome in extract_clips(extractor, found, tmp_path / "out").outcomes if outcome.reason}
    assert bad == {f"The name of {clips / name}.mkv is not UTF-8, which ffmpeg wants. Rename it."}
    predictions = predict_clips(recognize, found, FacesOfExtractor(extractor), tmp_path / "predictions")
    assert sorted(predictions.done) == ["a", "c", "more/d"] and set(predictions.failed.values()) == bad


def test_a_hidden_file_of_a_folder_is_skipped_with_the_reason(clips, extractor, tmp_path):
    (clips / "._a.mkv").write_bytes(b"Mac OS X")
    found = by_name(extract_clips(extractor, find_clips([clips]), tmp_path / "out"))
    assert found["._a.mkv"].status == "ignored" and "hidden file" in found["._a.mkv"].reason and len(found) == 5


def test_a_table_whose_name_would_be_too_long_costs_that_clip_alone(clips, extractor, tmp_path):
    (clips / "b.mkv").rename(clips / f"{'x' * 251}.mkv")
    report = extract_clips(extractor, find_clips([clips]), tmp_path / "out", format="parquet")
    assert report.counts["done"] == 3
    assert "would have over 255 bytes: shorten the name" in by_name(report)["x" * 251 + ".mkv"].reason


def test_a_timeline_whose_name_would_be_too_long_costs_that_clip_alone(recognize, clips, extractor, tmp_path):
    (clips / "b.mkv").rename(clips / f"{'x' * 251}.mkv")
    options = {"timing": {"window": 0.3, "hop": 0.1}, "formats": ["vtt", "TextGrid"]}
    predictions = predict_clips(recognize, find_clips([clips]), FacesOfExtractor(extractor), tmp_path / "o", **options)
    assert sorted(predictions.done) == ["a", "c", "more/d"]
    assert "would have over 255 bytes: shorten the name" in next(iter(predictions.failed.values()))


def test_an_empty_folder_and_one_that_is_not_there_are_told(extractor, model, tmp_path):
    (tmp_path / "empty").mkdir()
    for command in (
        (
            "extract",
            tmp_path / "empty",
            "--out",
            tmp_path / "o",
            "--backend",
            "openface",
            "--openface",
            write_openface(tmp_path / "x"),
        ),
        ("predict", tmp_path / "empty", "--model", model),
        ("enroll", tmp_path / "empty", "--model", model, "--out", tmp_path / "a.safetensors"),
    ):
        kinds = "video" if command[0] == "extract" else "video or sound file"
        told = refused(*command)
        assert told.startswith(f"No {kinds} under {tmp_path / 'empty'}. Looked for ") and ".3gp, " in told
    for place in ("empty", "absent"):
        told = refused("data", "build", "crema_d", tmp_path / place, "--out", tmp_path / "built")
        assert str(tmp_path / place) in told
    assert not (tmp_path / "built").exists()


def find_faces_in(folder):
    return FacesOfTables(TrackFolder(folder, name_of=str))


def test_a_second_prediction_into_the_same_folder_is_refused_while_the_first_is_at_it(
    recognize, clips, extractor, tmp_path
):
    found, faces, out = find_clips([clips]), FacesOfExtractor(extractor), tmp_path / "out"

    def second(name, seconds):
        with pytest.raises(ValueError, match=f"Another process writes predictions to {out} at this moment. Wait"):
            predict_clips(recognize, found, faces, out)

    assert len(predict_clips(recognize, found, faces, out, watch=second).done) == 4
    assert hidden_files(out) == [] and len(predict_clips(recognize, found, faces, out).done) == 4
