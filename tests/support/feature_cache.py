"""Recipes with a frozen encoder, and the losses of a run."""

import json

from support.training import TINY

FROZEN = {**TINY, "audio_layers": [0, 1], "audio_normalization": "standardize", "freeze_audio_encoder": True}


def losses_of(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [line["loss"] for line in history if "loss" in line]
