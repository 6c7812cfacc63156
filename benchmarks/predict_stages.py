"""
Where `aver predict` spends its time: clocks around its functions, from outside. Part of `data_path.py`.

Run as a program it is `aver predict` in a process of its own, which writes the seconds of each stage as JSON.
"""

import functools
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import small_model
from rich.progress import track

ROOT = Path(__file__).resolve().parents[1]
MINUTE = 60.0
STAGES = {
    "start-up": "start-up and imports",
    "loading": "model and face landmarker loaded",
    "sound": "sound decoded",
    "pictures": "pictures decoded",
    "faces": "features of the face",
    "model": "processor and model",
    "writing": "writing",
    "rest": "all else: batching, printing",
}


class Clock:
    """Seconds of stages, each without those within it."""

    def __init__(self):
        self.seconds, self.open, self.since = defaultdict(float), ["rest"], time.perf_counter()

    def _turn(self):
        now = time.perf_counter()
        self.seconds[self.open[-1]] += now - self.since
        self.since = now

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._turn()

    def timed(self, stage, call, *arguments, **options):
        """What `call` gives; its time is the stage's."""
        self._turn()
        self.open.append(stage)
        try:
            return call(*arguments, **options)
        finally:
            self._turn()
            self.open.pop()

    def around(self, owner, name, stage):
        """From now on the time in `owner.name` is the stage's; in a generator that of every next item."""
        function = getattr(owner, name)

        def items(*arguments, **options):
            stream, end = function(*arguments, **options), object()
            while (item := self.timed(stage, next, stream, end)) is not end:
                yield item

        def plain(*arguments, **options):
            return self.timed(stage, function, *arguments, **options)

        is_generator = inspect.isgeneratorfunction(function)
        setattr(owner, name, functools.wraps(function)(items if is_generator else plain))


def watch(clock):
    """Puts the clock around the stages."""
    from modeling_aver import inference, pipeline_aver
    from modeling_aver.features import mediapipe
    from modeling_aver.inference import faces, predict, recordings

    clock.around(inference, "load_pipeline", "loading")
    clock.around(inference, "find_faces", "loading")
    clock.around(recordings, "read_sound", "sound")
    clock.around(mediapipe, "read_frames", "pictures")
    clock.around(faces, "face_frames", "faces")
    clock.around(pipeline_aver.EmotionPipeline, "_forward", "model")
    clock.around(predict, "write_timeline", "writing")
    clock.around(predict, "write_whole", "writing")


def run(begun, report, *words):
    """`aver predict WORDS` in this process, begun at `begun` (s since the epoch); its stages as JSON to `report`."""
    import modeling_aver.cli.main

    with Clock() as clock:
        clock.timed("start-up", watch, clock)
        clock.seconds["start-up"] += time.time() - float(begun) - clock.seconds["start-up"]
        modeling_aver.cli.main.app(["predict", *words], standalone_mode=False)
    Path(report).write_text(json.dumps(clock.seconds))


def measure(rounds=2):
    """
    Seconds of each stage for a clip of CREMA-D, answered once, and for a minute of them, over time.

    Returns:
        `list[dict]`: `what`, `duration` (s) and `stages`, a dict of seconds for each round.
    """
    sys.path.insert(0, str(ROOT / "tests"))
    from remade_media import CLIPS, joined, remake

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        streams = save_model(folder / "model")
        minute = remake(folder / "minute.mp4", *joined(MINUTE))
        for what, video, flags in (("a clip", CLIPS[0], []), ("a minute, over time", minute, ["--timeline"])):
            words = [str(video), "--model", str(folder / "model"), "--streams", streams, *flags]
            stages = []
            for turn in track(range(rounds), f"aver predict of {what}"):
                stages.append(predicted(folder, *words, "--out", str(folder / f"{video.stem}-{turn}")))
            rows.append({"what": what, "streams": streams, "duration": seconds_of(video), "stages": stages})
    return rows


def save_model(folder):
    """Saves a small model for MediaPipe's features; `str`: the streams that can be read here."""
    from modeling_aver.features.base import ExtractorUnavailableError
    from modeling_aver.features.extraction import find_extractor

    try:
        identity = find_extractor("mediapipe").identity
        values = {"num_action_units": len(identity.columns), "feature_identity": identity.to_dict()}
        streams = "both"
    except ExtractorUnavailableError:
        values, streams = {}, "audio"
    model, processor = small_model.small_model(**values)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return streams


def predicted(folder, *words):
    """`dict`: seconds of each stage in a fresh process."""
    report = folder / "stages.json"
    command = [sys.executable, __file__, str(time.time()), str(report), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    return json.loads(report.read_text())


def seconds_of(video):
    from modeling_aver.io.media import read_audio

    return len(read_audio(video)) / small_model.SAMPLING_RATE


def table(rows):
    """Rows of Markdown: seconds and share of each stage, and how many times faster than real time all is."""
    lines = []
    for stage, words in STAGES.items():
        line = {"stage of `aver predict`": words}
        for row in rows:
            total = np.median([sum(one.values()) for one in row["stages"]])
            seconds = np.median([one.get(stage, 0.0) for one in row["stages"]])
            line[f"{row['what']} ({row['streams']}), s"] = f"{seconds:.2f} ({seconds / total:.0%})"
        lines.append(line)
    factors = {}
    for row in rows:
        total = np.median([sum(one.values()) for one in row["stages"]])
        started = np.median([one["start-up"] + one["loading"] for one in row["stages"]])
        factors[f"{row['what']} ({row['streams']}), s"] = (
            f"{total / row['duration']:.2f}, once started {(total - started) / row['duration']:.2f}"
        )
    return [*lines, {"stage of `aver predict`": "seconds for a second of video", **factors}]


if __name__ == "__main__":
    run(*sys.argv[1:])
