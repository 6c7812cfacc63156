"""A clip's report as HTML: the clip with its track beneath, what each stream says, and links to the results.

Everything is within the page (`data:` addresses), so that no file of a visitor stays on the server. Whatever comes
from outside, such as the name of a file, is escaped.
"""

import base64
import csv
import io
import json
from html import escape
from itertools import groupby

import numpy as np

from .formats import timeline_csv, timeline_textgrid, timeline_vtt
from .picture import COLOURS, timeline_picture

STREAM_NAMES = {"both": "both", "audio": "sound alone", "video": "face alone"}
TICKS = 5
WIDTH, HEIGHT = 1000, 100  # units of the drawings, which stretch to the page

CSS = """
.aver { --text: var(--body-text-color, #222); --soft: color-mix(in srgb, var(--text) 72%, transparent);
  --line: color-mix(in srgb, var(--text) 18%, transparent); font-size: 15px; line-height: 1.45; color: var(--text);
  scroll-margin-top: 12px; }
.aver h3 { font-size: 15px; font-weight: 600; margin: 22px 0 6px; color: inherit; }
.aver p { margin: 4px 0; }
.aver-soft { color: var(--soft); font-size: 13px; }
.aver-grid > div > h3:first-child { margin-top: 0; }
.aver-grid { display: grid; margin-top: 10px; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 0 32px; }
.aver-answer { font-size: 26px; font-weight: 650; line-height: 1.2; margin: 2px 0; overflow-wrap: anywhere; }
.aver-note, .aver-error { border-left: 3px solid #e07a2f; padding: 2px 0 2px 10px; margin: 8px 0;
  overflow-wrap: anywhere; }
.aver p.aver-note { font-size: 14px; } .aver-error { border-color: #c0392b; font-size: 16px; }
.aver video { display: block; width: 100%; max-height: 360px; background: #000; border-radius: 6px 6px 0 0; }
.aver-track { position: relative; cursor: pointer; border: 1px solid var(--line); border-radius: 0 0 6px 6px;
  overflow: hidden; }
.aver-track svg { display: block; width: 100%; }
.aver-bands { height: 130px; } .aver-face { height: 9px; margin-top: 3px; } .aver-sound { height: 40px; }
.aver-head { position: absolute; top: 0; bottom: 0; left: 0; width: 2px; margin-left: -1px; background: #111;
  box-shadow: 0 0 0 1px #fff; pointer-events: none; }
.aver-axis { display: flex; justify-content: space-between; font-size: 12px; color: var(--soft); margin-top: 2px; }
.aver-legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; margin: 4px 0; }
.aver-legend span::before { content: ""; display: inline-block; width: 11px; height: 11px; border-radius: 2px;
  margin-right: 5px; background: var(--colour); }
.aver table, .aver tr { border: 0 !important; }
.aver table { width: 100%; border-collapse: collapse; table-layout: fixed; margin: 0; }
.aver th, .aver td { text-align: left; font-weight: 400; font-size: 13px; padding: 3px 10px 3px 0 !important;
  border: 0 !important; overflow-wrap: anywhere; color: inherit; background: none; }
.aver thead th { color: var(--soft); vertical-align: bottom; }
.aver .aver-best { font-weight: 650; }
.aver-bar { display: block; height: 6px; border-radius: 3px; background: var(--line); overflow: hidden; }
.aver-bar i { display: block; height: 100%; background: var(--colour); }
.aver img { display: block; width: 100%; max-width: 560px; border-radius: 6px; background: #fff; margin: 0; }
.aver-files { display: flex; flex-wrap: wrap; gap: 8px; }
.aver-files a { border: 1px solid var(--line); border-radius: 6px; padding: 6px 12px; font-size: 14px;
  text-decoration: none; color: inherit; }
@media (max-width: 760px) { .aver-grid { grid-template-columns: minmax(0, 1fr); }
  .aver-grid > div + div > h3:first-child { margin-top: 22px; } }
"""

