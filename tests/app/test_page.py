"""The web page: what `aver app` answers, with Gradio and without, and the Space that it writes."""

import base64
import csv
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.fake_extractor import BrightnessInPassing
from support.fake_openface import write_openface
from support.media import cut, tone, write_sound, write_video
from support.reencoded_media import CLIPS, clip, remake
from support.runs import made_up_run
from support.saved_models import BRIGHTNESS, OPENFACE, TABLES, saved

from modeling_aver import SpeakerProfile
from modeling_aver.app.face_count import shows_several_faces
from modeling_aver.app.model_info import read_model_info
from modeling_aver.app.preview import browser_video
from modeling_aver.app.report import Limits, report_clip
from modeling_aver.app.report_html import CSS, error_html, model_html, report_html, result_files
from modeling_aver.app.session import EXAMPLES, PageSession
from modeling_aver.app.space import OPTIONAL, REQUIREMENTS, write_space
from modeling_aver.features.base import ExtractorUnavailableError, FaceTrack, FeatureIdentity
from modeling_aver.features.mediapipe import BLENDSHAPES, MediaPipeExtractor
from modeling_aver.features.tables import write_features
from modeling_aver.inference.faces import FacesOfExtractor
from modeling_aver.inference.predict import load_pipeline
from modeling_aver.io.media import MediaError, read_audio, read_frames

MEDIAPIPE = FeatureIdentity("mediapipe", "1", {}, BLENDSHAPES)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def openface_model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("openface"), num_action_units=35, feature_identity=OPENFACE)


@pytest.fixture(scope="module")
def openface(openface_model):
    """A page whose model needs OpenFace, which is not here."""
    return PageSession(load_pipeline(openface_model))


