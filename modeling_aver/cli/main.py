"""`aver …`: each command a few lines over the floors beneath. Heavy imports wait for the command that needs them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .data import Private, data_app

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(data_app, name="data")
export_app = typer.Typer(no_args_is_help=True, help="Write a model as a file that runs without this package.")
app.add_typer(export_app, name="export")

# Arguments and options that several commands have.
SavedModel = Annotated[str, typer.Argument(help="A saved folder, or a Hub id.")]
ModelOption = Annotated[str, typer.Option(help="A saved folder, or a Hub id.")]
Videos = Annotated[list[Path], typer.Argument(metavar="VIDEO…", help="Video files, and folders of them.")]
Streams = Annotated[str, typer.Option(help="both, audio or video.")]
Recordings = Annotated[list[Path], typer.Argument(metavar="FILE…", help="Video or sound files, and folders of them.")]
FeaturesFolder = Annotated[Path | None, typer.Option(help="Folder of precomputed features, one table per clip.")]
OpenFace = Annotated[str | None, typer.Option(help="OpenFace's program, folder or container.")]
OpenFaceModels = Annotated[
    str | None, typer.Option(help="Folder with OpenFace's model/ and AU_predictors/, or a landmark model in it.")
]
Timeout = Annotated[
    float | None,
    typer.Option(help="Seconds OpenFace may take for a clip of up to a minute (600); longer ones get more."),
]
OPENFACE_WINDOW = 3.0  # seconds that OpenFace is calibrated on in long recordings, as the clips that models train on
FaceLandmarker = Annotated[
    Path | None, typer.Option(metavar="FILE", help="MediaPipe's model file, face_landmarker.task.")
]
CremaDFolder = Annotated[
    Path | None, typer.Option(help="CREMA-D's folder, with AudioWAV/ and OpenFace/. Default: six sample clips.")
]
ExtractedFolder = Annotated[str | None, typer.Option(help="Folder of these clips' features, from `aver extract`.")]

PARTIAL = 3  # exit code
EXIT_CODES = (
    "Exit code: 0 if every clip is done; 3 if some clips are not (each is listed with its reason); 1 for an error, or "
    "if no clip is done; 2 for wrong usage."
)


def _exit_with_missing(done, missing):
    """Ends the command with the exit code that `EXIT_CODES` documents, if clips are missing."""
    if missing or not done:
        raise typer.Exit(PARTIAL if done else 1)


def _find_clips(paths, streams):
    from ..features.clips import find_clips

    return find_clips(paths, sound=streams != "video")


def _extractor_options(openface, openface_models, timeout, face_landmarker, calibration_window=None):
    """The options of both extractors as `find_extractor` names them, without those that were not given."""
    options = {
        "openface": openface,
        "openface_models": openface_models,
        "timeout": timeout,
        "face_landmarker": face_landmarker,
        "calibration_window": calibration_window,
    }
    return {name: value for name, value in options.items() if value is not None}


def _find_faces(model, streams, action_units_folder, options, choices=None):
    """Where face features come from, by the model's processor, before its weights are loaded; `None` for sound."""
    from ..inference.faces import CHOICES, find_faces
    from ..inference.predict import load_settings

    if streams == "audio":
        return None
    _, processor = load_settings(_saved(model))
    return find_faces(processor.feature_extractor, action_units_folder, choices=choices or CHOICES, **options)


def _check_runtime(model, runtime):
    """Refuses a model that `runtime` cannot run, before anything is loaded."""
    from ..inference.onnx_model import check_installed, runtime_of

    if runtime == "onnx" or runtime_of(_saved(model), runtime) == "onnx":
        check_installed("onnxruntime")


def _load_crema_d(data_dir, action_units_folder):
    """CREMA-D's clips, or the sample; errors name this command line's options."""
    from datasets_scripts import SAMPLE_DIR, load_crema_d

    if data_dir is not None and not data_dir.is_dir():
        raise ValueError(f"There is no folder {data_dir}. --data-dir takes CREMA-D's folder.")
    if data_dir is None and not SAMPLE_DIR.is_dir():
        raise ValueError(f"The six sample clips are not in {SAMPLE_DIR}. Give CREMA-D's folder: --data-dir.")
    try:
        return load_crema_d(data_dir or SAMPLE_DIR, split="train", action_units_folder=action_units_folder)
    except ValueError as error:
        flags = {"`data_dir`": "--data-dir", "`action_units_folder`": "--action-units-folder"}
        text = str(error)
        for name, flag in flags.items():
            text = text.replace(name, flag)
        raise ValueError(text) from error