# Moves the line over the track with the clip, and the clip to where the track is clicked. `element` holds the report.
SCRIPT = """
const follow = (video) => {
  const head = element.querySelector('.aver-head'), track = element.querySelector('.aver-track');
  if (head && track) head.style.left = Math.min(100, 100 * video.currentTime / track.dataset.seconds) + '%';
};
const run = (video) => { follow(video); if (!video.paused) requestAnimationFrame(() => run(video)); };
element.addEventListener('play', (event) => run(event.target), true);
element.addEventListener('seeked', (event) => follow(event.target), true);
element.addEventListener('click', (event) => {
  const track = event.target.closest('.aver-track'), video = element.querySelector('video');
  if (!track || !video) return;
  const box = track.getBoundingClientRect();
  video.currentTime = track.dataset.seconds * (event.clientX - box.left) / box.width;
});
"""


def report_html(report):
    """
    HTML of a [`ClipReport`]; its styles are `CSS`, its movement is `SCRIPT`.

    Returns:
        `str`
    """
    notes = "".join(f'<p class="aver-note">{escape(note)}</p>' for note in report.timeline["notes"])
    return (
        f'<div class="aver">{_headline(report)}{notes}<div class="aver-grid"><div>{_player(report)}'
        f"<h3>Results</h3>{_links(report)}</div><div>{_streams(report)}{_alignment(report)}</div></div></div>"
    )


def error_html(sentence):
    """One plain sentence in place of a report."""
    return f'<div class="aver"><p class="aver-error">{escape(sentence)}</p></div>'


def notes_html(notes):
    """What a visitor should know first."""
    return '<div class="aver">' + "".join(f'<p class="aver-note">{escape(note)}</p>' for note in notes) + "</div>"


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


FILE_NAMES = {
    "json": "JSON",
    "csv": "CSV",
    "streams.csv": "CSV of streams",
    "vtt": "WebVTT",
    "TextGrid": "TextGrid",
    "png": "picture",
}


def _streams_csv(report, streams):
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["streams", *(f"p_{label}" for label in report.labels)])
    rows.writerows([name, *(f"{scores[label]:.6f}" for label in report.labels)] for name, scores in streams.items())
    return file.getvalue()


def _headline(report):
    best, face = report.answer["emotions"][0], report.timeline["face"]
    used = " and ".join({"audio": "heard", "video": "seen"}[stream] for stream in report.timeline["streams"])
    facts = [report.name, f"{report.timeline['duration']:.1f} s", used]
    facts += [] if face is None else [f"a face in {face:.0%} of the pictures"]
    facts += [f"calibrated on {report.profile_clips} clips of the person"] if report.profile_clips else []
    return (
        f'<p class="aver-answer">{escape(best["label"])} {best["score"]:.0%}</p>'
        f'<p class="aver-soft">{escape(" · ".join(facts))}</p>'
    )


def _player(report):
    video = ""
    if report.preview is not None:
        video = f'<video controls playsinline src="{_address("video/mp4", report.preview)}"></video>'
    end = report.timeline["timeline"][-1]["end"]
    return f"{video}{_track(report, end)}{_axis(end)}{_legend(report)}{_caption(report)}"


def _track(report, end):
    steps = report.timeline["timeline"]
    parts = [_svg("bands", _bands(steps, report.labels, end))]
    if report.timeline["face"] is not None:
        parts.append(_svg("face", _faces(steps, end)))
    if any(step["levels"] for step in steps):
        parts.append(_svg("sound", _sound(steps, end)))
    head = "" if report.preview is None else '<div class="aver-head"></div>'
    return f'<div class="aver-track" data-seconds="{end:.3f}">{"".join(parts)}{head}</div>'


def _svg(kind, drawing):
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none"'
    return f'<svg class="aver-{kind}" {box} aria-hidden="true">{drawing}</svg>'


def _bands(steps, labels, end):
    """Stacked probabilities through the middles of the steps; nothing where there is no answer."""
    drawing = []
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
            drawing.append(_area(np.array(seconds) / end, bottom[:, index], top[:, index], _colour(index)))
    return "".join(drawing)