@pytest.fixture(scope="module")
def recognize(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brightness")
    return load_pipeline(saved(folder, num_action_units=2, feature_identity=BRIGHTNESS))


@pytest.fixture
def session(recognize, tmp_path):
    """A page whose features are how bright a picture is."""
    return PageSession(recognize, Limits(2**20, 3.0), extractor=BrightnessInPassing(tmp_path / "calls.txt"))


@pytest.fixture
def upload(tmp_path):
    """A copy of a real clip, as a browser leaves it on the server."""

    def copy(source=CLIPS[3], name="clip.flv"):
        path = tmp_path / "uploads" / name
        path.parent.mkdir(exist_ok=True)
        return Path(shutil.copy(source, path))

    return copy


@pytest.fixture(scope="module")
def report(recognize, tmp_path_factory):
    faces = FacesOfExtractor(BrightnessInPassing(tmp_path_factory.mktemp("log") / "calls.txt"))
    return report_clip(recognize, CLIPS[3], faces, Limits())


@pytest.fixture(scope="module")
def files(report):
    return result_files(report)


@pytest.fixture(scope="module")
def html(report):
    return report_html(report)


def text_of(html):
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_the_report_says_what_the_pipeline_says_of_each_stream(report, recognize):
    whole = recognize(CLIPS[3], extractor=BrightnessInPassing(Path("/dev/null")))
    assert report.answer["emotions"] == whole["emotions"] == report.timeline["emotions"]
    assert list(report.streams) == ["both", "audio", "video"]
    alone = recognize(CLIPS[3], streams="audio")
    assert report.streams["audio"]["emotions"] == alone["emotions"] != whole["emotions"]
    assert report.timeline["timeline"][-1]["end"] == pytest.approx(whole["duration"], abs=0.05)
    assert report.timeline["window"] < whole["duration"]  # so that a short clip has a track too


def test_what_can_be_downloaded_can_be_read_again(report, files):
    files = {suffix: content for suffix, (_, content) in files.items()}
    answer = json.loads(files["json"])
    assert answer["clip"] == CLIPS[3].stem and set(answer["streams_alone"]) == {"both", "audio", "video"}
    rows = list(csv.DictReader(io.StringIO(files["csv"].decode())))
    assert len(rows) == len(answer["timeline"]) and set(rows[0]) >= {f"p_{label}" for label in report.labels}
    streams = list(csv.DictReader(io.StringIO(files["streams.csv"].decode())))
    assert [row["streams"] for row in streams] == ["both", "audio", "video"]
    for row in streams:
        assert sum(float(row[f"p_{label}"]) for label in report.labels) == pytest.approx(1, abs=1e-4)
    assert files["vtt"].startswith(b"WEBVTT") and files["png"].startswith(b"\x89PNG")


def test_the_page_s_links_hold_these_files_whole(report, html, files):
    links = re.findall(r'<a download="([^"]+)" href="data:[^;]+;base64,([^"]+)"', html)
    assert [name for name, _ in links] == [f"{report.name}.{suffix}" for suffix in files]
    assert [base64.b64decode(content) for _, content in links[:-1]] == [one for _, one in list(files.values())[:-1]]


def test_the_clip_is_shown_with_the_alignment_and_a_bar_for_each_stream_and_emotion(report, html):
    assert 'src="data:video/mp4;base64,' in html and 'src="data:image/png;base64,' in html
    assert html.count('class="aver-bar"') == 3 * len(report.labels)
    words = text_of(html)
    assert f"{report.answer['emotions'][0]['label']} {report.answer['emotions'][0]['score']:.0%}" in words
    assert "sound and face" in words and "sound alone" in words and "in windows of 1 s" in words


def test_bands_fill_the_track_from_edge_to_edge_and_from_bottom_to_top(report, html):
    bands = re.search(r'<svg class="aver-bands".*?</svg>', html, re.DOTALL).group()
    areas = [
        [tuple(map(float, point.split(","))) for point in points.split()]
        for points in re.findall(r'points="([^"]+)"', bands)
    ]
    assert len(areas) == len(report.labels)
    columns = len(areas[0]) // 2
    for column in range(columns):
        heights = [area[2 * columns - 1 - column][1] - area[column][1] for area in areas]
        assert sum(heights) == pytest.approx(100, abs=0.1) and min(heights) >= 0
    assert areas[0][0][0] == 0 and areas[0][columns - 1][0] == 1000


def test_the_preview_plays_as_long_as_the_clip_and_is_upright(tmp_path):
    video = write_video(tmp_path / "a.mkv", range(0, 900, 40), size=(64, 720))
    sound = read_audio(write_sound(tmp_path / "a.wav", tone(0.9)))
    (tmp_path / "preview.mp4").write_bytes(browser_video(video, sound, 16_000, 10.0))
    frames = list(read_frames(tmp_path / "preview.mp4"))
    assert frames[-1][0] == pytest.approx(0.88, abs=0.03) and frames[0][1].shape == (360, 32, 3)
    corner, rest = frames[0][1][100, 8], frames[0][1][300, 24]
    assert corner.mean() > 200 and rest.mean() < 60  # the upper left is white
    assert len(read_audio(tmp_path / "preview.mp4")) / 16_000 == pytest.approx(0.9, abs=0.15)


def test_a_preview_ends_where_clips_must_and_thins_fast_video(tmp_path):
    video = write_video(tmp_path / "a.mkv", range(0, 1000, 10))
    (tmp_path / "preview.mp4").write_bytes(browser_video(video, np.zeros(0, np.float32), 16_000, 0.5))
    frames = list(read_frames(tmp_path / "preview.mp4"))
    assert frames[-1][0] <= 0.5 and len(frames) == pytest.approx(13, abs=1)


def test_an_upload_is_answered_and_deleted(session, upload):
    path = upload()
    assert "aver-answer" in session.answer_upload(str(path))
    assert not path.exists()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: path.touch(), "clip.mp4 is empty (0 bytes)."),
        (
            lambda path: path.write_text("<script>alert(1)</script>"),
            "clip.mp4 cannot be decoded as video or audio. Is it damaged or cut short?",
        ),
        (
            lambda path: path.write_bytes(bytes(2**20 + 1)),
            "clip.mp4 has 1.0 MB, more than the 1 MB that this page takes.",
        ),
        (lambda path: write_video(path, range(0, 4000, 40)), "clip.mp4 is longer than the 3 s that this page takes."),
        (lambda path: cut(write_video(path, range(0, 2000, 40))), "clip.mp4"),
    ],
    ids=["empty", "text", "large", "long", "cut"],
)
def test_a_clip_that_fails_gives_one_plain_sentence_and_is_deleted(session, tmp_path, make, words):
    path = tmp_path / "clip.mp4"
    make(path)
    html = session.answer_upload(str(path))
    assert "aver-error" in html and words in text_of(html) and html.count("<p") == 1
    assert str(tmp_path) not in html and "Traceback" not in html and not path.exists()


