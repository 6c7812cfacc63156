"""A stand-in for OpenFace's `FeatureExtraction`, which is not available where the tests run.

It behaves as the real one (2.2, with OpenCV 4.6) where the project touches it: its arguments; which model files it
finds; its loading messages; its crashes (SIGABRT without action unit models and on pictures of 40 pixels or less,
SIGSEGV on a video without frames and where a sound stream comes first); its exit codes (1 without landmark models, 0
for a video that it cannot open and on a full disk); its clock (index / average frame rate); and the table that it
writes. Pictures with a display matrix come out upside down, as OpenCV 4.6 turns them.

It makes up the action units:

- AU01_r: 0.50 + frame / 100, 0.70 + frame / 100 with `-au_static`
- AU02_r: how bright the upper left quarter of the picture is, 0 to 5: which way is up
- AU04_r: how bright the lower right quarter is, 0 to 5, above the darkest frame of the video; as it is with
  `-au_static`: calibration
- AU06_r: the number in the file of the action unit models, and AU07_r: that in the landmark model
- all others: as AU01_r

The head is where the picture is brightest, in eighths of its width of 100 mm each.

A clip's name, or `behave.txt` beside the program for every clip, asks for: crash, hang, unreadable, no_face, short
(half of the frames), off_by_one (one frame less), no_units, aborts.
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


def option(name):
    return arguments[arguments.index(name) + 1] if name in arguments else None


def end(number):
    sys.stdout.flush()
    os.kill(os.getpid(), number)


def find(path):
    return next((place for place in (pathlib.Path(path), home / path) if place.exists()), None)


with open(home / "calls.txt", "a") as calls:
    print(*arguments, sep="\\t", file=calls)
(home / "folder.txt").write_text(os.getcwd())
print("Could not find the HAAR face detector location")
landmarks = find(option("-mloc") or "model/main_ceclm_general.txt")
if landmarks is None:
    print("Could not find the landmark detection model to load")
    print("ERROR: Could not load the landmark detector")
    sys.exit(1)
print("Reading the landmark detector/tracker from:", landmarks)
for scale in ("0.25", "0.35", "0.50", "1.00"):
    for view in range(30):
        place = landmarks.parent / "patch_experts" / f"cen_patches_{{scale}}_{{view}}.dat"
        print(f"Reading the intensity CEN patch experts from: {{place}}....Done")
print("Could not find the landmark detection model to load")
print("Reading the landmark validation module....Done")
static = "-au_static" in arguments
units = find("AU_predictors/main_" + ("static" if static else "dynamic") + "_svms.txt")
if units is None:
    print("Could not find the face analysis module to load")
    print("WARNING: no Action Unit models found")
    print("terminate called after throwing an instance of 'cv::Exception'")
    end(signal.SIGABRT)
print("Reading the AU analysis module from:", units)
video = pathlib.Path(option("-f"))
folder = pathlib.Path(option("-out_dir"))
name = option("-of")
behave = home / "behave.txt"
asked = {{video.stem, *(behave.read_text().split() if behave.exists() else ())}}
print("Attempting to read from file:", video)
if "crash" in asked:
    print("INFO: this is the last line")
    end(signal.SIGSEGV)
if "hang" in asked:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (home / "child.txt").write_text(f"{{os.getpid()}} {{child.pid}}")
    time.sleep(600)

import av
import numpy as np

try:
    container = av.open(str(video))
except av.FFmpegError:
    asked.add("unreadable")
if "unreadable" in asked:
    print("Failed to open the video file at location:", video)
    sys.exit(0)
stream = container.streams.video[0]
rate = stream.average_rate or 30
pictures = [(frame.to_ndarray(format="rgb24"), frame.rotation) for frame in container.decode(stream)]
pictures = [np.rot90(pixels, round(turn / 90) + 2) if turn else pixels for pixels, turn in pictures]
if "short" in asked:
    pictures = pictures[: len(pictures) // 2]
if "off_by_one" in asked:
    pictures = pictures[:-1]
if not pictures:
    end(signal.SIGSEGV)
if min(pictures[0].shape[:2]) <= 40 or "aborts" in asked:
    print("terminate called after throwing an instance of 'std::length_error'")
    print("  what():  vector::_M_default_append")
    end(signal.SIGABRT)
corner = [pixels[: pixels.shape[0] // 2, : pixels.shape[1] // 2].mean() / 51 for pixels in pictures]
light = np.array([pixels[pixels.shape[0] // 2 :, pixels.shape[1] // 2 :].mean() / 51 for pixels in pictures])
light -= 0 if static else light.min()
places = [int(np.argmax([part.mean() for part in np.array_split(pixels, 8, axis=1)])) for pixels in pictures]
intensities = "01 02 04 05 06 07 09 10 12 14 15 17 20 23 25 26 45".split()
presences = intensities[:-1] + ["28", "45"]
names = [f"AU{{unit}}_r" for unit in intensities] + [f"AU{{unit}}_c" for unit in presences]
if "-aus" not in arguments or "no_units" in asked:
    names = []
pose = ["pose_Tx", "pose_Ty", "pose_Tz", "pose_Rx", "pose_Ry", "pose_Rz"] if "-pose" in arguments else []
lines = [", ".join(["frame", "face_id", "timestamp", "confidence", "success", *pose, *names])]
for i, place in enumerate(places):
    found = "no_face" not in asked
    level = (0.70 if static else 0.50) + i / 100
    known = {{"AU02_r": corner[i], "AU04_r": light[i], "AU06_r": float(units.read_text() or 0)}}
    known["AU07_r"] = float(landmarks.read_text() or 0)
    values = [f"{{known.get(unit, level) if found else 0:.2f}}" for unit in names]
    start = [str(i + 1), "0", f"{{float(i / rate):.3f}}", "0.98" if found else "0.02", str(int(found))]
    head = [f"{{100.0 * place:.1f}}", "0.0", "600.0", "0.0", "0.0", "0.0"] if pose else []
    lines.append(", ".join([*start, *head, *values]))
try:
    with open(folder / f"{{name}}.csv", "w") as table:
        table.write("\\n".join(lines) + "\\n")
    (folder / f"{{name}}_of_details.txt").write_text(f"Input:{{video}}\\n")
except OSError:
    pass
print("Closing output recorder")
print("Closing input reader")
print("Closed successfully")
if container.streams[0].type == "audio":
    end(signal.SIGSEGV)
print("Postprocessing the Action Unit predictions")
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


def write_openface(folder, landmarks=True, units=True):
    """The stand-in under `folder`, as OpenFace's build lays it out: `build/bin/FeatureExtraction`, models beside."""
    program = folder / "build" / "bin" / "FeatureExtraction"
    program.parent.mkdir(parents=True)
    write_models(program.parent, landmarks, units)
    return _write(program, PROGRAM.format(python=sys.executable))


def write_models(folder, landmarks=True, units=True, number=0.0):
    """`model/` and `AU_predictors/` under `folder`; `number` is what the stand-in makes of them."""
    (folder / "model").mkdir(parents=True)
    (folder / "AU_predictors").mkdir()
    for name in ("ceclm", "clnf") if landmarks else ():
        (folder / "model" / f"main_{name}_general.txt").write_text(str(number))
    for name in ("dynamic", "static") if units else ():
        (folder / "AU_predictors" / f"main_{name}_svms.txt").write_text(str(number))
    return folder


def write_runtime(folder, name, program):
    """A stand-in for `docker` or `apptainer` in `folder`, whose every image holds `program`."""
    folder.mkdir(exist_ok=True)
    return _write(folder / name, RUNTIME.format(python=sys.executable, program=str(program)))


def _write(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
