"""A timeline as files: JSON, CSV, WebVTT subtitles, a Praat TextGrid (which ELAN imports too), a picture."""

import csv
import importlib.util
import io
import json
from itertools import groupby

from ..io.atomic import write_whole

FORMATS = ("json", "csv", "vtt", "TextGrid", "png")
NOTHING = ""  # the label of a stretch without an answer


def check_formats(formats):
    """Refuses formats that are none, and a picture without matplotlib, before any work is done."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"`formats` may hold {', '.join(FORMATS)}; got {', '.join(unknown) or 'nothing'}.")
    if "png" in formats and importlib.util.find_spec("matplotlib") is None:
        others = ",".join(name for name in FORMATS if name != "png")
        raise ImportError(f'Pictures need matplotlib: pip install "modeling-aver[plot]"; or --formats {others}.')


def write_timeline(answer, stem, labels, formats=FORMATS, title=""):
    """
    Writes a timeline to `<stem>.<format>`, each file whole or not there.

    Args:
        answer (`dict`): Of the pipeline, with `window`, and with all emotions.
        stem (`Path`): Where, without suffix.
        labels (`list[str]`): Names of the emotions, in the model's order.
        formats (iterable of `str`, *optional*): Among `FORMATS`.
        title (`str`, *optional*): Over the picture.

    Returns:
        `list[Path]`: the files.
    """
    if "png" in formats:
        from .timeline_plot import timeline_picture
    makers = {
        "json": lambda: json.dumps(answer) + "\n",
        "csv": lambda: timeline_csv(answer, labels),
        "vtt": lambda: timeline_vtt(answer),
        "TextGrid": lambda: timeline_textgrid(answer),
        "png": lambda: timeline_picture(answer, labels, title),
    }
    paths = []
    for name in formats:
        content = makers[name]()
        paths.append(stem.with_name(f"{stem.name}.{name}"))
        write_whole(paths[-1], content)
    return paths


def stretches(answer):
    """
    Neighbouring steps of one label put together.

    Returns:
        `list[tuple[float, float, str, float]]`: start and end in seconds, label (`NOTHING` where there is no answer)
        and its mean probability by duration.
    """
    found = []
    for label, steps in groupby(answer["timeline"], key=_label):
        steps = list(steps)
        start, end = steps[0]["start"], steps[-1]["end"]
        weighed = sum((step["end"] - step["start"]) * _score(step) for step in steps)
        found.append((start, end, label, weighed / (end - start) if end > start else _score(steps[0])))
    return found


def timeline_csv(answer, labels):
    """A row a step: start, end (s), label, a probability for each emotion, and the share of pictures with a face."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["start", "end", "label", *(f"p_{label}" for label in labels), "face"])
    for step in answer["timeline"]:
        scores = {emotion["label"]: emotion["score"] for emotion in step["emotions"]}
        probabilities = [f"{scores[label]:.6f}" if label in scores else "" for label in labels]
        face = "" if step["face"] is None else f"{step['face']:.3f}"
        rows.writerow([f"{step['start']:.3f}", f"{step['end']:.3f}", _label(step), *probabilities, face])
    return file.getvalue()


def timeline_vtt(answer):
    """WebVTT (W3C): a cue for each stretch of one emotion, with its mean probability."""
    cues = [
        f"{_clock(start)} --> {_clock(end)}\n{_escaped(label)} {score:.0%}\n"
        for start, end, label, score in stretches(answer)
        if label != NOTHING and _clock(start) != _clock(end)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def timeline_textgrid(answer):
    """A Praat TextGrid (long text format): the tiers `emotion` and `face`, each from 0 to the end without gaps."""
    end = answer["duration"]
    emotions = [(start, stop, label) for start, stop, label, _ in stretches(answer)]
    tiers = {"emotion": emotions, "face": _face_stretches(answer)}
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end!r}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {end!r}", f"        intervals: size = {len(intervals)}"]
        for index, (start, stop, text) in enumerate(intervals, 1):
            text = text.replace('"', '""')
            lines += [f"        intervals [{index}]:", f"            xmin = {start!r}", f"            xmax = {stop!r}"]
            lines += [f'            text = "{text}"']
    return "\n".join(lines) + "\n"


def _face_stretches(answer):
    found = []
    for text, steps in groupby(answer["timeline"], key=_face):
        steps = list(steps)
        found.append((steps[0]["start"], steps[-1]["end"], text))
    return found


def _face(step):
    if step["face"] is None:
        return "no picture"
    return "face" if step["face"] >= 0.5 else "no face"


def _label(step):
    return step["emotions"][0]["label"] if step["emotions"] else NOTHING


def _score(step):
    return step["emotions"][0]["score"] if step["emotions"] else 0.0


def _escaped(text):
    """A name on one line: an empty one would end the cue, and begin another."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("-->", "--&gt;")


def _clock(seconds):
    """`hh:mm:ss.ttt`"""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}.{thousandths:03d}"
