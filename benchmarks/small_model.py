"""A model that a CPU can afford, and clips made up for it: what several benchmarks measure with."""

import numpy as np
import torch

from datasets_scripts.schema import wav_bytes
from modeling_aver import AverConfig, AverForEmotionClassification, AverProcessor

WHISPER_TINY = {
    "model_type": "whisper",
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
}
SAMPLING_RATE, FRAME_RATE = 16_000, 30.0  # Hz


def small_model(**values):
    """
    The paper's fusion (two MSA blocks, 6.3 M parameters) over an audio encoder of whisper-tiny's size (8.2 M), with
    random weights, which cost as much as others; and its processor.

    Args:
        values: Of [`AverConfig`].
    """
    torch.manual_seed(0)
    config = AverConfig(audio_config=WHISPER_TINY, **values)
    return AverForEmotionClassification(config).eval(), AverProcessor.from_config(config)


def streams(seconds, seed=0):
    """(noise `(num_samples,)`, action units `(num_frames, 35)`) that last `seconds`."""
    generator = np.random.default_rng(seed)
    sound = generator.uniform(-0.1, 0.1, round(seconds * SAMPLING_RATE)).astype(np.float32)
    return sound, generator.random((max(round(seconds * FRAME_RATE), 1), 35), np.float32)


def row(seconds, seed=0):
    """A dataset's row of such a clip, as `datasets_scripts.schema` documents it."""
    sound, units = streams(seconds, seed)
    return {
        "audio": {"bytes": wav_bytes(sound), "path": f"{seed}.wav"},
        "audio_duration": len(sound) / SAMPLING_RATE,
        "action_units": units.tolist(),
        "action_units_success": [True] * len(units),
        "video_timestamps": [frame / FRAME_RATE for frame in range(len(units))],
        "label": seed % 6,
        "utterance_id": str(seed),
    }