def test_a_fault_of_the_program_is_one_sentence_too(session, upload, monkeypatch):
    monkeypatch.setattr(session.recognize.model, "forward", lambda **inputs: [][1])
    assert "clip.flv cannot be used (IndexError)." in session.answer_upload(str(upload()))


def test_without_a_clip_it_asks_for_one(session):
    assert "Upload a video first" in session.answer_upload(None)


def test_names_of_files_are_not_html(report):
    html = report_html(replace(report, name='"><img src=x onerror=alert(1)>'))
    assert "<img src=x" not in html and "&lt;img src=x" in html
    assert "<script>" not in error_html("<script>") and "<" not in CSS


def test_silence_and_darkness_are_told(session, tmp_path):
    frames, _ = clip(0)
    silent = remake(tmp_path / "silent.mp4", frames[:30], None)
    words = text_of(session.answer_upload(str(silent)))
    assert "silent.mp4 has no sound" in words and "· face alone" in words and "sound alone" not in words
    sound = write_sound(tmp_path / "sound.wav", tone(1.0))
    html = session.answer_upload(str(sound))
    assert "has no picture" in text_of(html) and "<video" not in html and "aver-bands" in html


def test_without_openface_the_sound_answers_with_a_note(openface, upload):
    words = text_of(openface.notes_html())
    assert "trained on OpenFace features of the face, and OpenFace is not available" in words
    words = text_of(openface.answer_upload(str(upload())))
    assert "· sound alone" in words and "face alone" not in words
    assert "Answered by the sound alone" in words and "no table was uploaded" in words


def test_neither_sound_nor_face_features_is_one_sentence_with_a_remedy(openface, tmp_path):
    path = remake(tmp_path / "silent.mp4", clip(0)[0][:30], None)
    words = text_of(openface.answer_upload(str(path)))
    assert words == (
        "silent.mp4 has no sound, and this page cannot extract features of the face for this model. Upload a table of "
        "its face features beside it."
    )


def test_a_table_beside_the_video_gives_it_a_face(openface, upload):
    table = upload(TABLES / f"{CLIPS[3].stem}.csv", "any name.csv")
    words = text_of(openface.answer_upload(str(upload()), str(table)))
    assert "sound and face" in words and "a face in 100% of the pictures" in words and not table.exists()
    assert "Answered by the sound alone" not in words


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("my face.csv", "not,a table\n1,2\n", "my face.csv must have a column timestamp"),
        ("my face.csv", "", "my face.csv is empty (0 bytes)."),
        ("my face.npz", "x", "my face.npz is not a whole npz"),
        ("my face.txt", "x", "my face.txt is no table (.npz, .parquet, .csv)"),
    ],
)
def test_an_error_of_a_table_has_its_uploaded_name_and_no_path(openface, upload, name, content, words):
    table = upload(CLIPS[3], name)
    table.write_text(content)
    html = openface.answer_upload(str(upload()), str(table))
    assert "aver-error" in html and words in text_of(html) and not table.exists()
    assert tempfile.gettempdir() not in html and str(table.parent) not in html and "aver-" not in text_of(html)


