"""
What a timeline costs by the length of the recording: seconds, processor seconds, and the most memory at once.

The six clips are joined to recordings of one and of ten minutes. `aver predict --timeline` reads each in a process of
its own, with MediaPipe's features and an audio encoder of whisper-tiny's size; random weights cost as much.

    python benchmarks/recording_length.py        # about ten minutes on two cores; writes results/recording_length.md
"""

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from remade_media import joined, remake  # noqa: E402
from small_model import small_model  # noqa: E402

from modeling_aver.features.extraction import find_extractor  # noqa: E402

RESULT = Path(__file__).with_name("results") / "recording_length.md"
MINUTES = (1, 10)


def main():
    """Measures both lengths and writes the table."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        save_model(folder / "model")
        rows = [measure(folder, minutes) for minutes in MINUTES]
    RESULT.write_text(report(rows))
    sys.stdout.write(RESULT.read_text())


def save_model(folder):
    """A model with the paper's fusion on an encoder of whisper-tiny's size, for MediaPipe's features."""
    identity = find_extractor("mediapipe").identity
    model, processor = small_model(num_action_units=len(identity.columns), feature_identity=identity.to_dict())
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def measure(folder, minutes):
    """(minutes, seconds, processor seconds, MiB) of one run over a recording of `minutes`."""
    video = remake(folder / f"{minutes}.mp4", *joined(60.0 * minutes))
    command = [
        "predict",
        str(video),
        "--model",
        str(folder / "model"),
        "--timeline",
        "--out",
        str(folder / f"{minutes}"),
    ]
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "modeling_aver", *command]) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"aver {' '.join(command)} ended with {process.returncode}.")
    return minutes, time.perf_counter() - start, usage.ru_utime + usage.ru_stime, peak_mebibytes(usage)


def peak_mebibytes(usage: resource.struct_rusage):
    """`ru_maxrss` is in kB on Linux, in bytes on macOS."""
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def report(rows):
    """The table as Markdown, with what it was measured on."""
    lines = [f"| {minutes} | {wall:.0f} | {cpu:.0f} | {memory:.0f} |" for minutes, wall, cpu, memory in rows]
    (_, _, cpu, memory), (_, _, cpus, memories) = rows[0], rows[-1]
    each = (cpus - cpu) / 60 / (rows[-1][0] - rows[0][0])
    return "\n".join(
        [
            "# A timeline by the length of the recording",
            "",
            "`python benchmarks/recording_length.py`: windows of 3 s every 0.75 s, MediaPipe's features of every "
            "frame",
            f"(30 Hz), an audio encoder of whisper-tiny's size. {platform.machine()}, {os.cpu_count()} cores, torch "
            f"{torch.__version__}.",
            "",
            "| minutes | seconds | processor seconds, all cores | most memory (MiB) |",
            "| ---: | ---: | ---: | ---: |",
            *lines,
            "",
            f"Memory grows by a factor of {memories / memory:.2f}. Each further second of video takes "
            f"{each:.2f} processor seconds; starting up takes {cpu - 60 * rows[0][0] * each:.0f}.",
            "Seconds on the wall depend on what else the machine does.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
