"""`aver enroll`: a person's profile from recordings of them."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from support.batches import with_statistics
from support.media import tone, write_sound
from support.models import aver_config, aver_model
from typer.testing import CliRunner

from datasets_scripts import SAMPLE_DIR, load_crema_d
from modeling_aver import AverProcessor, SpeakerProfile
from modeling_aver.cli.main import app
from modeling_aver.features.clips import Clip
from modeling_aver.inference.enrollment import enroll_speaker
from modeling_aver.training.speaker_statistics import estimate_profile

WHOSE = ("own", "plain")
VIDEOS, TABLES = SAMPLE_DIR / "VideoFlash", SAMPLE_DIR / "OpenFace"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = with_statistics(aver_model(aver_config(num_action_units=35, audio_normalization="standardize")))
    model.save_pretrained(folder)
    scale = {"action_unit_mean": [0.3] * 35, "action_unit_std": [0.5] * 35}
    AverProcessor.from_config(model.config, **scale).save_pretrained(folder)
    return folder


def aver(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_enroll_writes_what_the_dataset_gives_of_the_same_clips(saved, tmp_path):
    out = tmp_path / "actor.safetensors"
    output = aver("enroll", VIDEOS, "--model", saved, "--out", out, "--action-units-folder", TABLES)
    profile = SpeakerProfile.load(out)
    from modeling_aver.cli.main import _load

    rows = load_crema_d(SAMPLE_DIR, split="train")
    expected = estimate_profile(*_load(str(saved)), rows)
    np.testing.assert_allclose(profile.action_unit_mean, expected.action_unit_mean, atol=1e-4)
    np.testing.assert_allclose(profile.action_unit_std, expected.action_unit_std, atol=1e-4)
    assert (profile.num_clips, profile.num_faces) == (6, expected.num_faces)
    assert profile.audio_seconds == pytest.approx(expected.audio_seconds, rel=0.01)
    np.testing.assert_allclose(profile.audio_mean, expected.audio_mean, atol=0.05)  # MP3 there, WAV here
    assert f"6 clips, {profile.audio_seconds:.1f} s of sound, {profile.num_faces:,} pictures with a face" in output
    assert "less than 10 clips" in output


def test_a_voice_alone_leaves_the_face_as_in_training(saved, tmp_path):
    out = tmp_path / "voice.safetensors"
    sounds = sorted((SAMPLE_DIR / "AudioWAV").glob("*.wav"))
    aver("enroll", *sounds, "--model", saved, "--out", out, "--streams", "audio")
    profile = SpeakerProfile.load(out)
    assert (profile.num_clips, profile.num_faces) == (6, 0)
    np.testing.assert_allclose(profile.action_unit_std, 0.5, rtol=1e-6)


def test_a_model_that_standardizes_voices_alone_looks_at_no_face(tmp_path):
    model = aver_model(aver_config(num_action_units=35, audio_normalization="standardize"))
    model.save_pretrained(tmp_path)
    AverProcessor.from_config(model.config).save_pretrained(tmp_path)
    out = tmp_path / "voice.safetensors"
    output = aver("enroll", VIDEOS, "--model", tmp_path, "--out", out)  # without MediaPipe, OpenFace or tables
    assert SpeakerProfile.load(out).action_unit_mean is None
    assert "s of sound" in output and "face" not in output


def test_a_recording_that_cannot_be_used_is_named_and_the_others_are(saved, tmp_path):
    (tmp_path / "clips").mkdir()
    shutil.copy(next(VIDEOS.glob("*.flv")), tmp_path / "clips")
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no film at all")
    out = tmp_path / "one.safetensors"
    command = ("enroll", tmp_path / "clips", "--model", saved, "--out", out, "--action-units-folder", TABLES)
    result = CliRunner().invoke(app, [str(argument) for argument in command])
    assert "broken.mp4 is left out" in result.output and "1 clip," in result.output
    assert result.exit_code == 3 and out.exists()


@pytest.mark.parametrize("streams", ["audio", "both"])
def test_a_folder_of_sound_files_makes_a_profile_of_the_voice(saved, streams, tmp_path):
    command = ("enroll", SAMPLE_DIR / "AudioWAV", "--model", saved, "--out", tmp_path / "voice.safetensors")
    (tmp_path / "tables").mkdir()
    shutil.copy(TABLES / "1001_DFA_ANG_XX.csv", tmp_path / "tables" / "another.csv")
    aver(*command, "--streams", streams, "--action-units-folder", tmp_path / "tables")
    profile = SpeakerProfile.load(tmp_path / "voice.safetensors")
    assert (profile.num_clips, profile.num_faces) == (6, 0) and profile.audio_seconds > 10


def test_a_long_recording_counts_as_several_clips(tmp_path):
    model = aver_model(aver_config(audio_normalization="standardize"))
    path = write_sound(tmp_path / "long.wav", tone(seconds=25.5))
    profile, failed = enroll_speaker(
        model, AverProcessor.from_config(model.config), [Clip(path, "long")], None, "audio"
    )
    assert (profile.num_clips, failed) == (3, {})
    assert profile.audio_seconds == pytest.approx(25.5, abs=0.1)


def test_predict_answers_for_the_person_of_the_profile(saved, tmp_path):
    from modeling_aver.cli.main import _load
    from modeling_aver.training.collation import AverDataCollator

    out, video = tmp_path / "actor.safetensors", VIDEOS / "1001_DFA_ANG_XX.flv"
    tables = ("--action-units-folder", TABLES)
    aver("enroll", VIDEOS, "--model", saved, "--out", out, *tables)
    aver("predict", video, "--model", saved, "--out", tmp_path / "own", "--profile", out, *tables)
    aver("predict", video, "--model", saved, "--out", tmp_path / "plain", *tables)
    own, plain = (pd.read_csv(tmp_path / name / "predictions.csv").filter(like="p_").to_numpy()[0] for name in WHOSE)
    model, processor = _load(str(saved))
    row = load_crema_d(SAMPLE_DIR, split="train")[0]
    profiles = {row["utterance_id"]: SpeakerProfile.load(out)}
    with torch.inference_mode():
        expected = model(**AverDataCollator(processor, profiles=profiles)([row])).logits.softmax(dim=-1)[0].numpy()
    np.testing.assert_allclose(own, expected, atol=0.01)  # MP3 there, WAV here
    assert np.abs(own - plain).max() > 0.03
    with pytest.raises(ValueError, match="other settings .speaker_profile differ"):
        aver("predict", video, "--model", saved, "--out", tmp_path / "plain", "--profile", out, *tables)


def test_a_model_that_standardizes_nothing_needs_no_profile(tmp_path):
    model = aver_model(aver_config(num_action_units=35))
    model.save_pretrained(tmp_path)
    AverProcessor.from_config(model.config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="standardizes neither"):
        aver("enroll", VIDEOS, "--model", tmp_path, "--out", tmp_path / "x", "--action-units-folder", TABLES)