def test_a_table_of_another_extractor_is_refused_in_one_sentence(openface, upload, tmp_path):
    track = FaceTrack(np.arange(3) / 30, np.zeros((3, 52), np.float32), np.ones(3, bool), MEDIAPIPE)
    write_features(tmp_path / "table.npz", track)
    table = upload(tmp_path / "table.npz", "my face.npz")
    words = text_of(openface.answer_upload(str(upload()), str(table)))
    assert words == (
        "my face.npz holds features of MediaPipe, but this model was trained on features of OpenFace. Upload a table "
        "of OpenFace features."
    )


def test_examples_are_named_as_the_model_names_its_emotions(openface, tmp_path):
    assert openface.examples == ["anger", "disgust", "fear", "happy", "neutral", "sad"]
    labels = dict(enumerate(["Happiness", "angry", "calm", "fearful"]))
    other = PageSession(load_pipeline(saved(tmp_path, num_action_units=35, id2label=labels)))
    assert other.examples == ["angry", "disgust", "fearful", "Happiness", "neutral", "sad"]


def test_the_page_names_model_corpus_labels_scores_limits_and_intended_use(tmp_path):
    run = made_up_run(tmp_path / "my run")
    words = text_of(model_html(read_model_info(run, ("anger", "<b>fear</b>"))))
    assert "Model my run · training corpus: CREMA-D (configuration" in words and str(tmp_path) not in words
    assert "Labels: anger, &lt;b&gt;fear&lt;/b&gt;. They stand for: the emotion that the actors were asked" in words
    results = json.loads((run / "results.json").read_text())
    assert f"WAR {100 * results['metrics']['eval_war']:.2f} %" in words
    assert "Limits: it answers with one of 2 emotions" in words
    assert "Intended use: research on acted emotion" in words and "AI Act" in words


@pytest.mark.parametrize(
    "results", [None, "{", "[]", '{"dataset": 3}', '{"dataset": {"dataset_name": "crema_d"}}'], ids=repr
)
def test_a_model_without_usable_results_says_that_they_are_not_recorded(tmp_path, results):
    if results is not None:
        (tmp_path / "results.json").write_text(results)
    words = text_of(model_html(read_model_info(tmp_path, ("anger",), "my model")))
    assert "Model my model · training corpus: not recorded" in words


def test_scores_on_the_training_clips_are_not_shown(tmp_path):
    run = made_up_run(tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "scored_clips_were_trained_on": True}))
    words = text_of(model_html(read_model_info(run, ("anger",))))
    assert "WAR" not in words and "accuracy on other clips is unknown" in words


def test_the_corpus_comes_from_the_card_where_there_are_no_results(tmp_path):
    (tmp_path / "README.md").write_text("---\ndatasets:\n- org/corpus\n---\n# Model\n")
    assert read_model_info(tmp_path, ("anger",)).corpus == "org/corpus"


@pytest.fixture
def face_landmarker(shared):
    pytest.importorskip("mediapipe", reason='needs MediaPipe: pip install ".[mediapipe]"')
    return MediaPipeExtractor(str(shared / "models" / "face_landmarker.task"), "1")


@pytest.mark.slow
def test_two_people_in_the_picture_are_noticed_and_one_is_not(face_landmarker, tmp_path):
    pictures = [frame for frame in clip(3)[0][:20]]
    two = [(seconds, np.concatenate([pixels, pixels], axis=1)) for seconds, pixels in pictures]
    for frames, several in ((pictures, False), (two, True)):
        video = browser_video(remake(tmp_path / f"{several}.mp4", frames, None), np.zeros(0, np.float32), 16_000, 9.0)
        assert shows_several_faces(face_landmarker, video, 0.7) is several


