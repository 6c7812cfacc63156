"""Action units out of videos by OpenFace itself: its `FeatureExtraction` program, or a container that holds it.

OpenFace calibrates its action units on the whole of a video (`dynamic`; `-au_static` turns that off), so every clip is
given to it alone: values then depend on no other clip.
"""

import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from ..io.atomic import STALE, digest_of
from ..io.media import MediaError, one_line
from .base import ExtractionError, ExtractorUnavailableError, FaceTrack, FeatureIdentity
from .child import clear_stale_folders, exit_name, is_full, run_child, work_folder
from .face_jumps import read_poses, scene_doubts
from .openface_csv import ACTION_UNITS, read_openface
from .openface_models import NO_MODELS, OpenFaceModels, find_models
from .upright import COPY, picture_facts, upright_pieces, write_copy

PROGRAM = "FeatureExtraction"
TIMEOUT = 600.0  # seconds for a clip of up to a minute; OpenFace runs at 5 to 30 frames a second on one core
MINUTE = 60.0
MIN_SIZE = 41  # pixels either way: OpenFace aborts on less (std::length_error)
WORK = "aver-openface-"  # how its folders of work begin
TABLE = "clip.csv"
CONTAINERS = ("docker", "apptainer")
# What OpenFace prints where its installation, not the clip, is at fault.
BROKEN_INSTALLATION = (
    "Could not load the landmark detector",
    "no Action Unit models found",
    "Could not find the face analysis module",
    "Could not find the AU detection model",
    "Could not find CEN patch",
)
HOW_TO_GET = (
    "Give --openface the program or its folder, set OPENFACE_DIR, put it on PATH, or name a container: --openface "
    "docker:IMAGE@sha256:… or --openface apptainer:FILE.sif. Without OpenFace, other models: aver extract "
    "--backend mediapipe."
)
DIGEST = re.compile(r"[^-\s].*@sha256:[0-9a-f]{64}")  # and no option of the runtime
TRIAL_FRAMES, TRIAL_SIZE = 10, (160, 120)
TRIAL = "the trial clip"


class UnreadVideoError(ExtractionError):
    """OpenFace read fewer or more frames than the video has, or none: its OpenCV decodes another thing than PyAV."""


