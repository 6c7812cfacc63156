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
import signal
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from .extractor import ExtractionError, ExtractorUnavailableError, FeatureIdentity
from .media import read_timestamps
from .openface import ACTION_UNITS, read_openface
from .whole import STALE, clear_stale, digest_of

PROGRAM = "FeatureExtraction"
TIMEOUT = 600.0  # seconds for one clip; OpenFace runs at 5 to 30 frames a second on one core
WORK = "aver-openface-"  # how its folders of work begin
GRACE = 5.0  # seconds between asking a program to stop and stopping it
CONTAINERS = ("docker", "apptainer")
# What OpenFace prints where its installation, not the clip, is at fault.
BROKEN_INSTALLATION = (
    "Could not load the landmark detector",
    "no Action Unit models found",
    "Could not find CEN patch",
)
HOW_TO_GET = (
    "Give --openface the program or its folder, set OPENFACE_DIR, put it on PATH, or name a container: --openface "
    "docker:IMAGE@sha256:… or --openface apptainer:FILE.sif. Without OpenFace, other models: aver extract "
    "--backend mediapipe."
)
DIGEST = re.compile(r"[^-\s].*@sha256:[0-9a-f]{64}")  # and no option of the runtime


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
        timeout (`float`, *optional*, defaults to 600.0): Seconds that one clip may take.
    """

    program: str
    version: str
    runtime: str | None = None
    image: str | None = None
    static: bool = False
    timeout: float = TIMEOUT

    @property
    def identity(self):
        """Program or image by digest, and the calibration, which changes the values."""
        settings = {"calibration": "static" if self.static else "dynamic"}
        return FeatureIdentity("openface", self.version, settings, ACTION_UNITS)

    def extract(self, video):
        """
        Action units of each frame of a video: see [`Extractor.extract`]. OpenFace counts frames, so where its rows are
        the frames of the stream, the stream's own timestamps stand in for OpenFace's `index / rate`.
        """
        video = Path(video).absolute()
        timestamps = read_timestamps(video)  # also refuses what is damaged before OpenFace sees it
        with tempfile.TemporaryDirectory(prefix=WORK) as folder:
            output = self._run(video, Path(folder))
            table = Path(folder) / "clip.csv"
            if not table.exists():
                raise ExtractionError(
                    f"OpenFace wrote no table for {video.name}; its OpenCV may not read this format. {_said(output)}"
                )
            track = read_openface(table, name=f"OpenFace's table of {video.name}")
        same = len(track.timestamps) <= len(timestamps)
        clock = timestamps[: len(track.timestamps)] if same else track.timestamps + timestamps[0]
        return replace(track, timestamps=clock, identity=self.identity)

    def _run(self, video, folder):
        command = self._command(video, folder)
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        # a session of its own, so that what it starts is stopped with it
        with subprocess.Popen(command, **pipes, text=True, errors="replace", start_new_session=True) as process:
            try:
                output, _ = process.communicate(timeout=self.timeout)
            except subprocess.TimeoutExpired as error:
                raise ExtractionError(
                    f"OpenFace was still at {video.name} after {self.timeout:.0f} s and was stopped. `aver extract` "
                    "takes a longer --timeout."
                ) from error
            finally:
                _stop(process)
        if any(text in output for text in BROKEN_INSTALLATION):
            raise ExtractorUnavailableError(
                f"OpenFace ({self.program}) lacks model files. Fetch them with its download_models.sh. {_said(output)}"
            )
        if process.returncode:
            raise ExtractionError(f"OpenFace ended with {_code(process.returncode)} at {video.name}. {_said(output)}")
        return output

    def _command(self, video, folder):
        """The argument list; no shell reads it."""
        flags = ["-of", "clip", "-aus", "-q", *(["-au_static"] if self.static else [])]
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


def find_openface(openface=None, static=False, timeout=TIMEOUT):
    """
    OpenFace as it is installed here: what is given, else `$OPENFACE_DIR`, else `FeatureExtraction` on `PATH`.

    Args:
        openface (`str` or `Path`, *optional*):
            The program; the folder of OpenFace; `docker:IMAGE@sha256:…`; `apptainer:FILE.sif`; or
            `apptainer:docker://IMAGE@sha256:…`. A `#/path/to/FeatureExtraction` after an image says where in it the
            program is, if not on its `PATH`.
        static (`bool`, *optional*, defaults to `False`): Without calibration on the clip (`-au_static`).
        timeout (`float`, *optional*, defaults to 600.0): Seconds that one clip may take.

    Returns:
        [`OpenFaceExtractor`]

    Raises:
        `ExtractorUnavailableError`: if it is not there, or an image is named by a tag that can change.
    """
    if not timeout > 0:
        raise ValueError(f"`timeout` ({timeout}) must be a positive number of seconds.")
    clear_stale(tempfile.gettempdir(), f"{WORK}*", timeout + STALE)
    given = str(openface or os.environ.get("OPENFACE_DIR") or "")
    kind, _, image = given.partition(":")
    if kind in CONTAINERS and image:
        return _in_container(kind, image, static, timeout)
    program = _program_in(Path(given)) if given else _on_path(PROGRAM)
    if program is None:
        where = given or "PATH"
        raise ExtractorUnavailableError(f"OpenFace's {PROGRAM} is not at {where}. {HOW_TO_GET}")
    return OpenFaceExtractor(str(program), _digest(program), static=static, timeout=timeout)


def _in_container(kind, image, static, timeout):
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
    return OpenFaceExtractor(program or PROGRAM, version, str(runtime), image, static, timeout)


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


def _stop(process):
    """Ends the program and what it started, if they still run."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number) if os.name == "posix" else process.kill()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue


def _code(returncode):
    return signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"


def _said(output):
    text = " ".join(output.split())
    return f"It said: {text[-300:]}" if text else "It said nothing."