def test_the_clips_carried_along_are_examples_with_their_tables(openface):
    assert len(EXAMPLES) == 6
    words = text_of(openface.answer_example(3))
    assert "1001_DFA_HAP_XX" in words and "sound and face" in words and EXAMPLES[3].exists()


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A page whose model standardizes faces."""
    folder = tmp_path_factory.mktemp("standardized")
    recognize = load_pipeline(saved(folder, num_action_units=2, feature_identity=BRIGHTNESS))
    extractor = recognize.processor.feature_extractor
    extractor.action_unit_mean, extractor.action_unit_std = [100.0, 100.0], [40.0, 40.0]
    return PageSession(recognize, extractor=BrightnessInPassing(tmp_path_factory.mktemp("log") / "calls.txt"))


@pytest.mark.slow
def test_calibration_counts_clips_names_bad_ones_and_changes_answers(calibrated, upload, tmp_path):
    broken = tmp_path / "broken.flv"
    broken.write_bytes(CLIPS[0].read_bytes()[:3000])
    profile, html = calibrated.calibrate([str(upload(one, one.name)) for one in CLIPS[:3]])
    assert isinstance(profile, SpeakerProfile) and profile.num_clips == 3
    assert "Calibrated on 3 clips" in text_of(html) and "Less than 10 clips" in text_of(html)
    before, after = calibrated.answer_example(3), calibrated.answer_example(3, profile)
    assert "calibrated on 3 clips of the person" in text_of(after) and "calibrated" not in text_of(before)
    bars = [re.findall(r"width: ([\d.]+)%", html) for html in (before, after)]
    assert len(bars[0]) == len(bars[1]) and bars[0] != bars[1]
    assert calibrated.calibrate([])[0] is None and calibrated.can_calibrate
    profile, html = calibrated.calibrate([str(broken)])
    assert profile is None and "cannot be made of 1 clips" in text_of(html) and str(tmp_path) not in html


def test_a_model_that_standardizes_nothing_offers_no_calibration(session, openface, upload):
    assert not session.can_calibrate and not openface.can_calibrate
    clip = upload()
    profile, html = session.calibrate([str(clip)])
    assert profile is None and "standardizes neither" in text_of(html) and not clip.exists()


def test_limits_of_nothing_are_refused():
    with pytest.raises(ValueError, match=r"0 bytes and 3.0 s: both must be positive"):
        Limits(0, 3.0)
    with pytest.raises(MediaError, match="longer than the 3 s"):
        Limits(10, 3.0).check_seconds(3.1, "clip")


def aver(*arguments, cwd):
    """Output of a command that ends by itself, and its exit status."""
    words = [sys.executable, "-m", "modeling_aver", *map(str, arguments)]
    done = subprocess.run(words, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr, done.returncode


def environment(**more):
    """This process's, without an OpenFace that happens to be installed."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    values = {name: value for name, value in os.environ.items() if name != "OPENFACE_DIR"}
    return {**values, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "GRADIO_ANALYTICS_ENABLED": "False", **more}


@pytest.fixture
def serving(tmp_path):
    """Starts a command in a folder, and waits until its page answers."""
    started = []

    def start(words, cwd, port, **more):
        log = tmp_path / "log.txt"
        with open(log, "w") as output:
            options = {"stdout": output, "stderr": subprocess.STDOUT}
            started.append(subprocess.Popen(words, cwd=cwd, env=environment(**more), **options))
        address = f"http://127.0.0.1:{port}/"
        for _ in range(240):
            if started[-1].poll() is not None:
                break
            try:
                urllib.request.urlopen(address, timeout=2).close()
                return address, log
            except OSError:
                time.sleep(0.5)
        pytest.fail(log.read_text())

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.fixture
def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def answered(address, clip, table=None):
    """HTML of the report of an upload."""
    client = pytest.importorskip("gradio_client")
    page = client.Client(address, verbose=False)
    upload = [client.handle_file(str(path)) if path else None for path in (clip, None, table)]
    return text_of(page.predict(*upload, api_name="/upload")[0])


