"""Signals found again in decoded sound."""

import numpy as np


def first_sound(waveform, sampling_rate=16_000):
    """When the tone begins, in seconds."""
    return np.argmax(np.abs(waveform) > 0.05) / sampling_rate
