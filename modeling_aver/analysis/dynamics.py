"""Both streams of a clip side by side: how they move (Fig. 3), and which of their frames are alike (CTM)."""

from dataclasses import dataclass

import numpy as np
import torch

_BLUE, _ORANGE = "#1f6f8b", "#e07a2f"  # also told apart by the colour-blind, and in grey
_BIN = 0.04  # of sign agreements: three moments of the 75 of a clip of 2.5 s


@dataclass
class FeatureDynamics:
    """
    Magnitudes of both streams' features over one clip (Fig. 3 a).

    Args:
        audio_timestamps, video_timestamps (`np.ndarray` of shape `(num_frames,)`): Seconds on one clock.
        audio, video (`np.ndarray` of shape `(num_frames,)`): Min-max normalized magnitudes, 0 to 1.
    """

    audio_timestamps: np.ndarray
    audio: np.ndarray
    video_timestamps: np.ndarray
    video: np.ndarray

    def shared_moments(self, rate=30.0):
        """Seconds, `rate` of them a second, from where both streams have begun to where the first one ends."""
        if not len(self.audio_timestamps) or not len(self.video_timestamps):
            return np.empty(0)
        start = max(self.audio_timestamps[0], self.video_timestamps[0])
        end = min(self.audio_timestamps[-1], self.video_timestamps[-1])
        return np.arange(start, end, 1 / rate)

    def sign_agreement(self, rate=30.0):
        """
        Share of moments at which both magnitudes rise or both fall (Fig. 3 b), in [0, 1]; 0.5 is chance.

        Args:
            rate (`float`, *optional*, defaults to 30.0): Moments a second, in Hz, at which both are read by linear
                interpolation, see [`~FeatureDynamics.shared_moments`].

        Raises:
            `ValueError`: if the streams share fewer than two moments.
        """
        moments = self.shared_moments(rate)
        if len(moments) < 2:
            raise ValueError(f"The streams share {len(moments) / rate:.2f} s, too little to compare their movement.")
        audio = np.diff(np.interp(moments, self.audio_timestamps, self.audio))
        video = np.diff(np.interp(moments, self.video_timestamps, self.video))
        return float(np.mean(np.sign(audio) == np.sign(video)))


@torch.inference_mode()
def feature_dynamics(model, batch):
    """
    Dynamics of the shared features F (eq. 1-2) of each clip of a batch that has both streams.

    Args:
        model ([`AverForEmotionClassification`] or [`AverModel`]): In evaluation mode.
        batch (`dict`): What the processor makes.

    Returns:
        `list[FeatureDynamics]`: one a clip.
    """
    outputs = model(**{name: value for name, value in batch.items() if name != "labels"}, output_hidden_states=True)
    num_audio_frames = outputs.audio_mask.shape[1]
    magnitudes = outputs.hidden_states[0].float().norm(dim=-1)  # (B, T_a + T_v)
    streams = zip(
        *(outputs.audio_timestamps, outputs.audio_mask, magnitudes[:, :num_audio_frames]),
        *(outputs.video_timestamps, outputs.video_mask, magnitudes[:, num_audio_frames:]),
        strict=True,
    )
    return [
        FeatureDynamics(
            *(audio_seconds[audio_mask].numpy(force=True), _min_max(audio[audio_mask])),
            *(video_seconds[video_mask].numpy(force=True), _min_max(video[video_mask])),
        )
        for audio_seconds, audio_mask, audio, video_seconds, video_mask, video in streams
    ]