@pytest.mark.slow
def test_aver_app_with_a_model_of_openface_starts_and_answers_by_the_sound_or_by_a_table(
    openface_model, serving, free_port, upload, tmp_path
):
    pytest.importorskip("gradio", reason='needs Gradio: pip install ".[app]"')
    words = [sys.executable, "-m", "modeling_aver", "app", "--model", openface_model, "--port", str(free_port)]
    address, log = serving([*words, "--max-megabytes", "1", "--max-seconds", "3"], tmp_path, free_port)
    words = answered(address, upload(name="holiday (1).flv"))
    assert "holiday (1) · 1.9 s · sound alone" in words and "Answered by the sound alone" in words
    words = answered(address, upload(), TABLES / f"{CLIPS[3].stem}.csv")
    assert "sound and face" in words
    (tmp_path / "text.mp4").write_text("no video")
    assert answered(address, tmp_path / "text.mp4").startswith("text.mp4 cannot be decoded as video or audio.")
    long = write_sound(tmp_path / "long.wav", tone(4.0))
    assert answered(address, long) == ("long.wav is longer than the 3 s that this page takes. Upload a part of it.")
    assert "Clips are answered by their sound alone: OpenFace's FeatureExtraction is not" in log.read_text()
    assert f"The page is at {address} until Ctrl-C." in log.read_text()


@pytest.mark.slow
def test_an_openface_that_is_not_there_is_an_error_without_options_of_other_commands(openface_model, tmp_path):
    pytest.importorskip("gradio", reason='needs Gradio: pip install ".[app]"')
    output, status = aver("app", "--model", openface_model, "--openface", tmp_path / "none", cwd=tmp_path)
    assert status == 1 and f"FeatureExtraction is not at {tmp_path / 'none'}" in output
    assert "Without --openface, clips are answered by their sound alone." in output
    assert "--streams" not in output and "--action-units-folder" not in output and "Traceback" not in output


def test_the_page_calibrates_openface_on_stretches_and_takes_its_timeout(openface_model, recognize, tmp_path):
    program = write_openface(tmp_path / "OpenFace")
    extractor = PageSession(load_pipeline(openface_model), openface=program, timeout=5.0).faces.extractor
    assert (extractor.calibration_window, extractor.timeout) == (3.0, 5.0)
    with pytest.raises(
        ValueError, match="--openface-models x is of no use here: the model was trained on features of"
    ):
        PageSession(recognize, openface_models="x")
    reason = (
        "models are not at .*nowhere.* Without --openface and --openface-models, clips are answered by their sound"
    )
    with pytest.raises(ExtractorUnavailableError, match=reason):
        PageSession(load_pipeline(openface_model), openface=program, openface_models="nowhere")


def test_openface_for_a_model_of_other_features_is_refused(recognize):
    with pytest.raises(
        ValueError, match="--openface x is of no use here: the model was trained on features of bright"
    ):
        PageSession(recognize, openface="x")


@pytest.fixture
def run_folder(tmp_path):
    """`runs/my_run`, with results that hold a path of this machine."""
    folder = made_up_run(tmp_path / "runs" / "my_run")
    results = json.loads((folder / "results.json").read_text())
    results["command"] = "train_hf.py a.yaml --output_dir /home/anna/run"
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def space(run_folder, tmp_path):
    pytest.importorskip("gradio", reason='needs Gradio: pip install ".[app]"')
    output, status = aver("app", "--model", "runs/my_run", "--space", "my_space", cwd=tmp_path)
    assert status == 0, output
    return tmp_path / "my_space", output