def _print_version(wanted: bool):
    if wanted:
        from .. import __version__

        typer.echo(f"modeling-aver {__version__}")
        raise typer.Exit


@app.callback()
def main(version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False):
    """Audio-visual emotion recognition with TaRoPE and CTM."""


@app.command()
def evaluate(
    model: SavedModel,
    data_dir: CremaDFolder = None,
    action_units_folder: ExtractedFolder = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    out: Annotated[Path | None, typer.Option(help="Also write the table as CSV.")] = None,
):
    """Scores a model on CREMA-D, or on its six sample clips: prints each clip's emotion with its probabilities."""
    from datasets_scripts import identities_of

    from ..evaluation.metrics import EmotionScores
    from ..evaluation.results import predictions_table, print_predictions
    from ..inference.evaluate import predict_logits
    from ..training.setup import check_features, check_labels

    network, processor = _load_or_run_exported(model)
    dataset = _load_crema_d(data_dir, action_units_folder)
    labels = dataset.features["label"].names
    check_labels(network.config, labels, "`aver evaluate` scores models that were trained on CREMA-D's emotions.")
    check_features(processor.feature_extractor, identities_of(dataset))
    logits = predict_logits(network, processor, dataset, batch_size)
    table = predictions_table(dataset, logits, labels)
    scores = EmotionScores().compute(predictions=logits.argmax(axis=-1), references=dataset["label"])
    print_predictions(table, labels, scores)
    if out is not None:
        table.to_csv(out, index=False)


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="A run's folder, or its predictions.csv.")],
    run_b: Annotated[Path, typer.Argument(help="Another run on the same clips.")],
    resamples: Annotated[int, typer.Option(min=1, help="Of the bootstrap intervals.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap intervals.")] = 0,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table instead.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write everything as JSON.")] = None,
):
    """Says whether run B beats run A: differences with 95 % intervals over clips and speakers, and McNemar's test."""
    import json

    from ..evaluation.comparison import compare_runs, comparison_markdown, print_comparison
    from ..evaluation.results import read_predictions, run_name

    comparison = compare_runs(read_predictions(run_a), read_predictions(run_b), num_resamples=resamples, seed=seed)
    if markdown:
        typer.echo(comparison_markdown(comparison, *map(run_name, (run_a, run_b))))
    else:
        print_comparison(comparison, run_a, run_b)
    if out is not None:
        report = {"run_a": str(run_a), "run_b": str(run_b), **comparison.to_dict()}
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


