import numpy as np
import pytest
from support.models import aver_config, aver_model

from modeling_aver import AverProcessor
from modeling_aver.analysis.dynamics import FeatureDynamics, feature_dynamics, plot_feature_dynamics

AUDIO_TIMES, VIDEO_TIMES = np.arange(100) / 50, np.arange(60) / 30


def dynamics(audio, video):
    return FeatureDynamics(AUDIO_TIMES, audio(AUDIO_TIMES), VIDEO_TIMES, video(VIDEO_TIMES))


def test_a_movement_agrees_with_itself_at_any_rate_and_not_with_its_mirror():
    wave = lambda times: np.sin(2 * np.pi * 0.9 * times)  # noqa: E731
    assert dynamics(wave, wave).sign_agreement() > 0.95
    assert dynamics(wave, lambda times: -wave(times)).sign_agreement() < 0.05


def test_unrelated_movements_agree_half_the_time():
    generator = np.random.default_rng(0)
    noise = lambda times: generator.normal(size=len(times))  # noqa: E731
    assert np.mean([dynamics(noise, noise).sign_agreement() for _ in range(50)]) == pytest.approx(0.5, abs=0.05)


def test_streams_that_never_meet_are_refused():
    late = FeatureDynamics(AUDIO_TIMES, AUDIO_TIMES, VIDEO_TIMES + 10, VIDEO_TIMES)
    with pytest.raises(ValueError, match="share 0.00 s"):
        late.sign_agreement()


def test_dynamics_are_the_magnitudes_of_the_shared_features(make_clip, tmp_path):
    config = aver_config()
    model, processor = aver_model(config), AverProcessor.from_config(config)
    clips = [make_clip(0.4), make_clip(0.3)]
    batch = processor(*([clip[name] for clip in clips] for name in ("audio", "action_units")), sampling_rate=16_000)
    long, short = feature_dynamics(model, batch)
    assert len(short.video) == 9 and len(long.video) == 12
    projected = model.aver.video_projection(batch["action_units"][1, :9]).norm(dim=-1).detach().numpy()
    np.testing.assert_allclose(short.video, (projected - projected.min()) / np.ptp(projected), atol=1e-5)
    np.testing.assert_allclose(short.video_timestamps, np.arange(9) / 30, atol=1e-6)
    assert (long.audio.min(), long.audio.max()) == (0, 1)
    plot_feature_dynamics({"clip": long}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