def _area(shares, bottom, top, colour):
    there = [f"{share * WIDTH:.1f},{(1 - value) * HEIGHT:.2f}" for share, value in zip(shares, top, strict=True)]
    back = [f"{share * WIDTH:.1f},{(1 - value) * HEIGHT:.2f}" for share, value in zip(shares, bottom, strict=True)]
    return f'<polygon points="{" ".join([*there, *reversed(back)])}" fill="{colour}"/>'


def _faces(steps, end):
    return "".join(
        f'<rect x="{step["start"] / end * WIDTH:.1f}" width="{(step["end"] - step["start"]) / end * WIDTH:.1f}" '
        f'y="0" height="{HEIGHT}" fill="#2e8b57" fill-opacity="{step["face"] or 0:.2f}"/>'
        for step in steps
    )


def _sound(steps, end):
    loudest = max(max(step["levels"], default=0.0) for step in steps) or 1.0
    lines = []
    for step in steps:
        width = (step["end"] - step["start"]) / max(len(step["levels"]), 1)
        for index, level in enumerate(step["levels"]):
            height = max(level / loudest * HEIGHT, 1.0)
            lines.append(
                f'<rect x="{(step["start"] + index * width) / end * WIDTH:.1f}" '
                f'width="{width / end * WIDTH * 0.8:.1f}" y="{(HEIGHT - height) / 2:.1f}" height="{height:.1f}"/>'
            )
    return f'<g fill="#7a8791">{"".join(lines)}</g>'


def _axis(end):
    digits = 1 if end < 20 else 0
    ticks = (end * index / (TICKS - 1) for index in range(TICKS))
    return f'<div class="aver-axis">{"".join(f"<span>{tick:.{digits}f} s</span>" for tick in ticks)}</div>'


def _legend(report):
    names = [
        f'<span style="--colour: {_colour(index)}">{escape(label)}</span>' for index, label in enumerate(report.labels)
    ]
    if report.timeline["face"] is not None:
        names.append('<span style="--colour: #2e8b57">face found</span>')
    if any(step["levels"] for step in report.timeline["timeline"]):
        names.append('<span style="--colour: #7a8791">sound</span>')
    return f'<div class="aver-legend">{"".join(names)}</div>'


def _caption(report):
    window, hop = report.timeline["window"], report.timeline["hop"]
    return f'<p class="aver-soft">Probability over time, in windows of {window:g} s every {hop:.2g} s.</p>'


def _streams(report):
    heads = "".join(f"<th>{STREAM_NAMES[stream]}</th>" for stream in report.streams)
    best = {stream: answer["emotions"][0]["label"] for stream, answer in report.streams.items()}
    rows = []
    for index, label in enumerate(report.labels):
        cells = [
            _cell(answer, label, _colour(index), best[stream] == label) for stream, answer in report.streams.items()
        ]
        rows.append(f"<tr><th>{escape(label)}</th>{''.join(cells)}</tr>")
    return (
        "<h3>What each stream says of the whole clip</h3>"
        f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(answer, label, colour, is_best):
    score = next(one["score"] for one in answer["emotions"] if one["label"] == label)
    bar = f'<span class="aver-bar"><i style="width: {score:.1%}; --colour: {colour}"></i></span>'
    weight = "aver-best" if is_best else ""
    return f'<td class="{weight}">{score:.0%}{bar}</td>'


def _alignment(report):
    if report.alignment is None:
        return ""
    return (
        "<h3>Which moments of sound and face are alike</h3>"
        '<img alt="Similarity of each moment of the sound with each moment of the face" '
        f'src="{_address("image/png", report.alignment)}">'
        '<p class="aver-soft">Bright along the diagonal: both streams move together, at the same time.</p>'
    )


def _links(report):
    links = [
        f'<a download="{escape(f"{report.name}.{suffix}", quote=True)}" href="{_address(kind, content)}">'
        f"{FILE_NAMES[suffix]}</a>"
        for suffix, (kind, content) in result_files(report).items()
    ]
    return f'<div class="aver-files">{"".join(links)}</div>'


def _address(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _colour(index):
    return COLOURS[index % len(COLOURS)]