@app.command()
def figure3(
    model: SavedModel,
    clip: Annotated[str, typer.Option(help="Utterance id.")] = "1001_DFA_ANG_XX",
    data_dir: CremaDFolder = None,
    action_units_folder: ExtractedFolder = None,
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("figure3a.png"),
):
    """Draws Fig. 3 (a) of one clip: how audio and video features move on one time axis."""
    from ..analysis.dynamics import feature_dynamics, plot_feature_dynamics
    from ..inference.onnx_model import check_installed
    from ..training.collation import AverDataCollator

    check_installed("matplotlib", extra="plot")
    network, processor = _load(model)
    dataset = _load_crema_d(data_dir, action_units_folder)
    ids = list(dataset["utterance_id"])
    if clip not in ids:
        raise ValueError(f"There is no clip {clip} among {len(ids)} clips such as {', '.join(ids[:3])}.")
    (dynamics,) = feature_dynamics(network, AverDataCollator(processor)([dataset[ids.index(clip)]]))
    agreement = dynamics.sign_agreement()
    plot_feature_dynamics({f"{clip}: the streams move the same way {agreement:.0%} of the time": dynamics}, out)
    typer.echo(f"{out}: derivative sign agreement {agreement:.3f}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def reproduce(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="table1, table2, table3 or figure3.")],
    recipe: Annotated[str | None, typer.Argument(help="Of train_hf.py; crema_d, ravdess: those carried.")] = None,
    data: Annotated[str | None, typer.Option(help="The corpus's folder: --data_dir of train_hf.py.")] = None,
    encoder: Annotated[str | None, typer.Option(help="--audio_model_name_or_path of train_hf.py.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How often each row is trained.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="That train a row together.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for tables and runs: runs/reproduce/RECIPE.")] = None,
    only: Annotated[str | None, typer.Option(help="Rows to train, as msa+msa,concat; '' trains none.")] = None,
    clip: Annotated[str | None, typer.Option(help="Utterance id of figure3's picture (a).")] = None,
):
    """
    Trains the rows of a table of the paper and writes it with its numbers beside ours, as Markdown, CSV and LaTeX.

    Started again, it goes on where it stopped. All other flags are train_hf.py's and go to every row. Without recipe
    and data it trains nothing and prints the table as it is.
    """
    from ..paper.command import reproduce_experiment

    own = {"--data_dir": data, "--audio_model_name_or_path": encoder, "--seeds": seeds}
    flags = [word for flag, value in own.items() if value is not None for word in (flag, str(value))]
    rest = context.args
    if recipe is not None and recipe.startswith("-"):  # click takes the first flag that it does not know for it
        recipe, rest = None, [recipe, *rest]
    chosen = None if only is None else [name for name in only.split(",") if name]
    failures = reproduce_experiment(
        table, recipe, out, flags=[*flags, *rest], processes=processes, only=chosen, clip=clip
    )
    for failure in failures:
        typer.echo(failure.to_text(), err=True)
    if failures:
        raise typer.Exit(1)


@app.command(epilog=EXIT_CODES)
def extract(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO…", help="Video files, and folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the features, a table a clip, and the report.")],
    backend: Annotated[str, typer.Option(help="mediapipe or openface.")] = "mediapipe",
    format: Annotated[str, typer.Option(help="npz or parquet.")] = "npz",
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; 0: none beside this. Default: cores.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first clip that is not done.")] = False,
    openface: OpenFace = None,
    openface_models: OpenFaceModels = None,
    timeout: Timeout = None,
    static: Annotated[bool | None, typer.Option("--static", help="OpenFace without calibration on the clip.")] = None,
    calibration_window: Annotated[
        float | None,
        typer.Option(help="Calibrate OpenFace on stretches of about so many seconds: 3 for timelines."),
    ] = None,
    face_landmarker: FaceLandmarker = None,
    model: Annotated[Path | None, typer.Option(hidden=True)] = None,
):
    """Writes features of the face for each video; started again, goes on where it stopped."""
    from ..features.clips import find_clips, this_share
    from ..features.extraction import default_workers, extract_clips, find_extractor
    from ..features.report import missing_reasons
    from ..io.progress import clip_progress

    if model is not None:
        typer.echo("aver: --model of `aver extract` is deprecated: use --face-landmarker.", err=True)
        face_landmarker = face_landmarker or model
    options = _extractor_options(openface, openface_models, timeout, face_landmarker, calibration_window)
    extractor = find_extractor(backend, static=static, **options)
    found, name = this_share(find_clips(videos))
    workers = default_workers() if workers is None else workers
    with clip_progress(sum(map(len, found))) as watch:
        report = extract_clips(
            extractor, found, out, format=format, workers=workers, strict=strict, watch=watch, report=name
        )
    typer.echo(report.to_text())
    if name == "report":  # under a launcher, which ends all processes where one fails, the reports say what is missing
        missing, done = missing_reasons(report.outcomes), report.counts["done"] + report.counts["doubtful"]
        _exit_with_missing(done or not missing, missing)


@app.command(epilog=EXIT_CODES)
def predict(
    videos: Recordings,
    model: ModelOption,
    out: Annotated[Path | None, typer.Option(help="Folder for predictions and timelines.")] = None,
    streams: Streams = "both",
    action_units_folder: FeaturesFolder = None,
    openface: OpenFace = None,
    openface_models: OpenFaceModels = None,
    timeout: Timeout = None,
    face_landmarker: FaceLandmarker = None,
    profile: Annotated[
        Path | None, typer.Option(help="Speaker profile to apply to all videos (from `aver enroll`).")
    ] = None,
    timeline: Annotated[bool, typer.Option("--timeline", help="Emotions over time, for any length.")] = False,
    window: Annotated[float | None, typer.Option(help="Seconds of a timeline's window: 3.")] = None,
    hop: Annotated[float | None, typer.Option(help="Seconds between windows: a quarter of one.")] = None,
    formats: Annotated[str, typer.Option(help="Of timelines.")] = "json,csv,vtt,TextGrid,png",
    batch_size: Annotated[int, typer.Option(min=1, help="Clips, or windows, at a time.")] = 8,
    runtime: Annotated[str, typer.Option(help="auto: by what the folder of the model holds; torch or onnx.")] = "auto",
):
    """
    Prints the emotion of each video or sound file with its probabilities; run again with --out, it resumes.

    A file longer than the model reads at once (30 s) is answered by the mean over windows, and a note says so.
    """
    from ..inference.display import prediction_progress, print_predictions, quiet_natives
    from ..inference.predict import check_request, load_pipeline, predict_clips

    timing = check_request(streams, timeline, window, hop, formats.split(","), out)
    _check_runtime(model, runtime)
    found = _find_clips(videos, streams)
    options = _extractor_options(openface, openface_models, timeout, face_landmarker, timing and timing["window"])
    faces = _find_faces(model, streams, action_units_folder, options)
    recognize = load_pipeline(_saved(model), profile, runtime)
    with quiet_natives(), prediction_progress(len(found[0])) as watch:
        predictions = predict_clips(
            recognize,
            found,
            faces,
            out,
            streams=streams,
            timing=timing,
            batch_size=batch_size,
            formats=formats.split(","),
            watch=watch,
        )
    print_predictions(predictions)
    _exit_with_missing(predictions.done, predictions.failed)


@app.command(epilog=EXIT_CODES)
def sync(
    videos: Videos,
    model: Annotated[str, typer.Option(help="A saved folder, or a Hub id; trained with CTM.")],
    out: Annotated[Path | None, typer.Option(help="Also write what was found as JSON.")] = None,
    max_shift: Annotated[float, typer.Option(help="Seconds searched either way.")] = 1.0,
    action_units_folder: FeaturesFolder = None,
    openface: OpenFace = None,
    openface_models: OpenFaceModels = None,
    timeout: Timeout = None,
    face_landmarker: FaceLandmarker = None,
):
    """Estimates by how many seconds the video is late (negative: early), by which frames the model finds alike."""
    from ..analysis.dynamics import check_matching
    from ..features.clips import find_clips
    from ..inference.display import prediction_progress, quiet_natives
    from ..inference.faces import TABLES_CHOICE
    from ..inference.predict import load_pipeline, load_settings
    from ..inference.sync import check_frames, find_offsets, print_offsets, write_offsets

    _check_runtime(model, "torch")
    found, (config, _) = find_clips(videos), load_settings(model)
    check_matching(config)
    check_frames(config)
    options = _extractor_options(openface, openface_models, timeout, face_landmarker, OPENFACE_WINDOW)
    faces = _find_faces(model, "both", action_units_folder, options, TABLES_CHOICE)
    recognize = load_pipeline(model, runtime="torch")
    with quiet_natives(), prediction_progress(len(found[0]), "sync") as watch:
        done, failed = find_offsets(recognize, found, faces, max_shift, watch)
    print_offsets(done, failed)
    if out is not None:
        write_offsets(done, failed, out)
    _exit_with_missing(done, failed)


@app.command(epilog=EXIT_CODES)
def explain(
    videos: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Video or sound files of up to 30 s, and folders of them.")
    ],
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="Folder for pictures and numbers.")],
    streams: Streams = "both",
    occluded: Annotated[float, typer.Option(help="Seconds of a stream that are hidden at a time.")] = 0.5,
    hop: Annotated[float, typer.Option(help="Seconds from one hidden stretch to the next.")] = 0.25,
    action_units_folder: FeaturesFolder = None,
    openface: OpenFace = None,
    openface_models: OpenFaceModels = None,
    timeout: Timeout = None,
    face_landmarker: FaceLandmarker = None,
):
    """Draws which second of which stream moved the answer, and which moments of the other each stream attended to."""
    from ..inference.display import prediction_progress, quiet_natives
    from ..inference.enrollment import check_streams
    from ..inference.explain import explain_clips, print_explanations
    from ..inference.onnx_model import check_installed
    from ..inference.predict import load_pipeline

    check_streams(streams)
    check_installed("matplotlib", extra="plot")
    _check_runtime(model, "torch")
    found = _find_clips(videos, streams)
    options = _extractor_options(openface, openface_models, timeout, face_landmarker)
    faces = _find_faces(model, streams, action_units_folder, options)
    recognize = load_pipeline(_saved(model), runtime="torch")
    with quiet_natives(), prediction_progress(len(found[0]), "explain") as watch:
        done, failed = explain_clips(recognize, found, faces, out, streams, occluded, hop, watch)
    print_explanations(done, failed)
    _exit_with_missing(done, failed)