@pytest.mark.slow
def test_a_space_of_a_folder_holds_the_model_and_starts(space, serving, free_port, run_folder, upload):
    folder, output = space
    names = {path.name for path in (folder / "model").iterdir()}
    assert names == {"config.json", "processor_config.json", "model.safetensors", "results.json"}
    weights = [path / "model.safetensors" for path in (folder / "model", run_folder)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    megabytes = sum(path.stat().st_size for path in (folder / "model").iterdir()) / 1e6
    assert f"my_space/model ({megabytes:.1f} MB)" in output
    assert "/home/anna" not in (folder / "model" / "results.json").read_text()
    assert not list(folder.rglob("__pycache__"))
    shutil.rmtree(run_folder)
    port = {"GRADIO_SERVER_PORT": str(free_port), "PYTHONPATH": ""}  # the Space's own copy of the code is imported
    address, _ = serving([sys.executable, "app.py"], folder, free_port, **port)
    assert "sound alone" in answered(address, upload())
    with urllib.request.urlopen(f"{address}config") as config:
        assert b"Model <b>my_run</b>" in config.read()


@pytest.mark.slow
def test_a_space_has_the_settings_that_hugging_face_reads(space):
    folder, _ = space
    settings = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    gradio = importlib.metadata.version("gradio")
    assert settings["sdk"] == "gradio" and settings["sdk_version"] == gradio and settings["app_file"] == "app.py"
    assert settings["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert len(settings["short_description"]) <= 60 and "models" not in settings
    lines = (folder / "requirements.txt").read_text().splitlines()[1:]
    pins = dict(line.split("==") for line in lines)
    assert pins["gradio"] == gradio and pins["transformers"] == importlib.metadata.version("transformers")
    assert not any("+" in pin for pin in pins.values())


def test_the_requirements_of_a_space_are_those_of_the_package_and_its_page():
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["app"], *extras["mediapipe"]]
    assert {re.match(r"[\w-]+", line).group() for line in wanted} == set(REQUIREMENTS) and set(OPTIONAL) < set(
        REQUIREMENTS
    )


@pytest.fixture
def versions(monkeypatch):
    monkeypatch.setattr("modeling_aver.app.space.version", lambda name: {"torch": "2.13.0+cpu"}.get(name, "6.1"))


def test_a_space_of_a_hub_model_downloads_it(tmp_path, versions):
    write_space(tmp_path / "space", "org/aver-demo")
    settings = yaml.safe_load((tmp_path / "space" / "README.md").read_text().split("---")[1])
    assert settings["models"] == ["org/aver-demo"] and settings["sdk_version"] == "6.1"
    code = (tmp_path / "space" / "app.py").read_text()
    assert "serve" in compile(code, "app.py", "exec").co_names and 'serve("org/aver-demo")' in code
    assert "torch==2.13.0\n" in (tmp_path / "space" / "requirements.txt").read_text()
    assert not (tmp_path / "space" / "model").exists()


def test_a_space_written_again_has_the_new_model_only(tmp_path, run_folder, versions):
    write_space(tmp_path / "space", str(run_folder))
    write_space(tmp_path / "space", "org/other")
    assert not (tmp_path / "space" / "model").exists()
    assert 'serve("org/other")' in (tmp_path / "space" / "app.py").read_text()


@pytest.mark.parametrize("model", ["runs/demo/deep", "./runs", "demo", 'org/x"); import os; ("', "org/a--b", "-org/x"])
def test_a_space_needs_a_saved_folder_or_a_hub_id(tmp_path, model):
    with pytest.raises(ValueError, match="is no Hub id as org/name"):
        write_space(tmp_path / "space", model)
    assert not (tmp_path / "space").exists()


@pytest.mark.parametrize("missing", ["config.json", "processor_config.json", "model.safetensors"])
def test_a_space_of_an_incomplete_folder_is_refused(tmp_path, run_folder, missing):
    (run_folder / missing).unlink()
    with pytest.raises(ValueError, match=f"my_run lacks {missing}. Name a folder"):
        write_space(tmp_path / "space", str(run_folder))


def test_a_space_of_another_kind_of_model_is_refused(tmp_path, run_folder):
    (run_folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="holds a model of type bert, not aver"):
        write_space(tmp_path / "space", str(run_folder))


@pytest.mark.parametrize("name", ["README.md", "app.py", "model", "modeling_aver"])
def test_a_space_replaces_nothing_that_it_did_not_write(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match="was not written by aver app --space"):
        write_space(tmp_path, "org/aver-demo")


@pytest.mark.skipif(importlib.util.find_spec("gradio") is not None, reason="Gradio is there")
def test_without_gradio_it_says_what_to_install():
    with pytest.raises(ImportError, match=r"modeling-aver\[app\]"):
        importlib.import_module("modeling_aver.app.page")
