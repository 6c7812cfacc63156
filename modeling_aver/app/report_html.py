"""A clip's report as HTML, from the templates in `web_assets/`.

Everything is within the page (`data:` addresses), so that no file of a visitor stays on the server. The templates
escape what comes from outside, such as the name of a file.
"""

import base64
import csv
import io
import json
from itertools import groupby
from pathlib import Path

import jinja2
import numpy as np

from ..inference.timeline_formats import timeline_csv, timeline_textgrid, timeline_vtt
from ..inference.timeline_plot import COLOURS, timeline_picture
from .model_info import INTENDED_USE

ASSETS = Path(__file__).parent / "web_assets"
CSS = (ASSETS / "report.css").read_text(encoding="utf-8")
SCRIPT = (ASSETS / "report.js").read_text(encoding="utf-8")
STREAM_NAMES = {"both": "both", "audio": "sound alone", "video": "face alone"}
FACE_COLOUR, SOUND_COLOUR = "#2e8b57", "#7a8791"
TICKS = 5
WIDTH, HEIGHT = 1000, 100  # units of the drawings, which stretch to the page
FILE_NAMES = {
    "json": "JSON",
    "csv": "CSV",
    "streams.csv": "CSV of streams",
    "vtt": "WebVTT",
    "TextGrid": "TextGrid",
    "png": "picture",
}


def report_html(report):
    """
    HTML of a [`ClipReport`]; its styles are `CSS`, its movement is `SCRIPT`.

    Returns:
        `str`
    """
    timeline = report.timeline
    steps, end = timeline["timeline"], timeline["timeline"][-1]["end"]
    levels = _levels(steps, end)
    return _render(
        "report.html.jinja",
        best=report.answer["emotions"][0],
        facts=_facts(report),
        notes=timeline["notes"],
        preview=report.preview and _address("video/mp4", report.preview),
        alignment=report.alignment and _address("image/png", report.alignment),
        end=end,
        width=WIDTH,
        height=HEIGHT,
        areas=list(_areas(steps, report.labels, end)),
        has_face=timeline["face"] is not None,
        faces=_faces(steps, end),
        levels=levels,
        face_colour=FACE_COLOUR,
        sound_colour=SOUND_COLOUR,
        ticks=_ticks(end),
        legend=_legend(report, levels),
        window=timeline["window"],
        hop=timeline["hop"],
        links=_links(report),
        streams=[STREAM_NAMES[stream] for stream in report.streams],
        rows=_rows(report),
    )


def error_html(sentence):
    """One plain sentence in place of a report."""
    return _render("messages.html.jinja", messages=[sentence], kind="aver-error")


def notes_html(notes):
    """Notes for a visitor, one paragraph each."""
    return _render("messages.html.jinja", messages=notes, kind="aver-note")


def model_html(info):
    """HTML of a [`ModelInfo`]."""
    return _render("model.html.jinja", info=info, intended_use=INTENDED_USE)


def result_files(report):
    """
    The results as files.

    Returns:
        `dict[str, tuple[str, bytes]]`: media type and content, by suffix.
    """
    streams = {name: {one["label"]: one["score"] for one in got["emotions"]} for name, got in report.streams.items()}
    answer = {"clip": report.name, **report.timeline, "streams_alone": streams}
    return {
        "json": ("application/json", json.dumps(answer, indent=1).encode()),
        "csv": ("text/csv", timeline_csv(report.timeline, report.labels).encode()),
        "streams.csv": ("text/csv", _streams_csv(report, streams).encode()),
        "vtt": ("text/vtt", timeline_vtt(report.timeline).encode()),
        "TextGrid": ("text/plain", timeline_textgrid(report.timeline).encode()),
        "png": ("image/png", timeline_picture(report.timeline, report.labels, report.name)),
    }


def _render(template, **values):
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def _streams_csv(report, streams):
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["streams", *(f"p_{label}" for label in report.labels)])
    rows.writerows([name, *(f"{scores[label]:.6f}" for label in report.labels)] for name, scores in streams.items())
    return file.getvalue()


