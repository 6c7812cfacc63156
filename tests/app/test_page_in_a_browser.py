"""The page as a visitor sees it, in headless Chromium: a real clip in, the answer on the screen, at two widths."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from support.reencoded_media import CLIPS
from support.saved_models import OPENFACE, TABLES, saved

pytestmark = pytest.mark.slow
gradio = pytest.importorskip("gradio", reason='needs Gradio: pip install ".[app]"')
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs Chromium (Debian: apt-get install chromium)", allow_module_level=True)

WIDTHS = {"laptop": (1366, 768), "phone": (390, 844)}
SHOTS = os.environ.get("AVER_SCREENSHOTS")  # a folder, to look at what the tests saw
PATIENCE = 120_000  # milliseconds
# Texts of which some is cut off, for all that stands in the report.
CUT_OFF = """() => [...document.querySelectorAll('#report .aver *')]
    .filter((one) => one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).overflowX !== 'visible')
    .filter((one) => !one.closest('.aver-track')).map((one) => one.className + ': ' + one.textContent.slice(0, 40))"""
SMALL = """() => [...document.querySelectorAll('#report .aver :is(p, td, th, span, a)')]
    .filter((one) => one.textContent.trim() && parseFloat(getComputedStyle(one).fontSize) < 12).length"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    from modeling_aver.app.page import serve

    model = saved(tmp_path_factory.mktemp("model"), num_action_units=35, feature_identity=OPENFACE)
    uploads = tmp_path_factory.mktemp("uploads")
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    page = serve(model, "127.0.0.1", wait=False)
    yield page.local_url, uploads
    page.close()
    os.environ.pop("GRADIO_TEMP_DIR")
    if before is not None:
        os.environ["GRADIO_TEMP_DIR"] = before


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a green one, that beeps
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *camera])
        yield chromium
        chromium.close()


@pytest.fixture(params=WIDTHS)
def page(request, browser, address):
    """The page at a width; it may ask nobody but its own server."""
    width, height = WIDTHS[request.param]
    one = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=2)
    elsewhere = []
    one.on("request", lambda asked: elsewhere.append(asked.url))
    one.goto(address[0])
    one.wait_for_selector("#run", timeout=PATIENCE)
    one.shoot = lambda name: SHOTS and one.screenshot(path=Path(SHOTS) / f"{request.param}_{name}.png", full_page=True)
    yield one
    one.close()
    assert [url for url in elsewhere if not url.startswith((address[0], "data:", "blob:"))] == []


def test_a_real_clip_is_uploaded_answered_and_deleted(page, address):
    words = page.inner_text("body")
    assert "OpenFace is not available on this server" in words and "Drop File Here" in words
    page.set_input_files("#clip input[type=file]", CLIPS[3])
    page.click("text=Features of the face from a table")
    page.set_input_files("#table input[type=file]", TABLES / f"{CLIPS[3].stem}.csv")
    page.wait_for_function("document.querySelector('#table').textContent.includes('.csv')", timeout=PATIENCE)
    page.wait_for_function("document.querySelector('#clip').textContent.includes('.flv')", timeout=PATIENCE)
    page.click("#run")
    page.wait_for_selector("#report .aver-answer", timeout=PATIENCE)
    page.wait_for_timeout(1500)  # until it has scrolled there
    page.shoot("answer")
    assert page.evaluate("document.querySelectorAll('.toast-body').length") == 0  # no complaint of Gradio's own
    report = page.inner_text("#report")
    assert f"{CLIPS[3].stem} · 1.9 s · sound and face · a face in 100% of the pictures" in report
    assert "Answer for the whole clip, by stream" in report and "Similarity of sound and face over time" in report
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CUT_OFF) == [] and page.evaluate(SMALL) == 0
    assert page.evaluate("document.querySelector('#report .aver').getBoundingClientRect().top < innerHeight / 2")
    assert not [path for path in address[1].rglob("*") if path.suffix in (".flv", ".csv")]


def test_the_line_on_the_track_follows_the_clip_and_a_click_moves_the_clip(page):
    page.click("#examples >> text=sad")
    page.wait_for_selector("#report video", timeout=PATIENCE)
    page.wait_for_function("document.querySelector('#report video').readyState >= 2", timeout=PATIENCE)
    page.shoot("example")
    track = page.locator("#report .aver-track")
    track.scroll_into_view_if_needed()
    page.wait_for_timeout(1500)
    box = track.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 40)
    page.wait_for_function(
        "parseFloat(document.querySelector('#report .aver-head').style.left) > 45", timeout=PATIENCE
    )
    seconds, length = page.evaluate("(v => [v.currentTime, v.duration])(document.querySelector('#report video'))")
    assert seconds == pytest.approx(length / 2, abs=0.15)


def test_the_results_are_downloaded(page):
    page.click("#examples >> text=neutral")
    page.wait_for_selector("#report .aver-files", timeout=PATIENCE)
    with page.expect_download() as download:
        page.click("#report a:has-text('WebVTT')")
    with tempfile.TemporaryDirectory() as folder:
        download.value.save_as(Path(folder) / "got")
        assert (Path(folder) / "got").read_text().startswith("WEBVTT")
    assert download.value.suggested_filename.endswith(".vtt")


def test_a_clip_is_recorded_and_answered(page, address):
    page.context.grant_permissions(["camera", "microphone"])
    page.click("role=tab[name=Record]")
    page.click("text=Click to Access Webcam")
    page.click("button[aria-label='start recording'] >> text=Record", timeout=PATIENCE)
    page.wait_for_timeout(8000)  # on a busy machine the browser begins to record seconds later
    page.click("text=Stop")
    page.wait_for_function("document.querySelector('video')?.src.includes('/file=')", timeout=PATIENCE)
    page.click("#run")
    page.wait_for_selector("#report .aver-answer", timeout=PATIENCE)
    assert "sound" in page.inner_text("#report .aver-soft")
    assert not list(address[1].rglob("*.webm"))


def test_a_clip_that_is_none_gives_one_sentence(page, tmp_path):
    (tmp_path / "broken.mp4").write_text("no video")
    page.set_input_files("#clip input[type=file]", tmp_path / "broken.mp4")
    page.wait_for_function("document.querySelector('#clip').textContent.includes('.mp4')", timeout=PATIENCE)
    page.click("#run")
    page.wait_for_selector("#report .aver-error", timeout=PATIENCE)
    page.shoot("error")
    assert page.inner_text("#report").strip().startswith("broken.mp4 cannot be decoded")
