"""Training with speaker profiles, as a user runs it, on the six real clips as two people's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from support.calibration import recipe  # noqa: F401 (fixtures)
from support.commands import aver
from support.feature_cache import losses_of
from support.training import own_clips  # noqa: F401 (fixtures)

import train_hf
from datasets_scripts import SAMPLE_DIR
from modeling_aver import AverProcessor, SpeakerProfile
from modeling_aver.evaluation.results import PROTOCOLS


@pytest.mark.slow
def test_a_calibrated_run_says_so_and_can_be_enrolled_with(recipe, tmp_path):
    train_hf.main([str(recipe)])
    train_hf.main([str(recipe), "--speaker_profiles", "none", "--output_dir", str(tmp_path / "plain")])
    assert json.loads((tmp_path / "run" / "results.json").read_text())["dataset"]["speaker_profiles"] == "unlabelled"
    assert set(pd.read_csv(tmp_path / "run" / "predictions.csv")["speaker_profiles"]) == {"unlabelled"}
    assert "speaker_profiles" not in pd.read_csv(tmp_path / "plain" / "predictions.csv")
    cards = [(tmp_path / name / "README.md").read_text() for name in ("run", "plain")]
    assert [PROTOCOLS["unlabelled"] in card for card in cards] == [True, False]
    assert losses_of(tmp_path / "run") != pytest.approx(losses_of(tmp_path / "plain"), abs=1e-3)
    out = tmp_path / "cleo.safetensors"
    tables = ("--action-units-folder", SAMPLE_DIR / "OpenFace")
    output = aver(
        "enroll", str(SAMPLE_DIR / "VideoFlash"), "--model", str(tmp_path / "run"), "--out", str(out), *tables
    )
    assert "6 clips" in output
    assert SpeakerProfile.load(out).audio_identity.startswith("wav2vec2, layers [0, 1], pooled by 1 (")


@pytest.mark.slow
def test_profiles_from_the_cache_are_profiles_from_the_sound(recipe, tmp_path):
    train_hf.main([str(recipe)])
    train_hf.main(
        [str(recipe), "--feature_cache_dir", str(tmp_path / "cache"), "--output_dir", str(tmp_path / "kept")]
    )
    assert losses_of(tmp_path / "kept") == pytest.approx(losses_of(tmp_path / "run"), abs=1e-5)
    one, other = (pd.read_csv(tmp_path / name / "predictions.csv").filter(like="p_") for name in ("run", "kept"))
    assert (one - other).abs().to_numpy().max() < 1e-5


def test_an_encoder_that_trains_has_no_lasting_statistics_of_speakers(recipe):
    with pytest.raises(ValueError, match="speaker_profiles.*Freeze it: --freeze_audio_encoder true"):
        train_hf.main([str(recipe), "--freeze_audio_encoder", "false"])


@pytest.mark.slow
def test_faces_alone_are_calibrated_where_the_encoder_trains(recipe, tmp_path):
    train_hf.main([str(recipe), "--freeze_audio_encoder", "false", "--audio_normalization", "none"])
    processor = AverProcessor.from_pretrained(tmp_path / "run")
    assert processor.feature_extractor.audio_identity is None


@pytest.mark.slow
def test_a_profile_of_another_run_with_other_weights_is_refused(recipe, tmp_path):
    train_hf.main([str(recipe)])
    out = tmp_path / "anna.safetensors"
    sounds = [str(path) for path in (SAMPLE_DIR / "AudioWAV").glob("*.wav")]
    aver("enroll", *sounds, "--model", str(tmp_path / "run"), "--out", str(out), "--streams", "audio")
    other = AverProcessor.from_pretrained(tmp_path / "run")
    other.feature_extractor.audio_identity = "wav2vec2, layers [0, 1], pooled by 1 (0123456789abcdef)"
    with pytest.raises(ValueError, match="made for another model: its audio encoder"):
        other(audio=[torch.zeros(16_000)], sampling_rate=16_000, speaker_profiles=[SpeakerProfile.load(out)])


@pytest.mark.slow
def test_a_resumed_run_sees_the_same_profiles(recipe, tmp_path):
    steps = ["--save_strategy", "steps", "--save_steps", "1"]
    train_hf.main([str(recipe), *steps])
    expected = load_file(tmp_path / "run" / "model.safetensors")
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    train_hf.main([str(recipe), *steps, "--resume"])
    for name, weight in load_file(tmp_path / "run" / "model.safetensors").items():
        torch.testing.assert_close(weight, expected[name], atol=0, rtol=0)


@pytest.mark.slow
def test_two_processes_share_the_speakers_and_train_as_one(recipe, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = Path(__file__).resolve().parents[2] / "train_hf.py"
    flags = ["--output_dir", str(tmp_path / "both"), "--per_device_train_batch_size", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), str(recipe), *flags], capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    train_hf.main([str(recipe), "--per_device_train_batch_size", "4"])
    assert losses_of(tmp_path / "both") == pytest.approx(losses_of(tmp_path / "run"), abs=1e-4)
    one, other = (pd.read_csv(tmp_path / name / "predictions.csv").filter(like="p_") for name in ("run", "both"))
    assert (one - other).abs().to_numpy().max() < 1e-4
