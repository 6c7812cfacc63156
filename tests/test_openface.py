"""OpenFace: the tables it writes, real ones among them, and its program and container, by stand-ins.

The program and the containers here are stand-ins that behave like the real ones (`made_up_openface`): no real OpenFace
has run in these tests.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from made_up_media import cut, write_video
from made_up_openface import write_openface, write_runtime

from datasets_scripts import SAMPLE_DIR
from modeling_aver.features import (
    ACTION_UNITS,
    ExtractionError,
    ExtractorUnavailableError,
    MediaError,
    find_extractor,
    openface,
    read_openface,
    read_timestamps,
)

REAL = SAMPLE_DIR / "OpenFace" / "1001_DFA_ANG_XX.csv"
HEADER = ["frame", "timestamp", "confidence", "success", *ACTION_UNITS]
UNEVEN = [0, 10, 50, 200, 210, 390]  # milliseconds


def table(rows, header=HEADER, separator=", ", face_ids=None):
    """Bytes of a table; a row is (timestamp, confidence, success, value of all action units)."""
    header = header if face_ids is None else [header[0], "face_id", *header[1:]]
    lines = [separator.join(header)]
    for index, (*start, value) in enumerate(rows):
        known = dict(zip(HEADER[1:4], start, strict=True)) | {"frame": index + 1}
        known["face_id"] = None if face_ids is None else face_ids[index]
        lines.append(separator.join(str(known.get(column, value)) for column in header))
    return ("\n".join(lines) + "\n").encode()


def test_a_real_table_gives_35_columns_in_order():
    track = read_openface(REAL)
    assert track.features.shape == (67, 35) and track.features.dtype == np.float32
    assert track.features[0, ACTION_UNITS.index("AU04_r")] == np.float32(0.66)
    assert track.features[0, ACTION_UNITS.index("AU04_c")] == 1
    assert track.identity.columns == ACTION_UNITS and track.identity.version is None
    assert 0 <= track.features.min() and track.features.max() <= 5 and track.success.all()


def test_a_real_table_of_431_columns_without_face_id_reads_the_same_way(shared):
    track = read_openface(shared / "data" / "openface_variant.csv")
    assert track.features.shape == (100, 35)
    lines = (shared / "data" / "openface_variant.csv").read_text().splitlines()
    column = [name.strip() for name in lines[0].split(",")].index("AU12_r")
    expected = [float(line.split(",")[column]) for line in lines[1:]]
    np.testing.assert_allclose(track.features[:, ACTION_UNITS.index("AU12_r")], expected, atol=1e-6)


def test_without_success_confidence_decides():
    header = [column for column in HEADER if column != "success"]
    rows = [(0.0, 0.98, None, 1.0), (0.1, 0.725, None, 1.0), (0.2, 0.03, None, 1.0)]
    track = read_openface(table(rows, header))
    assert track.success.tolist() == [True, False, False]
    assert track.features[:, 0].tolist() == [1.0, 0.0, 0.0]


def test_of_several_faces_the_one_with_the_largest_mean_confidence_wins():
    rows = [(0.0, 0.99, 1, 1.0), (0.0, 0.90, 1, 2.0), (0.1, 0.10, 1, 1.0), (0.1, 0.90, 1, 2.0)]
    track = read_openface(table(rows, face_ids=[0, 1, 0, 1]))
    assert track.timestamps.tolist() == [0.0, 0.1] and (track.features == 2.0).all()


def test_a_failed_frame_keeps_its_row_whatever_it_holds():
    track = read_openface(table([(0.0, 0.98, 1, 1.0), (0.1, 0.0, 0, "nan"), (0.2, 0.98, 1, 3.0)]))
    assert track.success.tolist() == [True, False, True] and track.features[:, 34].tolist() == [1.0, 0.0, 3.0]


GOOD = [(0.0, 0.98, 1, 1.0), (0.1, 0.98, 1, 1.0)]
BROKEN = {
    "no units": (table(GOOD, HEADER[:4]), "lacks the OpenFace columns AU01_r, .* and 29 more. Was .* run with -aus"),
    "no AU28_c": (table(GOOD, [one for one in HEADER if one != "AU28_c"]), "lacks the OpenFace columns AU28_c"),
    "no time": (table(GOOD, [one for one in HEADER if one != "timestamp"]), "lacks the OpenFace columns timestamp"),
    "NaN": (table([GOOD[0], (0.1, 0.98, 1, "nan")]), "not finite numbers: features of frame 1"),
    "a word": (table([GOOD[0], (0.1, 0.98, 1, "n/a")]), "not finite numbers: features of frame 1"),
    "reversed": (table(GOOD[::-1]), "backwards in time: frame 1 is at 0.000 s, after 0.100 s"),
    "no frames": (table([]), "no frames"),
    "utf-16": (table(GOOD).decode().encode("utf-16"), "is not a table of OpenFace"),
    "latin-1": (b"Zeit\xe4," + table(GOOD), "is not a table of OpenFace"),
    "a row cut short": (table(GOOD) + b"3, 0.2, 0.9", "does not say whether frame 2 has a face: is it cut short"),
    "a row cut later": (table(GOOD) + b"3, 0.2, 0.98, 1, 0.5", "not finite numbers: features of frame 2"),
    "empty": (b"", "is empty"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_table_is_refused_by_name_and_reason(tmp_path, fault):
    content, reason = BROKEN[fault]
    (tmp_path / "clip.csv").write_bytes(content)
    with pytest.raises(MediaError, match=f"clip.csv .*{reason}"):
        read_openface(tmp_path / "clip.csv")


QUICK = {
    "real": (REAL.read_bytes(), True),
    "of one face": (table(GOOD, face_ids=[3, 3]), True),
    "of two faces": (table([*GOOD, *GOOD], face_ids=[0, 1, 1, 0]), False),
    "with a byte-order mark, as Windows ends lines": (b"\xef\xbb\xbf" + table(GOOD).replace(b"\n", b"\r\n"), True),
    "with a comment": (table(GOOD) + b"# done\n", False),
    "with a column twice": (table(GOOD, [*HEADER, "success"]), False),
    "with a cell too many": (table(GOOD).replace(b"0.98", b"0.98, 1"), False),
    "whose failed frame holds nothing": (table([GOOD[0], (0.1, 0.0, 0, "")]), False),
    **{name: (content, None) for name, (content, _) in BROKEN.items()},
}


@pytest.mark.parametrize("kind", QUICK)
def test_a_plain_table_is_read_quickly_and_as_pandas_reads_it(monkeypatch, kind):
    content, is_quick = QUICK[kind]
    assert is_quick is None or (openface._plain_columns(content) is not None) is is_quick
    quick = outcome(content)
    monkeypatch.setattr(openface, "_plain_columns", lambda content: None)
    assert outcome(content) == quick


def outcome(content):
    """What a table holds, or why it is refused."""
    try:
        return [values.tolist() for values in read_openface(content)]
    except MediaError as error:
        return str(error)


@pytest.fixture
def program(tmp_path):
    """The stand-in for FeatureExtraction."""
    return write_openface(tmp_path / "OpenFace")


def clip(tmp_path, name="clip.mp4", milliseconds=UNEVEN):
    return write_video(tmp_path / name, milliseconds)


def test_features_come_with_the_streams_own_times_and_the_programs_digest(tmp_path, program):
    video = clip(tmp_path)
    extractor = find_extractor("openface", openface=program)
    timestamps, features, success = extractor.extract(video)
    np.testing.assert_array_equal(timestamps, read_timestamps(video))  # the table itself says 0, 1/30, 2/30 …
    assert features.shape == (6, 35) and success.all()
    np.testing.assert_allclose(features[:, 0], 0.50 + np.arange(6) / 100, atol=1e-6)
    assert extractor.identity.version.startswith("sha256:") and extractor.identity.columns == ACTION_UNITS
    (call,) = (program.parent / "calls.txt").read_text().splitlines()
    assert call.split("\t")[:2] == ["-f", str(video)] and "-aus" in call.split("\t")


def test_static_calibration_changes_values_and_identity(tmp_path, program):
    video = clip(tmp_path)
    dynamic, static = (find_extractor("openface", openface=program, static=flag) for flag in (False, True))
    assert static.extract(video).features[0, 0] - dynamic.extract(video).features[0, 0] == pytest.approx(0.2, abs=1e-6)
    assert (dynamic.identity.settings, static.identity.settings) == (
        {"calibration": "dynamic"},
        {"calibration": "static"},
    )


def test_names_are_arguments_and_never_a_shells_words(tmp_path, program):
    video = clip(tmp_path, "-a $(touch made); 'b',\"c\".mp4")
    assert len(find_extractor("openface", openface=program).extract(video).timestamps) == 6
    assert not (tmp_path / "made").exists() and not Path("made").exists()


def test_a_table_one_row_short_keeps_the_times_of_the_frames_it_has(tmp_path, program):
    video = clip(tmp_path, "short.mp4")
    np.testing.assert_array_equal(
        find_extractor("openface", openface=program).extract(video).timestamps, read_timestamps(video)[:5]
    )


def test_a_clip_without_a_face_is_a_track_of_failed_frames(tmp_path, program):
    track = find_extractor("openface", openface=program).extract(clip(tmp_path, "no_face.mp4"))
    assert not track.success.any() and not track.features.any() and len(track.success) == 6


def test_a_crash_names_clip_and_signal(tmp_path, program):
    with pytest.raises(ExtractionError, match="ended with SIGSEGV at crash.mp4.*Reading the landmark detector"):
        find_extractor("openface", openface=program).extract(clip(tmp_path, "crash.mp4"))


def test_a_hang_is_stopped_with_all_that_it_started(tmp_path, program):
    begin = time.monotonic()
    with pytest.raises(ExtractionError, match="still at hang.mp4 after 1 s and was stopped"):
        find_extractor("openface", openface=program, timeout=1.0).extract(clip(tmp_path, "hang.mp4"))
    assert time.monotonic() - begin < 5
    child = int((program.parent / "child.txt").read_text())
    assert not alive(child)


def alive(pid, patience=2.0):
    """Whether a process still runs; one that is dead and not yet buried does not."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return False
        time.sleep(0.05)
    return True


