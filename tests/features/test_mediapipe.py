"""MediaPipe's blendshapes on real clips, and its model file from a path, the environment or a download."""

import hashlib
import http.server
import importlib.metadata
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from support.media import write_video

from datasets_scripts import SAMPLE_DIR
from modeling_aver.features import mediapipe
from modeling_aver.features.base import ExtractorUnavailableError
from modeling_aver.features.extraction import find_extractor
from modeling_aver.features.mediapipe import BLENDSHAPES, MODEL_SHA256, MODEL_VARIABLE
from modeling_aver.io.media import read_timestamps

CLIPS = sorted((SAMPLE_DIR / "VideoFlash").glob("*.flv"))


@pytest.fixture
def model(shared, monkeypatch):
    """The official model file, if the development material is there."""
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    return shared / "models" / "face_landmarker.task"


@pytest.fixture
def package():
    """Skips the tests that run the landmarker where it is not installed."""
    pytest.importorskip("mediapipe", reason='waits for pip install "modeling-aver[mediapipe]"', exc_type=ImportError)


def test_every_frame_of_a_real_clip_has_a_face_at_the_streams_own_time(package, model):
    extractor = find_extractor("mediapipe", face_landmarker=model)
    timestamps, features, success = extractor.extract(CLIPS[0])
    np.testing.assert_array_equal(timestamps, read_timestamps(CLIPS[0]))
    assert success.all() and features.shape == (67, 52) and features.dtype == np.float32
    assert 0 <= features.min() and features.max() <= 1
    assert features[:, 1:].std(axis=0).max() > 0.01  # the face moves


@pytest.mark.slow
def test_every_frame_of_the_six_real_clips_has_a_face_at_the_streams_own_time(package, model):
    extractor = find_extractor("mediapipe", face_landmarker=model)
    assert len(CLIPS) == 6
    for clip in CLIPS:
        track = extractor.extract(clip)
        assert track.success.all(), clip.name
        np.testing.assert_array_equal(track.timestamps, read_timestamps(clip))


def test_the_columns_are_named_as_the_landmarker_names_them(package, model):
    package, vision, base = mediapipe._imported()
    options = vision.FaceLandmarkerOptions(base(model_asset_path=str(model)), output_face_blendshapes=True)
    from modeling_aver.io.media import read_frames

    _, pixels = next(read_frames(CLIPS[0]))
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        (face,) = landmarker.detect(package.Image(package.ImageFormat.SRGB, pixels)).face_blendshapes
    assert tuple(shape.category_name for shape in face) == BLENDSHAPES


def test_a_clip_does_not_remember_the_one_before(package, model):
    extractor = find_extractor("mediapipe", face_landmarker=model)
    first = extractor.extract(CLIPS[1]).features
    extractor.extract(CLIPS[2])
    np.testing.assert_array_equal(extractor.extract(CLIPS[1]).features, first)


def test_frames_of_one_millisecond_and_a_late_start_are_taken_and_no_face_is_told(package, model, tmp_path):
    video = write_video(tmp_path / "clip.mkv", [500, 500, 501, 540], size=(64, 48), codec="rawvideo")
    track = find_extractor("mediapipe", face_landmarker=model).extract(video)
    assert not track.success.any() and not track.features.any() and track.features.shape == (4, 52)
    np.testing.assert_allclose(track.timestamps, [0.0, 0.0, 0.001, 0.04], atol=1e-9)


def test_the_identity_names_package_model_and_columns(monkeypatch, tmp_path):
    extractor = found_with(monkeypatch, tmp_path, b"model")
    identity = extractor.identity
    assert (identity.name, identity.version, len(identity.columns)) == ("mediapipe", "9.8.7", 52)
    assert identity.settings["model_sha256"] == hashlib.sha256(b"model").hexdigest()


