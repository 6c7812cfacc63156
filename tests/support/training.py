"""A recipe that trains in seconds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

import train_hf
from datasets_scripts import SAMPLE_DIR

ROOT = Path(__file__).resolve().parents[2]


RECIPES = sorted((ROOT / "modeling_aver" / "training" / "recipes").glob("*.yaml"))


# A tiny model without randomness: two clips a step, no dropout.
TINY = {
    "audio_config": {
        "model_type": "wav2vec2",
        "conv_dim": [16, 16, 16],
        "conv_kernel": [10, 8, 8],
        "conv_stride": [5, 8, 8],
        "num_feat_extract_layers": 3,
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "layerdrop": 0.0,
        "mask_time_prob": 0.0,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
    },
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "dropout": 0.0,
    "freeze_feature_encoder": False,
    "eval_split": "train",
    "max_steps": 2,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "save_strategy": "no",
    "disable_tqdm": True,
}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "output_dir": str(tmp_path / "run")}))
    return path


@pytest.fixture
def own_clips(tmp_path):
    """`write(rows)`: the six clips as clips of one's own, with the labels and splits that a test wants of them."""

    def write(*rows):
        folder = tmp_path / "clips"
        shutil.copytree(SAMPLE_DIR / "AudioWAV", folder)
        shutil.copytree(SAMPLE_DIR / "OpenFace", folder / "OpenFace")
        files = sorted(path.name for path in folder.glob("*.wav"))
        lines = [f"{file},{row}" for file, row in zip(files, rows, strict=True)]
        (folder / "clips.csv").write_text("\n".join(["file,label,speaker,split", *lines]) + "\n")
        return str(folder / "clips.csv")

    return write


def launched(recipe, output_dir, *flags, launcher=(sys.executable,)):
    """Weights after a run in processes of its own."""
    command = [*launcher, str(ROOT / "train_hf.py"), str(recipe), "--output_dir", str(output_dir), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    return load_file(output_dir / "model.safetensors")


def trained(recipe, output_dir, *flags):
    """Weights after a run in this process."""
    train_hf.main([str(recipe), "--output_dir", str(output_dir), *flags])
    return load_file(output_dir / "model.safetensors")
