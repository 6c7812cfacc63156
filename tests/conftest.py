"""Fixtures of all tests. What is not a fixture lies in `support/`."""

import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
from support.models import SHARED, aver_config, aver_model


@pytest.fixture
def tiny_model():
    return aver_model(aver_config())


@pytest.fixture
def make_clip():
    """Builds `{"audio": (num_samples,), "action_units": (num_video_frames, D)}` of a length in seconds."""
    generator = np.random.default_rng(0)

    def make(seconds=0.2, num_action_units=7, video_frame_rate=30.0, sampling_rate=16_000):
        return {
            "audio": generator.normal(size=round(seconds * sampling_rate)).astype(np.float32),
            "action_units": generator.random((round(seconds * video_frame_rate), num_action_units)),
        }

    return make


@pytest.fixture
def shared():
    """The folder of development material beside the repository; the installed package never needs it."""
    if not SHARED.is_dir():
        pytest.skip("waits for the development material in ../shared")
    return SHARED


@pytest.fixture
def short_folder():
    """A temporary folder for TMPDIR: sockets of worker processes lie in it, and their paths hold 107 characters."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        yield Path(folder)