def plot_feature_dynamics(dynamics, path):
    """
    Draws Fig. 3 (a) of one clip to `path`; needs matplotlib (`pip install "modeling-aver[plot]"`).

    Args:
        dynamics (`dict[str, FeatureDynamics]`): By the title of its panel: a model's, or several models' to compare.
        path (`str` or `Path`): Picture to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.9 + 2.3 * len(dynamics)), layout="constrained")
    panels = figure.subplots(len(dynamics), sharex=True, squeeze=False)[:, 0]
    for axes, (name, one) in zip(panels, dynamics.items(), strict=True):
        audio = axes.plot(one.audio_timestamps, one.audio, color=_BLUE, linewidth=1.6, label="audio features")
        video = axes.plot(one.video_timestamps, one.video, color=_ORANGE, linewidth=1.6, label="video features")
        axes.set(ylabel="magnitude (min-max)", ylim=(-0.03, 1.03))
        axes.set_title(name, loc="left", fontsize="medium")
        axes.margins(x=0.01)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set(xlabel="time (s)")
    figure.legend(handles=[*audio, *video], loc="outside lower right", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)


@dataclass
class Alignment:
    """
    Which frames of one clip's sound and picture are alike (the similarity of eq. 7-8).

    Args:
        audio_timestamps, video_timestamps (`np.ndarray` of shape `(num_frames,)`): Seconds on one clock.
        similarity (`np.ndarray` of shape `(num_audio_frames, num_video_frames)`): Cosines, -1 to 1.
    """

    audio_timestamps: np.ndarray
    video_timestamps: np.ndarray
    similarity: np.ndarray


def check_matching(config):
    """Refuses a model that cannot compare frames of one stream with those of the other."""
    if config.ctm_loss_weight == 0:
        raise ValueError(
            "The model was trained without cross-temporal matching (`ctm_loss_weight` 0), so it cannot tell which "
            "frames of sound and picture belong together. Take one that was trained with it; the paper's has 0.5."
        )


def alignments(outputs):
    """
    What the model's embeddings say of each clip of a batch that has both streams.

    Args:
        outputs ([`AverModelOutput`] or [`AverClassifierOutput`]): Of a model with `ctm_loss_weight` above 0.

    Returns:
        `list[Alignment]`: one a clip with both streams, in the order of the batch; masked frames are left out.
    """
    found = []
    for clip, (heard, seen) in enumerate(zip(outputs.audio_mask, outputs.video_mask, strict=True)):
        if heard.any() and seen.any():
            similarity = outputs.audio_embeds[clip, heard] @ outputs.video_embeds[clip, seen].mT
            seconds = (outputs.audio_timestamps[clip, heard], outputs.video_timestamps[clip, seen])
            found.append(Alignment(*(values.double().numpy(force=True) for values in (*seconds, similarity))))
    return found


def as_it_is(text):
    """`str`: text from outside, such as a file's name, that matplotlib is not to read as a formula between dollars."""
    return text.replace("$", r"\$")


def plot_alignment(alignment, path, title="", offset=None):
    """
    Draws who is like whom to `path`: bright along the diagonal where sound and picture go together. Needs matplotlib.

    Args:
        alignment ([`Alignment`])
        path (`str`, `Path` or a file open for bytes): PNG to write.
        title (`str`, *optional*)
        offset (`float`, *optional*): Seconds that the video is late, to draw beside the diagonal.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    axes = figure.add_subplot()
    heard, seen, similarity = alignment.audio_timestamps, alignment.video_timestamps, alignment.similarity
    low, high = np.quantile(similarity, (0.01, 0.99))
    mesh = axes.pcolormesh(heard, seen, similarity.T, vmin=low, vmax=high, cmap="viridis", shading="nearest")
    ends = np.array([max(heard[0], seen[0]), min(heard[-1], seen[-1])])
    axes.plot(ends, ends, color="white", linewidth=1.2, linestyle="--", label="same moment")
    if offset is not None:
        label = f"video {abs(offset):.2f} s {'late' if offset >= 0 else 'early'}"
        axes.plot(ends, ends + offset, color=_ORANGE, linewidth=1.6, label=label)
    axes.set(xlabel="time of the sound (s)", ylabel="time of the picture (s)")
    axes.set(xlim=(heard[0], max(heard[-1], heard[0] + 1e-3)), ylim=(seen[0], max(seen[-1], seen[0] + 1e-3)))
    axes.set_title(as_it_is(title), loc="left", fontsize="medium")
    figure.colorbar(mesh, label="similarity of the embeddings (cosine)")
    figure.legend(loc="outside lower center", ncols=2, frameon=True, facecolor="#8fa3ad")
    figure.savefig(path, format="png", dpi=150)


def plot_sign_agreements(agreements, path, title):
    """
    Draws Fig. 3 (b) to `path`: how the clips' derivative sign agreement is distributed, for two models.

    Args:
        agreements (`dict[str, np.ndarray]`): A value in [0, 1] a clip, by the name of the model.
        path (`str` or `Path`): Picture to write; needs matplotlib.
        title (`str`)
    """
    from matplotlib.figure import Figure

    values = np.concatenate(list(agreements.values()))
    bins = np.arange(round(1 / _BIN) + 1) * _BIN
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0.5, color="#8a8a8a", linewidth=1, zorder=0, label="chance (0.50)")
    styles = zip(agreements.items(), (_ORANGE, _BLUE), ("--", "-"), strict=True)
    for (name, some), color, line in styles:
        shown = {"bins": bins, "weights": np.full(len(some), 100 / len(some)), "color": color}
        axes.hist(some, **shown, alpha=0.25)
        axes.hist(some, **shown, histtype="step", linestyle=line, linewidth=1.8)
        axes.axvline(some.mean(), color=color, linestyle=line, label=f"{name}: mean {some.mean():.2f}")
    axes.set_xlim(max(0, min(values.min(), 0.5) - 2 * _BIN), min(1, max(values.max(), 0.5) + 2 * _BIN))
    axes.set(xlabel="derivative sign agreement of a clip", ylabel="clips (%)")
    axes.set_title(title, loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower right", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)


def _min_max(values):
    values = values.numpy(force=True)
    if not len(values):
        return values
    spread = values.max() - values.min()
    return (values - values.min()) / (spread if spread > 0 else 1.0)
