"""Fig. 3: how the features of both streams move over time, and how often they move the same way."""

from dataclasses import dataclass

import numpy as np
import torch


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

    def sign_agreement(self, rate=30.0):
        """
        Share of moments at which both magnitudes rise or both fall (Fig. 3 b), in [0, 1]; 0.5 is chance.

        Args:
            rate (`float`, *optional*, defaults to 30.0): Moments a second, in Hz, at which both are read by linear
                interpolation, from where both have begun to where the first one ends.

        Raises:
            `ValueError`: if the streams share fewer than two moments.
        """
        start = max(self.audio_timestamps[0], self.video_timestamps[0])
        end = min(self.audio_timestamps[-1], self.video_timestamps[-1])
        moments = np.arange(start, end, 1 / rate)
        if len(moments) < 2:
            raise ValueError(f"The streams share {max(end - start, 0):.2f} s, too little to compare their movement.")
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


def plot_feature_dynamics(dynamics, path, title):
    """Draws Fig. 3 (a) of one clip to `path`; needs matplotlib (`pip install "modeling-aver[plot]"`)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(dynamics.audio_timestamps, dynamics.audio, color="#1f6f8b", linewidth=1.6, label="audio features")
    axes.plot(dynamics.video_timestamps, dynamics.video, color="#e07a2f", linewidth=1.6, label="video features")
    axes.set(xlabel="time (s)", ylabel="magnitude (min-max)", ylim=(-0.03, 1.03))
    axes.set_title(title, loc="left", fontsize="medium")
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower right", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)


def _min_max(values):
    values = values.numpy(force=True)
    spread = values.max() - values.min()
    return (values - values.min()) / (spread if spread > 0 else 1.0)