def found_with(monkeypatch, tmp_path, content, **options):
    """An extractor whose package is version 9.8.7 and whose model file is `content`."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.8.7")
    monkeypatch.setattr(mediapipe, "MODEL_SHA256", hashlib.sha256(content).hexdigest())
    (tmp_path / "model.task").write_bytes(content)
    return find_extractor("mediapipe", **{"face_landmarker": tmp_path / "model.task", **options})


def test_a_missing_package_is_named_with_its_install_line(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ImportError, match=r'pip install "modeling-aver\[mediapipe\]"'):
        find_extractor("mediapipe")


def test_missing_system_libraries_are_named_with_their_install_line(monkeypatch, tmp_path):
    extractor = found_with(monkeypatch, tmp_path, b"model")
    (tmp_path / "mediapipe.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "mediapipe"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ExtractorUnavailableError, match="libGL.so.1.*apt-get install libgl1 libegl1 libgles2"):
        extractor.extract(CLIPS[0])


def test_a_model_file_that_is_not_the_official_one_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.8.7")
    (tmp_path / "other.task").write_bytes(b"other")
    with pytest.raises(ExtractorUnavailableError, match=rf"other.task \(5 bytes\) has SHA-256 .*, not {MODEL_SHA256}"):
        find_extractor("mediapipe", face_landmarker=tmp_path / "other.task")
    with pytest.raises(ExtractorUnavailableError, match="none.task cannot be read: No such file"):
        find_extractor("mediapipe", face_landmarker=tmp_path / "none.task")


def test_the_environment_names_the_model_file(monkeypatch, tmp_path):
    found_with(monkeypatch, tmp_path, b"model")
    monkeypatch.setenv(MODEL_VARIABLE, str(tmp_path / "model.task"))
    assert find_extractor("mediapipe").model == str(tmp_path / "model.task")


class Address(http.server.BaseHTTPRequestHandler):
    """Gives the model file, or what a bad line makes of it."""

    content, promised, asked = b"model", 5, 0

    def do_GET(self):
        type(self).asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(self.promised))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *args):
        pass


@pytest.fixture
def address(monkeypatch, tmp_path):
    """A loopback stand-in for the model's official address, and an empty cache."""
    found_with(monkeypatch, tmp_path, b"model")
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    handler = type("Handler", (Address,), {})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(mediapipe, "MODEL_URL", f"http://127.0.0.1:{server.server_address[1]}/model.task")
        yield handler
        server.shutdown()


def test_the_model_is_downloaded_once(address, tmp_path):
    paths = {find_extractor("mediapipe").model for _ in range(3)}
    assert address.asked == 1 and len(paths) == 1
    assert [path.read_bytes() for path in (tmp_path / "cache" / "modeling-aver").iterdir()] == [b"model"]


@pytest.mark.parametrize(
    "content, promised, reason", [(b"wrong", 5, "has SHA-256"), (b"mod", 5, "cannot be download")]
)
def test_a_bad_download_leaves_nothing_behind(address, tmp_path, content, promised, reason):
    address.content, address.promised = content, promised
    with pytest.raises(ExtractorUnavailableError, match=reason):
        find_extractor("mediapipe")
    assert not (tmp_path / "cache").exists()
    address.content, address.promised = b"model", 5
    assert find_extractor("mediapipe").version == "9.8.7"


def test_offline_the_way_to_give_the_file_is_told(address, monkeypatch):
    monkeypatch.setattr(mediapipe, "MODEL_URL", "http://127.0.0.1:9/model.task")
    with pytest.raises(ExtractorUnavailableError, match=f"cannot be downloaded.*--face-landmarker.*{MODEL_VARIABLE}"):
        find_extractor("mediapipe")


def test_the_features_import_without_mediapipe_torchcodec_and_torch():
    """The package's own `__init__` imports torch; an empty one stands in for it, so that only the features' show."""
    code = (
        "import importlib.util, sys, types; package = types.ModuleType('modeling_aver');"
        "package.__path__ = importlib.util.find_spec('modeling_aver').submodule_search_locations;"
        "sys.modules['modeling_aver'] = package; import modeling_aver.features;"
        "print({'mediapipe', 'cv2', 'torchcodec', 'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PATH": ""})
    assert done.stdout.strip() == "set()", done.stderr
