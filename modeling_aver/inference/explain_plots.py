"""Explanations to look at: what moved the answer over time, who heard whom, and which frames are alike."""

import io

import numpy as np

from ..analysis.dynamics import as_it_is, plot_alignment
from .sync import CONFIDENT

_FOR, _AGAINST = "#1f6f8b", "#e07a2f"
STREAM_WORDS = {"audio": "sound", "video": "face"}
_KINDS = {"last": "last layer that crosses", "rollout": "rollout through all layers"}


def occlusion_picture(explanation, title):
    """PNG: for each stream, how much less probable the answer becomes without each stretch of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 1.7 * len(explanation.occlusion)), layout="constrained")
    panels = figure.subplots(len(explanation.occlusion), sharex=True, sharey=True, squeeze=False)[:, 0]
    middles = (explanation.starts + explanation.ends) / 2
    width = 0.9 * (explanation.starts[1] - explanation.starts[0] if len(middles) > 1 else 0.5)
    for axes, (stream, drops) in zip(panels, explanation.occlusion.items(), strict=True):
        axes.bar(middles, np.nan_to_num(drops), width, color=np.where(drops >= 0, _FOR, _AGAINST))
        axes.axhline(0, color="#555555", linewidth=0.8)
        axes.set_ylabel(f"{STREAM_WORDS[stream]}\nhidden")
        axes.spines[["top", "right"]].set_visible(False)
    bound = max(float(np.nanmax(np.abs(list(explanation.occlusion.values())), initial=0.0)), 1e-3)
    panels[-1].set(xlabel="time (s)", xlim=(0, explanation.ends[-1]), ylim=(-1.1 * bound, 1.1 * bound))
    alone = [f"{STREAM_WORDS[name]} alone {p:.2f}" for name, p in explanation.streams.items() if name != "both"]
    heading = as_it_is(f"{title}: {explanation.label} {explanation.probability:.2f}")
    panels[0].set_title(f"{heading} ({', '.join(alone)})", loc="left", fontsize="medium")
    hidden = explanation.ends[0] - explanation.starts[0]
    lost = f"probability of {explanation.label} that is lost where {hidden:g} s are hidden: above 0, they spoke for it"
    figure.supxlabel(lost, fontsize="small", color="#555555")
    return _png(figure)


def attention_picture(attention, title):
    """PNG: each stream's attention to the other, time against time; every row of who asks is scaled to its own sum."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 8), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    heard, seen = attention.audio_timestamps, attention.video_timestamps
    ends = (max(heard[0], seen[0]), min(heard[-1], seen[-1]))
    ways = {"sound hears face": attention.audio_to_video, "face hears sound": attention.video_to_audio}
    for row, (way, found) in zip(panels, ways.items(), strict=True):
        for axes, (kind, weights) in zip(row, found.items(), strict=True):
            shares = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
            shown = shares.T if found is attention.audio_to_video else shares
            axes.pcolormesh(
                heard, seen, shown, vmin=0, vmax=np.quantile(shown, 0.995), cmap="magma", shading="nearest"
            )
            axes.plot(ends, ends, color="white", linewidth=1, linestyle="--")
            share = weights.sum(axis=1).mean()
            axes.set_title(f"{way}, {_KINDS[kind]}\n{share:.0%} of its attention", loc="left", fontsize="small")
        row[0].set_ylabel("time of the face (s)")
    for axes in panels[-1]:
        axes.set_xlabel("time of the sound (s)")
    figure.suptitle(f"{as_it_is(title)}: bright is much attention; dashed is the same moment", fontsize="medium")
    return _png(figure)


def alignment_picture(explanation, title):
    """PNG of the similarity of the CTM embeddings, with the offset if it is beyond chance."""
    offset = explanation.offset
    late = offset.seconds if offset is not None and offset.confidence > CONFIDENT else None
    file = io.BytesIO()
    plot_alignment(explanation.alignment, file, title, offset=late)
    return file.getvalue()


def _png(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()
