"""Many clips, whole and broken: an answer or a reason for each, in files that a second run goes on with."""

import csv
import json

import numpy as np
import pytest
from conftest import aver_config, aver_model
from made_up_extractor import Brightness, BrightnessInPassing, calls
from made_up_media import cut, flip, tone, write_sound, write_video
from test_cli import aver

from datasets_scripts import SAMPLE_DIR
from modeling_aver import AverProcessor
from modeling_aver.features import ExtractorUnavailableError, MediaError, find_clips
from modeling_aver.features.openface import ACTION_UNITS
from modeling_aver.inference import FacesOfExtractor, check_request, find_faces, load_pipeline, predict_clips

VIDEOS, TABLES, SOUNDS = (SAMPLE_DIR / name for name in ("VideoFlash", "OpenFace", "AudioWAV"))
BRIGHTNESS = {"name": "brightness", "settings": {"corner": 4}, "columns": ["mean", "corner"]}
OPENFACE = {"name": "openface", "settings": {}, "columns": list(ACTION_UNITS)}


def saved(folder, seed=0, **values):
    config = aver_config(**values)
    aver_model(config, seed).save_pretrained(folder)
    AverProcessor.from_config(config).save_pretrained(folder)
    return str(folder)


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

    from modeling_aver.cli import app

    (tmp_path / "empty.mp4").touch()
    result = CliRunner().invoke(app, ["predict", str(tmp_path), "--model", openface_model, "--streams", "audio"])
    assert result.exit_code == 1 and "is empty (0 bytes)" in result.output