@dataclass(frozen=True)
class OpenFaceExtractor:
    """
    OpenFace's 35 action units; made by [`find_openface`].

    Args:
        program (`str`): Path of `FeatureExtraction`, on this machine or in the container's image.
        version (`str`): Digest of the program or image: OpenFace itself does not tell its version.
        runtime (`str`, *optional*): Path of Docker or Apptainer, where the program is in a container.
        image (`str`, *optional*): The container's image.
        static (`bool`, *optional*, defaults to `False`): Without calibration on the clip (`-au_static`).
        timeout (`float`, *optional*, defaults to 600.0): Seconds for a clip of up to a minute; longer ones get more in
            proportion.
        models ([`OpenFaceModels`], *optional*): Model files to use in place of those that the program finds itself.
        calibration_window (`float`, *optional*): Seconds. Recordings that are longer are cut into stretches of about
            this length, and OpenFace is calibrated on each alone. Without it, on the whole recording.
    """

    program: str
    version: str
    runtime: str | None = None
    image: str | None = None
    static: bool = False
    timeout: float = TIMEOUT
    models: OpenFaceModels = field(default=NO_MODELS)
    calibration_window: float | None = None

    @property
    def identity(self):
        """Program or image by digest, and what changes the values: calibration, and model files that were given."""
        settings = {"calibration": "static" if self.static else "dynamic"}
        if self.calibration_window is not None and not self.static:
            settings["calibration_window"] = self.calibration_window
        if self.models.digest is not None:
            settings["models"] = self.models.digest
        return FeatureIdentity("openface", self.version, settings, ACTION_UNITS)

    def check_installation(self) -> None:
        """
        Runs OpenFace on a tiny clip without a face.

        Raises:
            `ExtractorUnavailableError`: if it fails, as it would on every clip.
        """
        with _folder() as folder:
            video = folder / "trial.mkv"
            try:
                write_copy(video, _trial_frames())
                self._read_table(video, folder, TRIAL_FRAMES, TRIAL, self.timeout)
            except (ExtractionError, MediaError, OSError) as error:
                _check_room(folder)
                raise ExtractorUnavailableError(
                    f"OpenFace ({self.program}) does not work here, as a trial run shows: {one_line(error)}"
                ) from error

    def extract(self, video):
        """
        Action units of each frame of a video: see [`Extractor.extract`].

        Each row belongs to the frame of the same number, and has that frame's timestamp in the stream. OpenFace is
        given a lossless upright copy of a video that is rotated, whose picture starts late, whose frame rate varies,
        whose sound comes first in the file, or that is cut into stretches; and of one of which it reads another number
        of frames than PyAV.
        """
        video = Path(video).absolute()
        facts = picture_facts(video)  # also refuses what is damaged before OpenFace sees it
        if min(facts.width, facts.height) < MIN_SIZE:
            raise ExtractionError(
                f"{video.name} has pictures of {facts.width}x{facts.height} pixels, and OpenFace needs at least "
                f"{MIN_SIZE} either way."
            )
        with _folder() as folder:
            rows = self._rows_of(video, folder, facts)
        features, success, poses = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        doubts = scene_doubts(facts, poses, success)
        return FaceTrack(facts.timestamps, features, success, self.identity, doubts=doubts)

    def _rows_of(self, video, folder, facts):
        """(features, success, poses) of each stretch."""
        lengths = self._stretches(facts)
        if len(lengths) == 1 and not facts.needs_copy:
            try:
                return [self._read_table(video, folder, lengths[0], video.name, self._seconds(facts.duration))]
            except UnreadVideoError:
                (folder / TABLE).unlink(missing_ok=True)  # and again, from a copy of the frames that PyAV reads
        rows, limit = [], self._seconds(facts.duration / len(lengths))
        try:
            for piece, length in zip(upright_pieces(video, folder, lengths), lengths, strict=True):
                rows.append(self._read_table(piece, folder, length, video.name, limit))
                (folder / TABLE).unlink(missing_ok=True)
        except OSError as error:
            (folder / COPY).unlink(missing_ok=True)
            _check_room(folder)
            raise ExtractionError(
                f"{video.name} needs an upright copy in {folder.parent}, which cannot be written: {error.strerror}. "
                "Make room there, or set TMPDIR to a larger folder."
            ) from error
        return rows

    def _stretches(self, facts):
        """Numbers of frames: all of them, or as many equal parts as there are calibration windows."""
        total = len(facts.timestamps)
        if self.static or self.calibration_window is None:
            return [total]
        count = min(max(1, round(facts.duration / self.calibration_window)), total)
        return [len(part) for part in np.array_split(np.arange(total), count)]

    def _seconds(self, duration):
        return self.timeout * max(1.0, duration / MINUTE)

    def _read_table(self, source, folder, num_frames, name, limit):
        output = self._run(source, folder, name, limit)
        table = folder / TABLE
        content = table.read_bytes() if table.exists() else b""
        if not content:
            _check_room(folder)
            raise UnreadVideoError(f"OpenFace wrote no table for {name}. {_said(output)}")
        rows = content.count(b"\n") - 1
        if rows != num_frames or not content.endswith(b"\n"):
            _check_room(folder)
            raise UnreadVideoError(
                f"OpenFace wrote {rows} rows for the {num_frames} frames of {name}. {_said(output)}"
            )
        track = read_openface(content, name=f"OpenFace's table of {name}")
        return track.features, track.success, read_poses(content)

    def _run(self, source, folder, name, limit):
        try:
            code, output = run_child(self._command(source, folder), folder, limit)
        except subprocess.TimeoutExpired as error:
            raise ExtractionError(
                f"OpenFace was still at {name} after {limit:.0f} s and was stopped. If it is only slow, give more "
                f"than --timeout {self.timeout:g} (seconds for a clip of up to a minute; longer ones get more)."
            ) from error
        if any(text in output for text in BROKEN_INSTALLATION):
            raise ExtractorUnavailableError(
                f"OpenFace ({self.program}) lacks model files. Fetch them with its download_models.sh, or say where "
                f"they are: --openface-models. {_said(output, BROKEN_INSTALLATION)}"
            )
        if code:
            _check_room(folder)
            raise ExtractionError(f"OpenFace ended with {exit_name(code)} at {name}. {_said(output)}")
        return output

    def _command(self, video, folder):
        """The argument list; no shell reads it."""
        # -pose adds columns by which a change of person is found, and changes no others
        flags = ["-of", "clip", "-aus", "-pose", "-q", *(["-au_static"] if self.static else [])]
        flags += self.models.prepare(folder)
        if self.runtime is None:
            return [self.program, "-f", str(video), "-out_dir", str(folder), *flags]
        inside = f"/in/clip{video.suffix}"
        mounts = ["--mount", _mount(video, inside, "ro"), "--mount", _mount(folder, "/out")]
        if Path(self.runtime).stem == "docker":
            # --init passes the signal on with which a timeout stops the client
            user = ["--user", f"{os.getuid()}:{os.getgid()}"] if hasattr(os, "getuid") else []
            run = [self.runtime, "run", "--rm", "--init", "--network", "none", *user, *mounts, self.image]
        else:
            run = [self.runtime, "exec", "--containall", *mounts, self.image]
        return [*run, self.program, "-f", inside, "-out_dir", "/out", *flags]