@app.command(epilog=EXIT_CODES)
def enroll(
    clips: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Video or sound files of one person, and folders of them."),
    ],
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="File for the profile, such as anna.safetensors.")],
    streams: Streams = "both",
    action_units_folder: FeaturesFolder = None,
    openface: OpenFace = None,
    openface_models: OpenFaceModels = None,
    timeout: Timeout = None,
    face_landmarker: FaceLandmarker = None,
):
    """Writes a person's profile from recordings without labels: what is usual for their face and voice."""
    from ..features.report import missing_reasons
    from ..inference.enrollment import check_streams, enroll_speaker, print_enrollment
    from ..inference.predict import load_settings

    check_streams(streams)
    _check_runtime(model, "torch")
    found, skipped = _find_clips(clips, streams)
    _, processor = load_settings(model)
    if processor.feature_extractor.action_unit_mean is None:
        streams = "audio"  # of the face, nothing would enter
    options = _extractor_options(openface, openface_models, timeout, face_landmarker, OPENFACE_WINDOW)
    faces = _find_faces(model, streams, action_units_folder, options)
    profile, failed = enroll_speaker(*_load(model), found, faces, streams)
    profile.save(out)
    failed.update(missing_reasons(skipped))
    print_enrollment(profile, failed, out)
    _exit_with_missing(True, failed)