def test_a_video_that_only_openface_cannot_open_is_told_although_it_exits_well(tmp_path, program):
    with pytest.raises(ExtractionError, match="wrote no table for unreadable.mp4.*Failed to open the video file"):
        find_extractor("openface", openface=program).extract(clip(tmp_path, "unreadable.mp4"))


def test_a_damaged_video_never_reaches_openface(tmp_path, program):
    with pytest.raises(MediaError, match="clip.mp4"):
        find_extractor("openface", openface=program).extract(cut(clip(tmp_path)))
    assert not (program.parent / "calls.txt").exists()


def test_missing_action_unit_columns_are_named(tmp_path, program):
    with pytest.raises(MediaError, match="OpenFace's table of no_units.mp4 lacks the OpenFace columns AU01_r"):
        find_extractor("openface", openface=program).extract(clip(tmp_path, "no_units.mp4"))


def test_missing_model_files_are_the_installations_fault_not_the_clips(tmp_path):
    program = write_openface(tmp_path / "OpenFace", with_models=False)
    with pytest.raises(ExtractorUnavailableError, match="lacks model files. Fetch them with its download_models.sh"):
        find_extractor("openface", openface=program).extract(clip(tmp_path))


def test_the_program_is_found_by_option_then_folder_then_path(tmp_path, program, monkeypatch):
    other = write_openface(tmp_path / "other")
    third = write_openface(tmp_path / "third")
    monkeypatch.setenv("PATH", str(third.parent))
    assert find_extractor("openface").program == str(third)
    monkeypatch.setenv("OPENFACE_DIR", str(tmp_path / "other"))
    assert find_extractor("openface").program == str(other)
    assert find_extractor("openface", openface=tmp_path / "OpenFace").program == str(program)


