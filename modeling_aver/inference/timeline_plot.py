"""A timeline to look at: probability bands over time, where a face was found, how loud it was."""

import io

import numpy as np

from ..analysis.dynamics import as_it_is

COLOURS = (
    "#c0392b",
    "#7a9e3a",
    "#7d5ba6",
    "#e9b44c",
    "#b0b7bd",
    "#3f7cac",
    "#2a9d8f",
    "#e07a2f",
    "#8d6e63",
    "#d67ab1",
)


def timeline_picture(answer, labels, title=""):
    """
    PNG of a timeline; needs matplotlib (`pip install "modeling-aver[plot]"`).

    Args:
        answer (`dict`): Of the pipeline, with `window`, and with all emotions.
        labels (`list[str]`): Names of the emotions, in the model's order: bands from below.
        title (`str`, *optional*)

    Returns:
        `bytes`
    """
    from matplotlib.figure import Figure

    edges = np.array([answer["timeline"][0]["start"], *(step["end"] for step in answer["timeline"])])
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    bands, face, sound = figure.subplots(3, 1, sharex=True, height_ratios=[8, 0.7, 2])
    _draw_bands(bands, answer, labels, edges)
    _draw_faces(face, answer, edges)
    _draw_sound(sound, answer)
    bands.set_title(as_it_is(title), loc="left", fontsize="medium")
    sound.set(xlabel="time (s)", xlim=(edges[0], max(edges[-1], edges[0] + 1e-3)))
    figure.legend(loc="outside right upper", reverse=True, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def _draw_bands(axes, answer, labels, edges):
    scores = [{emotion["label"]: emotion["score"] for emotion in step["emotions"]} for step in answer["timeline"]]
    track = np.array([[score.get(label, np.nan) for label in labels] for score in scores])  # (num_steps, num_labels)
    middles = (edges[:-1] + edges[1:]) / 2
    seconds = np.concatenate([edges[:1], middles, edges[-1:]])
    track = np.concatenate([track[:1], track, track[-1:]])
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(labels))]
    top = np.cumsum(track, axis=1)
    for index, label in enumerate(labels):
        below = top[:, index - 1] if index else np.zeros(len(track))
        axes.fill_between(seconds, below, top[:, index], color=colours[index], label=as_it_is(label), linewidth=0)
    axes.set(ylabel="probability", ylim=(0, 1))


def _draw_faces(axes, answer, edges):
    shares = np.array([[np.nan if step["face"] is None else step["face"] for step in answer["timeline"]]])
    axes.pcolormesh(edges, [0, 1], np.ma.masked_invalid(shares), cmap="Greens", vmin=0, vmax=1)
    axes.set(yticks=[], facecolor="#eeeeee")
    axes.set_ylabel("face", rotation=0, ha="right", va="center")


def _draw_sound(axes, answer):
    seconds, levels = [], []
    for step in answer["timeline"]:
        count = len(step["levels"])
        seconds.extend(np.linspace(step["start"], step["end"], count, endpoint=False))
        levels.extend(step["levels"])
    levels = np.array(levels)
    axes.fill_between(seconds, -levels, levels, color="#4a5560", linewidth=0, step="post")
    bound = max(levels.max(initial=0.0), 1e-3)
    axes.set(yticks=[], ylim=(-bound, bound))
    axes.set_ylabel("sound", rotation=0, ha="right", va="center")