@app.command("app")
def web_app(
    model: ModelOption,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is for this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free from 7860.")] = None,
    openface: OpenFace = None,
    openface_models: OpenFaceModels = None,
    timeout: Timeout = None,
    face_landmarker: FaceLandmarker = None,
    max_seconds: Annotated[float, typer.Option(help="Longest clip, in seconds.")] = 120.0,
    max_megabytes: Annotated[float, typer.Option(help="Largest file of a clip, in MB.")] = 100.0,
    space: Annotated[
        Path | None, typer.Option(help="Write the folder of a Hugging Face Space with this page, and serve nothing.")
    ] = None,
):
    """Serves a web page: a clip in, its emotions over time out."""
    if space is not None:
        _write_space(space, model)
        return
    _saved(model)
    from ..app.page import serve
    from ..app.report import Limits

    limits = Limits(round(max_megabytes * 2**20), max_seconds)
    options = _extractor_options(openface, openface_models, timeout, face_landmarker)
    page = serve(model, host, port, limits, wait=False, **options)
    typer.echo(f"The page is at {page.local_url} until Ctrl-C.")
    page.block_thread()


def _write_space(space, model):
    from ..app.space import size_of, write_space

    for path in write_space(space, _saved(model)):
        typer.echo(f"{path} ({size_of(path) / 1e6:.1f} MB)" if path.is_dir() else path)
    if Path(model).is_dir():
        typer.echo(f"The model of {model} is copied into the Space.")
    else:
        typer.echo(f"The Space downloads {model} from the Hub; aver push RUN {model} uploads a run there.")
    typer.echo(f"Try it: cd {space} && python app.py. Publish it: hf upload org/name {space} --repo-type space")


@app.command()
def live(
    model: ModelOption,
    file: Annotated[
        Path | None, typer.Option(help="Video or sound file, played at real speed in place of microphone and camera.")
    ] = None,
    streams: Streams = "both",
    action_units_folder: Annotated[
        Path | None, typer.Option(help="With --file: folder of precomputed features, one table per clip.")
    ] = None,
    face_landmarker: FaceLandmarker = None,
    profile: Annotated[Path | None, typer.Option(help="Speaker profile to apply (from `aver enroll`).")] = None,
    window: Annotated[float, typer.Option(help="Seconds that an answer is about.")] = 3.0,
    hop: Annotated[float, typer.Option(help="Seconds from one answer to the next.")] = 0.5,
    camera: Annotated[int, typer.Option(help="Number of the camera.")] = 0,
):
    """Prints emotions of microphone and camera as they happen, until Ctrl-C."""
    import os

    import torch

    from ..inference.display import quiet_natives
    from ..inference.enrollment import check_streams
    from ..inference.onnx_model import runtime_of
    from ..inference.predict import load_pipeline, load_settings
    from ..live.recognizer import LiveRecognizer, run_live
    from ..live.sources import check_live_request, find_live_faces, open_source

    check_streams(streams)
    runtime_of(model)  # refuses a folder of `aver export torch`
    check_live_request(streams, file, action_units_folder)
    torch.set_num_threads(max((os.cpu_count() or 2) - 1, 1))  # the camera and the face keep a core
    _, processor = load_settings(_saved(model))
    faces = None
    if streams != "audio":
        faces = find_live_faces(processor.feature_extractor, action_units_folder, face_landmarker)
    recognize = load_pipeline(model, profile)
    with quiet_natives():
        source, frames_of = open_source(recognize, faces, file, streams, camera)
        recognizer = LiveRecognizer(recognize, frames_of, window, hop)
        recognizer.warm_up()
        statistics = run_live(recognizer, source, lambda answer: typer.echo(answer.to_text()))
    typer.echo(statistics.to_text())


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="What train_hf.py wrote.")],
    repo_id: Annotated[str, typer.Argument(help="Such as org/aver-tarope.")],
    private: Private = False,
):
    """Uploads a finished run: weights, code, results, predictions and the model card; no checkpoint, no pickle."""
    from ..cards.push import push_run

    typer.echo(push_run(folder, repo_id, private=private))