def test_where_there_is_no_openface_the_ways_to_get_features_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("OPENFACE_DIR", raising=False)
    with pytest.raises(ImportError, match="is not at PATH.*OPENFACE_DIR.*docker:.*--backend mediapipe"):
        find_extractor("openface")
    with pytest.raises(ImportError, match="docker is not on PATH"):
        find_extractor("openface", openface="docker:openface@sha256:" + "0" * 64)


DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    "name, image", [("docker", f"org/openface@{DIGEST}"), ("apptainer", f"docker://org/openface@{DIGEST}")]
)
@pytest.mark.parametrize("inside", ["", "#/opt/FeatureExtraction"])
def test_a_container_gives_what_the_program_gives(tmp_path, program, monkeypatch, name, image, inside):
    runtime = write_runtime(tmp_path / "bin", name, program)
    monkeypatch.setenv("PATH", str(runtime.parent), prepend=os.pathsep)
    video = clip(tmp_path, "a clip, with a comma.mp4")
    extractor = find_extractor("openface", openface=f"{name}:{image}{inside}")
    expected = find_extractor("openface", openface=program).extract(video)
    for mine, theirs in zip(extractor.extract(video), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert extractor.identity.version == DIGEST
    said = (runtime.parent / "runtime.txt").read_text().splitlines()
    assert image in said and (name != "docker" or said[said.index("--network") + 1] == "none")


def test_an_image_file_is_known_by_its_digest_and_a_tag_is_refused(tmp_path, program, monkeypatch):
    runtime = write_runtime(tmp_path / "bin", "apptainer", program)
    monkeypatch.setenv("PATH", str(runtime.parent), prepend=os.pathsep)
    (tmp_path / "openface.sif").write_bytes(b"image")
    version = find_extractor("openface", openface=f"apptainer:{tmp_path}/openface.sif").identity.version
    assert version == "sha256:6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"
    with pytest.raises(ExtractorUnavailableError, match="named by a tag.*Name it by digest: docker image inspect"):
        find_extractor("openface", openface="apptainer:docker://org/openface:latest")