def _facts(report):
    face, streams = report.timeline["face"], report.timeline["streams"]
    names = [{"audio": "sound", "video": "face"}[stream] for stream in streams]
    facts = [report.name, f"{report.timeline['duration']:.1f} s"]
    facts.append(" and ".join(names) if len(names) > 1 else f"{names[0]} alone")
    facts += [] if face is None else [f"a face in {face:.0%} of the pictures"]
    facts += [f"calibrated on {report.profile_clips} clips of the person"] if report.profile_clips else []
    return facts


def _areas(steps, labels, end):
    """Stacked probabilities through the middles of the steps; nothing where there is no answer."""
    for answered, run in groupby(steps, key=lambda step: bool(step["emotions"])):
        run = list(run)
        if not answered:
            continue
        scores = [{one["label"]: one["score"] for one in step["emotions"]} for step in run]
        track = np.array([[score[label] for label in labels] for score in scores])
        seconds = [run[0]["start"], *((step["start"] + step["end"]) / 2 for step in run), run[-1]["end"]]
        top = np.cumsum(np.concatenate([track[:1], track, track[-1:]]), axis=1)
        bottom = np.concatenate([np.zeros((len(top), 1)), top[:, :-1]], axis=1)
        for index in range(len(labels)):
            points = _outline(np.array(seconds) / end, bottom[:, index], top[:, index])
            yield {"points": points, "colour": _colour(index)}


def _outline(shares, bottom, top):
    there = [f"{share * WIDTH:.1f},{(1 - value) * HEIGHT:.2f}" for share, value in zip(shares, top, strict=True)]
    back = [f"{share * WIDTH:.1f},{(1 - value) * HEIGHT:.2f}" for share, value in zip(shares, bottom, strict=True)]
    return " ".join([*there, *reversed(back)])


def _faces(steps, end):
    return [
        {
            "x": f"{step['start'] / end * WIDTH:.1f}",
            "width": f"{(step['end'] - step['start']) / end * WIDTH:.1f}",
            "opacity": f"{step['face'] or 0:.2f}",
        }
        for step in steps
    ]


def _levels(steps, end):
    """Bars of loudness; none without sound."""
    loudest = max(max(step["levels"], default=0.0) for step in steps) or 1.0
    bars = []
    for step in steps:
        width = (step["end"] - step["start"]) / max(len(step["levels"]), 1)
        for index, level in enumerate(step["levels"]):
            height = max(level / loudest * HEIGHT, 1.0)
            bars.append(
                {
                    "x": f"{(step['start'] + index * width) / end * WIDTH:.1f}",
                    "width": f"{width / end * WIDTH * 0.8:.1f}",
                    "y": f"{(HEIGHT - height) / 2:.1f}",
                    "height": f"{height:.1f}",
                }
            )
    return bars


def _ticks(end):
    digits = 1 if end < 20 else 0
    return [f"{end * index / (TICKS - 1):.{digits}f}" for index in range(TICKS)]


def _legend(report, levels):
    names = [(label, _colour(index)) for index, label in enumerate(report.labels)]
    names += [("face found", FACE_COLOUR)] if report.timeline["face"] is not None else []
    return names + ([("sound", SOUND_COLOUR)] if levels else [])


def _rows(report):
    """Of each emotion, its probability by stream."""
    answers = list(report.streams.values())
    best = [answer["emotions"][0]["label"] for answer in answers]
    scores = [{one["label"]: one["score"] for one in answer["emotions"]} for answer in answers]
    return [
        {
            "label": label,
            "colour": _colour(index),
            "cells": [
                {"score": score[label], "is_best": label == top} for score, top in zip(scores, best, strict=True)
            ],
        }
        for index, label in enumerate(report.labels)
    ]


def _links(report):
    return [
        {"name": f"{report.name}.{suffix}", "address": _address(kind, content), "title": FILE_NAMES[suffix]}
        for suffix, (kind, content) in result_files(report).items()
    ]


def _address(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _colour(index):
    return COLOURS[index % len(COLOURS)]