@export_app.command("onnx")
def export_onnx_command(
    model: SavedModel,
    out: Annotated[Path, typer.Option(help="Folder for model.onnx and what belongs to it.")],
    quantize: Annotated[str | None, typer.Option(help="int8: smaller; says how well it still agrees.")] = None,
    agreement_clips: Annotated[
        list[Path] | None, typer.Option(help="Videos the model was not trained on, to compare int8 with it on.")
    ] = None,
    action_units_folder: Annotated[Path | None, typer.Option(help="Features of --agreement-clips.")] = None,
    streams: Annotated[str, typer.Option(help="Of --agreement-clips: both, audio or video.")] = "both",
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the clips whose label int8 must keep.")
    ] = 0.9,
):
    """Writes a model for ONNX Runtime, and fails where its logits differ by more than 1e-4 from the model's."""
    from ..export.agreement import own_material
    from ..export.exporter import check_quantize, export_onnx, print_export
    from ..inference.display import quiet_natives
    from ..inference.enrollment import check_streams

    check_quantize(quantize)
    check_streams(streams)
    if agreement_clips and quantize is None:
        raise ValueError("--agreement-clips compares int8 with the model: give --quantize int8 too.")
    network, processor = _load(model)
    material = None
    with quiet_natives():
        if agreement_clips:
            material = own_material(processor.feature_extractor, agreement_clips, action_units_folder, streams)
        report = export_onnx(network, processor, out, quantize, material, min_agreement)
    print_export(report, out)


@export_app.command("torch")
def export_torch_command(
    model: SavedModel,
    out: Annotated[Path, typer.Option(help="Folder for model.pt2 and what belongs to it.")],
):
    """Writes a model as torch.export does, and fails where its logits differ by more than 1e-4 from the model's."""
    from ..export.exporter import export_torch, print_export

    print_export(export_torch(*_load(model), out), out)


def _load(model):
    """Model in evaluation mode and its processor, as a user of transformers loads them."""
    from transformers import AutoModel

    from .. import AverForEmotionClassification, AverProcessor
    from ..inference.onnx_model import check_not_exported

    check_not_exported(model)
    network = AutoModel.from_pretrained(_saved(model), trust_remote_code=False)
    if not isinstance(network, AverForEmotionClassification):
        raise ValueError(f"{model} holds a {type(network).__name__}, not a model of this package.")
    return network.eval(), AverProcessor.from_pretrained(model, trust_remote_code=False)


def _load_or_run_exported(model):
    """As `_load`; a folder of `aver export onnx` is run by ONNX Runtime."""
    from .. import AverProcessor
    from ..inference.onnx_model import OnnxModel, runtime_of

    if runtime_of(_saved(model)) == "torch":
        return _load(model)
    return OnnxModel(model), AverProcessor.from_pretrained(model, trust_remote_code=False)


def _saved(model):
    """The folder or Hub id itself; refuses what is neither, and a damaged folder."""
    from ..training.model_source import check_model_source
    from ..training.saved_model import check_saved_model

    check_model_source(model)
    if Path(model).is_dir():
        check_saved_model(model)
    return model


def run():
    """The command `aver`: mistakes of a user end in one line, not in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # names of files may be no text
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"aver: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    run()