def find_openface(openface=None, static=False, timeout=TIMEOUT, openface_models=None, calibration_window=None):
    """
    OpenFace as it is installed here: what is given, else `$OPENFACE_DIR`, else `FeatureExtraction` on `PATH`.

    Args:
        openface (`str` or `Path`, *optional*):
            The program; the folder of OpenFace; `docker:IMAGE@sha256:…`; `apptainer:FILE.sif`; or
            `apptainer:docker://IMAGE@sha256:…`. A `#/path/to/FeatureExtraction` after an image says where in it the
            program is, if not on its `PATH`.
        static (`bool`, *optional*, defaults to `False`): Without calibration on the clip (`-au_static`).
        timeout (`float`, *optional*, defaults to 600.0): Seconds for a clip of up to a minute; longer ones get more in
            proportion.
        openface_models (`str` or `Path`, *optional*):
            Folder with `model/` and `AU_predictors/`, or a landmark model such as `model/main_clnf_general.txt`. In a
            container, the path of a landmark model there. Defaults to what OpenFace finds beside its program.
        calibration_window (`float`, *optional*): Seconds; see [`OpenFaceExtractor`].

    Returns:
        [`OpenFaceExtractor`]

    Raises:
        `ExtractorUnavailableError`: if it is not there, or an image is named by a tag that can change.
    """
    for name, seconds in {"timeout": timeout, "calibration_window": calibration_window}.items():
        if seconds is not None and not seconds > 0:
            raise ValueError(f"`{name}` ({seconds}) must be a positive number of seconds.")
    clear_stale_folders(WORK, STALE)
    given = str(openface or os.environ.get("OPENFACE_DIR") or "")
    kind, _, image = given.partition(":")
    options = {"static": static, "timeout": timeout, "calibration_window": calibration_window}
    if kind in CONTAINERS and image:
        options["models"] = find_models(openface_models, is_local=False)
        return _in_container(kind, image, options)
    program = _program_in(Path(given)) if given else _on_path(PROGRAM)
    if program is None:
        where = given or "PATH"
        raise ExtractorUnavailableError(f"OpenFace's {PROGRAM} is not at {where}. {HOW_TO_GET}")
    return OpenFaceExtractor(str(program), _digest(program), models=find_models(openface_models), **options)


def _in_container(kind, image, options):
    runtime = _on_path(kind) or (_on_path("singularity") if kind == "apptainer" else None)
    if runtime is None:
        raise ExtractorUnavailableError(f"{kind} is not on PATH, so the image {image} cannot run. {HOW_TO_GET}")
    image, _, program = image.partition("#")
    if kind == "apptainer" and Path(image).is_file():
        version, image = _digest(image), str(Path(image).resolve())
    elif DIGEST.fullmatch(image):
        version = image.rpartition("@")[2]
    else:
        raise ExtractorUnavailableError(
            f"The image {image} is named by a tag, which can mean another program tomorrow. Name it by digest: docker "
            "image inspect --format '{{index .RepoDigests 0}}' " + image
        )
    return OpenFaceExtractor(program or PROGRAM, version, str(runtime), image, **options)


def _program_in(path):
    names = [PROGRAM, f"{PROGRAM}.exe"]
    candidates = [path, *(path / folder / name for folder in (".", "bin", "build/bin") for name in names)]
    return next((one.resolve() for one in candidates if one.is_file() and os.access(one, os.X_OK)), None)


def _on_path(name):
    found = shutil.which(name)
    return Path(found).resolve() if found and name == PROGRAM else found


def _digest(path):
    return f"sha256:{digest_of(path, hashlib.sha256())}"


def _mount(source, target, *flags):
    """A bind mount as Docker and Apptainer both read it: CSV, where names with commas and line breaks are quoted."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(["type=bind", f"source={source}", f"destination={target}", *flags])
    return line.getvalue().removesuffix("\n")


@contextmanager
def _folder() -> Iterator[Path]:
    """A working folder of its own for one clip, in which OpenFace finds no other's `model/`."""
    with _unavailable_without_room(), work_folder(WORK) as folder:
        yield folder


@contextmanager
def _unavailable_without_room():
    try:
        yield
    except OSError as error:
        raise ExtractorUnavailableError(
            f"OpenFace needs a temporary folder to write to: {error.strerror or error}. Make room, or set TMPDIR."
        ) from error


def _check_room(folder):
    """OpenFace exits with 0 where the disk is full; nothing else can then be done with any clip."""
    if is_full(folder):
        raise ExtractorUnavailableError(
            f"The temporary folder {folder.parent} is full, so OpenFace cannot write its tables. Make room there, or "
            "set TMPDIR to another folder."
        )


def _trial_frames():
    for index in range(TRIAL_FRAMES):
        width, height = TRIAL_SIZE
        pixels = np.broadcast_to(np.arange(width, dtype=np.uint8)[:, None] + index, (height, width, 3))
        yield av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(format="yuv420p")


def _said(output, causes=()):
    """The last line that OpenFace printed, or the first that holds a known cause."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not lines:
        return "It printed nothing."
    known = [line for line in lines if any(cause in line for cause in causes)]
    thrown = [line for line in lines[-3:-1] if line.startswith("terminate called")]  # the last line is its `what()`
    return f"It printed last: {one_line(' '.join([*thrown, lines[-1]]))}" if not known else f"It printed: {known[0]}"
