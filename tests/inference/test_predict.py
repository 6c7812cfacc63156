"""Many clips, whole and broken: an answer or a reason for each, in files that a second run goes on with."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from support.commands import aver
from support.fake_extractor import Brightness, BrightnessInPassing, calls
from support.media import cut, flip, tone, write_sound, write_video
from support.models import aver_config, aver_model
from support.saved_models import BRIGHTNESS, OPENFACE, SOUNDS, TABLES, VIDEOS, saved

from modeling_aver import AverProcessor
from modeling_aver.features.base import ExtractorUnavailableError, FaceTrack, FeatureIdentity
from modeling_aver.features.clips import find_clips
from modeling_aver.features.tables import write_features
from modeling_aver.inference.faces import FacesOfExtractor, find_faces
from modeling_aver.inference.predict import check_request, load_pipeline, predict_clips
from modeling_aver.io.media import MediaError


@pytest.fixture(scope="module")
def openface_model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("openface"), num_action_units=35, feature_identity=OPENFACE)


@pytest.fixture(scope="module")
def recognize(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brightness")
    return load_pipeline(saved(folder, num_action_units=2, feature_identity=BRIGHTNESS))


@pytest.fixture
def extractor(tmp_path):
    return Brightness(tmp_path / "calls.txt")


@pytest.fixture
def predict(recognize, extractor, tmp_path):
    """Predictions for files, or for a folder of them."""

    def run(*paths, out=None, **options):
        faces = FacesOfExtractor(extractor)
        return predict_clips(recognize, find_clips(paths or [tmp_path / "videos"]), faces, out, **options)

    (tmp_path / "videos").mkdir()
    return run


def test_every_clip_has_an_answer_with_probabilities_in_order(predict, tmp_path):
    for name in ("b", "a", "deep/c"):
        path = tmp_path / "videos" / f"{name}.mkv"
        path.parent.mkdir(exist_ok=True)
        write_video(path, sound=tone())
    predictions = predict(out=tmp_path / "out", batch_size=2)
    assert sorted(predictions.done) == ["a", "b", "deep/c"] and not predictions.failed
    rows = list(csv.DictReader(open(tmp_path / "out" / "predictions.csv")))
    assert [row["clip"] for row in rows] == ["a", "b", "deep/c"] and rows[0]["streams"] == "audio+video"
    for row in rows:
        probabilities = {name[2:]: float(value) for name, value in row.items() if name.startswith("p_")}
        assert list(probabilities) == predictions.labels and sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert max(probabilities, key=probabilities.get) == row["label"]


def test_a_missing_stream_is_told_and_the_other_answers(predict, tmp_path):
    videos = tmp_path / "videos"
    silent = write_video(videos / "silent.mkv")
    dark = write_video(videos / "dark.mkv", range(0, 80, 40), size=(320, 240), sound=tone())
    sound = write_sound(videos / "sound.wav", tone())
    done = predict(silent, dark, sound).done
    assert done["silent"]["streams"] == ["video"] and "has no sound: it holds only video" in done["silent"]["notes"][0]
    assert done["sound"]["streams"] == ["audio"] and "has no picture: it holds only audio" in done["sound"]["notes"][0]
    assert done["sound"]["face"] is None and done["silent"]["face"] == 1.0


def test_a_black_video_answers_by_its_sound_and_says_so(recognize, extractor, tmp_path):
    import av

    black = tmp_path / "black.mkv"
    with av.open(str(black), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        speaker = container.add_stream("pcm_s16le", rate=16_000)
        speaker.codec_context.layout = "mono"
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((24, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
        sound = tone()
        sound.pts = 0
        container.mux(speaker.encode(sound))
        container.mux(speaker.encode(None))
    done = predict_clips(recognize, find_clips([black]), FacesOfExtractor(extractor)).done
    assert done["black"]["streams"] == ["audio"] and done["black"]["face"] == 0.0
    assert done["black"]["notes"] == ["No face was found in 10 pictures."]


def test_a_third_of_a_second_answers(predict, tmp_path):
    clip = write_video(tmp_path / "videos" / "short.mkv", range(0, 300, 40), sound=tone(0.3))
    assert predict(clip).done["short"]["duration"] == pytest.approx(0.32, abs=0.03)


def test_broken_clips_have_their_reason_and_the_rest_goes_on(predict, tmp_path):
    videos = tmp_path / "videos"
    good = write_video(videos / "good.mkv", sound=tone())
    cut(write_video(videos / "cut.mkv", range(0, 2000, 40)))
    flip(write_video(videos / "flipped.mkv", range(0, 2000, 40), codec="libx264"), count=2000)
    (videos / "empty.mkv").touch()
    (videos / "text.mkv").write_text("no video")
    write_video(videos / "fails.mkv", sound=tone())
    write_video(videos / "odd.mkv", sound=tone())
    predictions = predict(videos, videos / "missing.mkv")
    assert list(predictions.done) == ["good"] and good.exists()
    reasons = {path.rpartition("/")[2]: reason for path, reason in predictions.failed.items()}
    assert set(reasons) == {f"{name}.mkv" for name in ("cut", "flipped", "empty", "text", "fails", "odd", "missing")}
    assert "Is it cut short?" in reasons["cut.mkv"] and "is empty (0 bytes)" in reasons["empty.mkv"]
    assert "No such file" in reasons["missing.mkv"] and "ZeroDivisionError" in reasons["odd.mkv"]
    assert all("\n" not in reason for reason in reasons.values())


def test_a_clip_that_the_model_refuses_does_not_take_its_batch_with_it(predict, recognize, tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        write_video(tmp_path / "videos" / f"{name}.mkv", sound=tone(0.4 if name != "b" else 0.9))
    real = recognize.model.forward

    def short_only(**inputs):
        if inputs["input_values"].shape[1] > 10_000:
            raise ValueError("too long for this model")
        return real(**inputs)

    monkeypatch.setattr(recognize.model, "forward", short_only)
    predictions = predict()
    assert sorted(predictions.done) == ["a", "c"] and list(predictions.failed.values()) == ["too long for this model"]


def test_without_the_extractor_s_program_the_run_stops(predict, tmp_path):
    write_video(tmp_path / "videos" / "absent.mkv", sound=tone())
    with pytest.raises(ExtractorUnavailableError):
        predict()


def test_a_second_run_goes_on_where_the_first_stopped(predict, extractor, tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    for name in ("a", "b"):
        write_video(videos / f"{name}.mkv", sound=tone())
    first = predict(out=out)
    write_video(videos / "c.mkv", sound=tone())
    write_video(videos / "b.mkv", range(0, 800, 40), sound=tone())  # changed since
    second = predict(out=out)
    assert calls(extractor) == ["a.mkv", "b.mkv", "b.mkv", "c.mkv"]
    assert second.done["a"] == first.done["a"] and second.done["b"] != first.done["b"]


def test_what_was_done_before_the_run_was_broken_off_is_kept(predict, extractor, tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    for name in ("a", "absent"):
        write_video(videos / f"{name}.mkv", sound=tone())
    with pytest.raises(ExtractorUnavailableError):
        predict(out=out, batch_size=1)
    assert [one["clip"] for one in json.loads((out / "predictions.json").read_text())["clips"]] == ["a"]


def test_answers_of_another_model_or_stream_are_not_mixed(predict, recognize, extractor, tmp_path):
    out = tmp_path / "out"
    clip = write_video(tmp_path / "videos" / "a.mkv", sound=tone())
    predict(out=out)
    with pytest.raises(ValueError, match=r"answers under other settings \(streams differ\). Choose another folder"):
        predict(out=out, streams="audio")
    other = load_pipeline(saved(tmp_path / "other", seed=1, num_action_units=2, feature_identity=BRIGHTNESS))
    with pytest.raises(ValueError, match=r"\(model differ\)"):
        predict_clips(other, find_clips([clip]), FacesOfExtractor(extractor), out)
    (out / "predictions.json").write_text("[]")
    with pytest.raises(ValueError, match="is not what aver predict writes"):
        predict(out=out)


def test_a_timeline_goes_on_beyond_damage_and_says_where_it_was(recognize, tmp_path):
    (tmp_path / "videos").mkdir()
    video = cut(write_video(tmp_path / "videos" / "a.mkv", range(0, 4000, 40)))
    out = tmp_path / "out"
    faces, timing = FacesOfExtractor(BrightnessInPassing(tmp_path / "calls.txt")), {"window": 1.0, "hop": 0.5}
    predictions = predict_clips(recognize, find_clips([video]), faces, out, timing=timing, formats=["json", "csv"])
    assert "used as far as it goes" in predictions.done["a"]["notes"][-1]
    answer = json.loads((out / "timelines" / "a.json").read_text())
    assert answer["timeline"][-1]["end"] == pytest.approx(answer["duration"]) and answer["window"] == 1.0
    assert len((out / "timelines" / "a.csv").read_text().splitlines()) == len(answer["timeline"]) + 1


def test_faces_come_from_what_the_model_was_trained_on(openface_model, extractor):
    processor = load_pipeline(openface_model).processor.feature_extractor
    assert find_faces(processor, TABLES).tables.num_features == 35
    with pytest.raises(ValueError, match="trained on features of openface, but these are of brightness"):
        find_faces(processor, extractor=extractor)
    with pytest.raises(MediaError, match=r"`action_units_folder` \(nowhere\) is not there"):
        find_faces(processor, "nowhere")
    processor.feature_identity = {"name": "table"}
    with pytest.raises(ValueError, match="features of table, which nothing here makes. .*--action-units-folder"):
        find_faces(processor)
    processor.feature_identity = None
    with pytest.raises(ValueError, match="does not say which features.*--streams audio"):
        find_faces(processor)
    with pytest.raises(ValueError, match="trained on 35 features of the face, but brightness 1 .* has 2"):
        find_faces(processor, extractor=extractor)


@pytest.mark.parametrize(
    "request_, message",
    [
        (("sound", False, None, None, ["json"], None), r"`streams` \('sound'\) may be both, audio, video"),
        (("both", False, 2.0, None, ["json"], None), "belong to a timeline"),
        (("both", True, None, None, ["json"], None), "give --out"),
        (("both", True, 2.0, 3.0, ["json"], "out"), r"`hop` \(3.0 s\)"),
        (("both", True, None, None, ["srt"], "out"), "got srt"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_loaded(request_, message):
    with pytest.raises(ValueError, match=message):
        check_request(*request_)


def test_the_command_predicts_the_real_clips_with_their_tables(openface_model, tmp_path):
    output = aver(
        *("predict", str(VIDEOS), "--model", openface_model, "--action-units-folder", str(TABLES)),
        *("--out", str(tmp_path)),
    )
    for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"):
        assert f"1001_DFA_{emotion}_XX" in output
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 7


def test_the_command_draws_a_timeline_of_sound_alone(openface_model, tmp_path):
    sound = str(SOUNDS / "1001_DFA_SAD_XX.wav")
    command = ("predict", sound, "--model", openface_model, "--streams", "audio", "--timeline", "--window", "1")
    assert "1001_DFA_SAD_XX" in aver(*command, "--out", str(tmp_path))
    names = {path.name for path in (tmp_path / "timelines").iterdir()}
    assert names == {f"1001_DFA_SAD_XX.{suffix}" for suffix in ("json", "csv", "vtt", "TextGrid", "png")}


def test_the_command_fails_where_no_clip_has_an_answer(openface_model, tmp_path):
    from typer.testing import CliRunner

    from modeling_aver.cli.main import app

    (tmp_path / "empty.mp4").touch()
    result = CliRunner().invoke(app, ["predict", str(tmp_path), "--model", openface_model, "--streams", "audio"])
    assert result.exit_code == 1 and "is empty (0 bytes)" in result.output


def ends_with(code, *arguments):
    """Output of a command that ends with an exit code."""
    from typer.testing import CliRunner

    from modeling_aver.cli.main import app

    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def predictions_in(folder):
    content = json.loads((folder / "predictions.json").read_text())
    return {one["clip"]: one for one in content["clips"]}


@pytest.fixture(scope="module")
def whisper_model(tmp_path_factory):
    """Reads 30 s at once."""
    folder = tmp_path_factory.mktemp("whisper")
    return saved(folder, audio="whisper", num_action_units=2, feature_identity=BRIGHTNESS)


def brightness_table(video, folder):
    folder.mkdir(exist_ok=True)
    write_features(folder / f"{video.stem}.npz", Brightness(folder / "log.txt").extract(video))


def test_a_long_video_is_answered_by_the_mean_over_windows_and_says_so(whisper_model, tmp_path):
    video = write_video(tmp_path / "interview.mkv", range(0, 31_000, 40), sound=tone(31.0))
    short = write_video(tmp_path / "short.mkv", sound=tone())
    for path in (video, short):
        brightness_table(path, tmp_path / "tables")
    command = ("predict", video, short, "--model", whisper_model, "--action-units-folder", tmp_path / "tables")
    result = ends_with(0, *command, "--out", tmp_path / "answers")
    note = "Longer than 30 s: the answer is the mean over windows of 3 s (see --timeline)."
    assert f"interview: {note}" in result.output
    answers = predictions_in(tmp_path / "answers")
    assert answers["interview"]["notes"][0] == note and answers["short"]["notes"] == []
    assert not (tmp_path / "answers" / "timelines").exists()
    ends_with(0, *command, "--out", tmp_path / "over_time", "--timeline", "--formats", "json")
    over_time = predictions_in(tmp_path / "over_time")["interview"]
    assert answers["interview"]["probabilities"] == pytest.approx(over_time["probabilities"])
    assert answers["interview"]["duration"] == pytest.approx(31.0, abs=0.1)


def test_a_model_with_a_short_table_of_positions_answers_longer_clips_by_windows(tmp_path):
    model = saved(
        tmp_path / "model", position_embedding_type="learnable", max_position_embeddings=400
    )  # 2 s at 200 Hz
    sound = write_sound(tmp_path / "sound.wav", tone(4.0))
    result = ends_with(0, "predict", sound, "--model", model, "--streams", "audio")
    assert "Longer than 2 s: the answer is the mean over windows of 2 s" in result.output


def test_a_clip_without_an_answer_among_others_has_an_exit_code_of_its_own(openface_model, tmp_path):
    write_sound(tmp_path / "good.wav", tone())
    (tmp_path / "._good.wav").write_bytes(b"what a system leaves beside")
    command = ("predict", tmp_path, "--model", openface_model, "--streams", "audio")
    ends_with(0, *command)
    (tmp_path / "empty.wav").touch()
    assert "no answer for" in ends_with(3, *command).output
    (tmp_path / "good.wav").unlink()
    ends_with(1, *command)


@pytest.mark.parametrize("command", ["predict", "sync", "explain", "extract", "enroll"])
def test_the_exit_codes_and_the_landmarker_s_option_are_in_the_help(command):
    text = " ".join(ends_with(0, command, "--help").output.replace("\u2502", " ").split())
    assert "3 if some clips are not (each is listed with its reason)" in text and "--face-landmarker" in text


def test_progress_of_a_second_run_begins_with_what_is_done_and_ends_full(openface_model, tmp_path):
    for name in ("a", "b"):
        write_sound(tmp_path / f"{name}.wav", tone())
    command = ("predict", tmp_path, "--model", openface_model, "--streams", "audio", "--out", tmp_path / "out")
    assert "predict: 2 of 2 clips (100%)" in ends_with(0, *command).stderr
    write_sound(tmp_path / "c.wav", tone())
    assert "predict: 3 of 3 clips (100%), already done: 2, " in ends_with(0, *command).stderr


@pytest.mark.parametrize("streams", ["audio", "both"])
def test_a_folder_of_sound_files_is_answered(openface_model, streams, tmp_path):
    (tmp_path / "OpenFace").mkdir()
    shutil.copy(TABLES / "1001_DFA_ANG_XX.csv", tmp_path / "OpenFace" / "another.csv")
    command = ("predict", SOUNDS, "--model", openface_model, "--streams", streams, "--out", tmp_path / "out")
    result = ends_with(0, *command, "--action-units-folder", tmp_path / "OpenFace")
    answers = predictions_in(tmp_path / "out")
    assert len(answers) == 6 and all(one["streams"] == ["audio"] for one in answers.values())
    assert ("1001_DFA_SAD_XX.wav has no picture" in result.output) == (streams == "both")


def test_a_sound_file_beside_its_video_is_no_clip_of_its_own(tmp_path):
    write_sound(tmp_path / "a.wav", tone())
    write_video(tmp_path / "a.mp4")
    write_sound(tmp_path / "b.WAV", tone())
    clips, left_out = find_clips([tmp_path], sound=True)
    assert [clip.path.name for clip in clips] == ["a.mp4", "b.WAV"]
    assert [(one.clip, one.status) for one in left_out] == [(str(tmp_path / "a.wav"), "ignored")]
    assert [clip.path.name for clip in find_clips([tmp_path])[0]] == ["a.mp4"]


def test_a_video_keeps_the_name_of_its_table_where_sound_files_elsewhere_have_the_same(tmp_path):
    for place in ("x/a.mp4", "y/a.wav", "y/a.mp3", "z/a.mkv"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    clips, left_out = find_clips([tmp_path / "x", tmp_path / "y"], sound=True)
    assert sorted(clip.name for clip in clips) == ["a", "a.mp3", "a.wav"] and left_out == []
    clips, left_out = find_clips([tmp_path / name for name in "xyz"], sound=True)
    assert sorted(clip.name for clip in clips) == ["a.mkv", "a.mp3", "a.mp4", "a.wav"] and left_out == []


@pytest.mark.parametrize(
    "streams, kinds", [("audio", "video or sound file"), ("both", "video or sound"), ("video", "video")]
)
def test_a_folder_without_clips_is_refused_with_the_kinds_that_were_looked_for(
    openface_model, streams, kinds, tmp_path
):
    with pytest.raises(MediaError, match=f"No {kinds}.* under {tmp_path}. Looked for .*\\.mp4") as caught:
        aver("predict", str(tmp_path), "--model", openface_model, "--streams", streams)
    assert (".wav" in str(caught.value)) == (streams != "video")


def test_the_table_of_another_clip_is_refused_with_both_lengths(openface_model, tmp_path):
    (tmp_path / "OpenFace").mkdir()
    shutil.copy(TABLES / "1001_DFA_DIS_XX.csv", tmp_path / "OpenFace" / "1001_DFA_ANG_XX.csv")
    shutil.copy(TABLES / "1001_DFA_FEA_XX.csv", tmp_path / "OpenFace" / "1001_DFA_FEA_XX.csv")
    video = VIDEOS / "1001_DFA_ANG_XX.flv"
    command = ("--model", openface_model, "--action-units-folder", tmp_path / "OpenFace")
    result = ends_with(3, "predict", video, VIDEOS / "1001_DFA_FEA_XX.flv", *command)
    reason = r"1001_DFA_ANG_XX\.csv has 70 frames \(2\.34 s\), but 1001_DFA_ANG_XX\.flv has 67 \(2\.2[34] s\)\."
    assert re.search(reason + r" Is it the table of another clip\?", result.output)


def test_a_model_of_clip_means_refuses_features_of_frames(tmp_path):
    identity = {**OPENFACE, "settings": {"statistic": "mean of the clip"}}
    model = saved(tmp_path / "model", num_action_units=35, feature_identity=identity)
    message = (
        r"The model needs one vector per clip \(statistic: mean of the clip\) of openface, but these features are "
        "features of every frame. Give tables of such features"
    )
    for command in (("predict",), ("explain", "--out", str(tmp_path / "why"))):
        with pytest.raises(ValueError, match=message):
            aver(*command, str(VIDEOS), "--model", model, "--action-units-folder", str(TABLES))
    with pytest.raises(ValueError, match="statistic mean of the clip.*which nothing here makes. Give precomputed"):
        aver("predict", str(VIDEOS), "--model", model)
    row = FaceTrack(np.array([1.0]), np.full((1, 35), 0.4), np.array([True]), FeatureIdentity.from_dict(identity))
    (tmp_path / "means").mkdir()
    for video in VIDEOS.iterdir():
        write_features(tmp_path / "means" / f"{video.stem}.npz", row)
    output = aver("predict", str(VIDEOS), "--model", model, "--action-units-folder", str(tmp_path / "means"))
    assert output.count("1001_DFA") == 6 and "seems to be" not in output


@pytest.mark.parametrize("command", ["predict", "explain", "sync", "enroll", "live"])
def test_a_missing_landmarker_file_is_named_with_options_that_the_command_has(command, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.8.7")
    scale = {"action_unit_mean": [0.3] * 52, "action_unit_std": [0.5] * 52}
    config = aver_config(num_action_units=52, feature_identity={"name": "mediapipe"})
    aver_model(config).save_pretrained(tmp_path / "model")
    AverProcessor.from_config(config, **scale).save_pretrained(tmp_path / "model")
    video = VIDEOS / "1001_DFA_ANG_XX.flv"
    where = ("--file", video) if command == "live" else (video,)
    out = ("--out", tmp_path / "out") if command in ("explain", "enroll") else ()
    message = caught_by(
        command, *where, *out, "--model", tmp_path / "model", "--face-landmarker", tmp_path / "none.task"
    )
    assert "none.task cannot be read: No such file or directory" in message
    known = set(re.findall(r"--[a-z-]+", ends_with(0, command, "--help").output))
    assert set(re.findall(r"--[a-z-]+", message)) <= known, "every option that the error names is the command's own"


def caught_by(*arguments):
    """What a command is refused with."""
    with pytest.raises((ValueError, OSError, ImportError)) as caught:
        aver(*map(str, arguments))
    return str(caught.value)
