"""A stand-in for OpenFace's `FeatureExtraction`, which is not to be had where the tests run.

It behaves as the real one where the project touches it: its arguments, what it prints, its exit codes (1 without model
files, 0 for a video that it cannot open), and the table and the details that it writes. It invents the action units.
What it does with a clip is decided by the clip's name: crash, hang, unreadable, no_face, short, no_units.
"""

import stat
import sys

PROGRAM = """#!{python}
import os, pathlib, signal, subprocess, sys, time

arguments = sys.argv[1:]
if not arguments:
    print("For command line arguments see:")
    sys.exit(0)
home = pathlib.Path(sys.argv[0]).parent
with open(home / "calls.txt", "a") as calls:
    print(*arguments, sep="\\t", file=calls)
if not (home / "model" / "main_ceclm_general.txt").exists():
    print("Could not find the landmark detection model to load")
    print("ERROR: Could not load the landmark detector")
    sys.exit(1)
video = pathlib.Path(arguments[arguments.index("-f") + 1])
folder = pathlib.Path(arguments[arguments.index("-out_dir") + 1])
name = arguments[arguments.index("-of") + 1]
print("Reading the landmark detector/tracker from:", home)
if video.stem == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
if video.stem == "hang":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (home / "child.txt").write_text(str(child.pid))
    time.sleep(600)
if video.stem == "unreadable":
    print("Error: Failed to open the video file at location:", video)
    sys.exit(0)

import av

with av.open(str(video)) as container:
    frames = sum(1 for _ in container.decode(video=0)) - (video.stem == "short")
intensities = "01 02 04 05 06 07 09 10 12 14 15 17 20 23 25 26 45".split()
presences = intensities[:-1] + ["28", "45"]
units = [f"AU{{unit}}_r" for unit in intensities] + [f"AU{{unit}}_c" for unit in presences]
if "-aus" not in arguments or video.stem == "no_units":
    units = []
lines = [", ".join(["frame", "face_id", "timestamp", "confidence", "success", *units])]
for i in range(frames):
    found = video.stem != "no_face"
    level = (0.70 if "-au_static" in arguments else 0.50) + i / 100
    values = [f"{{level if found else 0:.2f}}"] * len(units)
    start = [str(i + 1), "0", f"{{i / 30:.3f}}", "0.98" if found else "0.02", str(int(found))]
    lines.append(", ".join([*start, *values]))
(folder / f"{{name}}.csv").write_text("\\n".join(lines) + "\\n")
(folder / f"{{name}}_of_details.txt").write_text(f"Input:{{video}}\\n")
"""

# Docker and Apptainer, as far as they are used: they give a program other names for folders, and run it.
RUNTIME = """#!{python}
import csv, os, pathlib, sys

arguments = sys.argv[1:]
(pathlib.Path(sys.argv[0]).parent / "runtime.txt").write_text("\\n".join(arguments))
inside = {{}}
while "--mount" in arguments:
    place = arguments.index("--mount")
    fields = dict(field.partition("=")[::2] for field in next(csv.reader([arguments[place + 1]])))
    inside[fields["destination"]] = fields["source"]
    del arguments[place : place + 2]
program = arguments[arguments.index("-f") - 1]
rest = [inside.get(argument, argument) for argument in arguments[arguments.index("-f") :]]
program = {program!r} if program in ("FeatureExtraction", "/opt/FeatureExtraction") else sys.exit("no such program")
os.execv(program, [program, *rest])
"""


def write_openface(folder, with_models=True):
    """The stand-in under `folder`, as OpenFace's build lays it out: `build/bin/FeatureExtraction`, models beside."""
    program = folder / "build" / "bin" / "FeatureExtraction"
    (program.parent / "model").mkdir(parents=True)
    if with_models:
        (program.parent / "model" / "main_ceclm_general.txt").touch()
    return _write(program, PROGRAM.format(python=sys.executable))


def write_runtime(folder, name, program):
    """A stand-in for `docker` or `apptainer` in `folder`, whose every image holds `program`."""
    folder.mkdir(exist_ok=True)
    return _write(folder / name, RUNTIME.format(python=sys.executable, program=str(program)))


def _write(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
