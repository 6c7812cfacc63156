"""`aver app`: the page in Gradio. What it does is in `page_session.py`; here is where things stand."""

from importlib.util import find_spec

try:
    import gradio as gr
except ImportError as error:
    raise ImportError('The web page needs Gradio: pip install "modeling-aver[app]".') from error

from ..inference.predict import load_pipeline
from .model_info import read_model_info
from .report import Limits
from .report_html import ASSETS, CSS, SCRIPT
from .session import PageSession

TITLE = "Emotions of a clip"
TABLES = [".csv", ".npz", ".parquet"]
CHECK_EVERY, KEEP = 600, 3600  # seconds: between searches for files that were left behind, and their age then
SHOW = "() => document.querySelector('#report .aver')?.scrollIntoView({behavior: 'smooth'})"
WAITING = 20  # visitors in the queue; more are told to come back
# Fonts of the reader's own machine: the page asks no other server for anything.
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
PAGE_CSS = (ASSETS / "page.css").read_text(encoding="utf-8")


def build_page(session):
    """
    The page, not yet served.

    Args:
        session ([`PageSession`])

    Returns:
        `gradio.Blocks`
    """
    page = gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(CHECK_EVERY, KEEP))
    with page:
        gr.Markdown(
            f"# {TITLE}\nWhat a voice and a face seem to express, second by second, by a model of acted emotion: it "
            "does not know what a person feels. Uploads are deleted as soon as they are answered."
        )
        gr.HTML(session.model_html(), elem_id="model")
        if session.notes:
            gr.HTML(session.notes_html())
        profile = gr.State(None, time_to_live=KEEP)
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                clip, recording = _clip_inputs(session.limits)
                run = gr.Button("Read the emotions", variant="primary", elem_id="run")
            with gr.Column(scale=2, min_width=300):
                gr.Markdown(session.examples_caption)
                with gr.Row(elem_id="examples"):
                    examples = [gr.Button(label, size="sm") for label in session.examples]
                table = _table_input()
                calibration = _calibration_input(session.can_calibrate)
        report = gr.HTML(elem_id="report", js_on_load=SCRIPT, apply_default_css=False)
    parts = {"clip": clip, "recording": recording, "table": table, "profile": profile, "report": report}
    _connect(page, session, parts, run, examples)
    _connect_calibration(page, session, profile, *calibration)
    return page


def _clip_inputs(limits):
    """A file, which need not be one that browsers play, and the camera."""
    most = f"up to {limits.max_seconds:.0f} s and {limits.max_bytes / 2**20:.0f} MB"
    with gr.Tab("Upload"):
        clip = gr.File(label=f"Clip, {most}", file_types=["video", "audio"], height=210, elem_id="clip")
    with gr.Tab("Record"):
        mirror = gr.WebcamOptions(mirror=False)
        recording = gr.Video(label=f"Camera, {most}", sources=["webcam"], webcam_options=mirror, include_audio=True)
    return clip, recording


def _table_input():
    with gr.Accordion("Features of the face from a table", open=False):
        return gr.File(label="Of OpenFace or aver extract", file_types=TABLES, height=150, elem_id="table")


def _calibration_input(visible):
    title = "This is one person: calibrate on these clips"
    with gr.Accordion(title, open=False, elem_id="calibration", visible=visible):
        clips = gr.File(label="Clips of the person, in many moods", file_count="multiple", height=150)
        with gr.Row():
            start, forget = gr.Button("Calibrate", size="sm"), gr.Button("Forget the person", size="sm")
        return clips, start, forget, gr.HTML()


def _connect(page, session, parts, run, examples):
    def upload(clip, recording, table, profile):
        return session.answer_upload(clip or recording, table, profile), None, None, None

    one_at_a_time = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress_on": parts["report"]}
    inputs, outputs = ["clip", "recording", "table", "profile"], ["report", "clip", "recording", "table"]
    with page:
        clicked = run.click(
            upload, [parts[name] for name in inputs], [parts[name] for name in outputs], **one_at_a_time
        )
        clicked.then(None, js=SHOW)
        for index, button in enumerate(examples):
            answer = _example(session, index)
            button.click(answer, parts["profile"], parts["report"], **one_at_a_time).then(None, js=SHOW)


def _example(session, index):
    return lambda profile: session.answer_example(index, profile)


def _connect_calibration(page, session, profile, clips, start, forget, message):
    def calibrate(paths):
        return *session.calibrate(paths), None

    with page:
        start.click(calibrate, clips, [profile, message, clips], concurrency_id="model", concurrency_limit=1)
        forget.click(lambda: (None, ""), None, [profile, message])


def serve(model, host=None, port=None, limits=None, wait=True, name=None, **options):
    """
    Serves the page of a model; to this machine alone, unless `host` says otherwise.

    Args:
        model (`str`): A saved folder, or a Hub id.
        host (`str`, *optional*): Address to listen at. Defaults to what a Space sets, or 127.0.0.1.
        port (`int`, *optional*): Defaults to the first free one from 7860.
        limits ([`Limits`], *optional*): Of uploads.
        wait (`bool`, *optional*, defaults to `True`): Until it is stopped.
        name (`str`, *optional*): Name of the model on the page. Defaults to the Hub id or the folder's name.
        options: Of [`find_faces`], such as `openface`.

    Returns:
        `gradio.Blocks`, where its address is `local_url`.

    Raises:
        `ImportError`: without matplotlib. `OSError`: where the port is taken.
    """
    if find_spec("matplotlib") is None:
        raise ImportError('The web page needs matplotlib: pip install "modeling-aver[app]".')
    limits = limits or Limits()
    recognize = load_pipeline(model, runtime="torch")
    info = read_model_info(model, tuple(recognize.model.config.id2label.values()), name)
    page = build_page(PageSession(recognize, limits, info, **options)).queue(max_size=WAITING)
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        max_file_size=limits.max_bytes,
        theme=gr.themes.Default(**FONTS),
        css=PAGE_CSS + CSS,
        footer_links=[],
        ssr_mode=False,
        run_history=False,
        prevent_thread_lock=not wait,
    )
    return page
