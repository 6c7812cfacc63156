import math

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from modeling_aver.positions import frame_timestamps, rotary_angles, rotate, sinusoids


def test_timestamps_are_index_over_rate():
    torch.testing.assert_close(frame_timestamps(4, 50.0), torch.tensor([0.0, 0.02, 0.04, 0.06]))
    assert frame_timestamps(3, 30).dtype == torch.float32


@pytest.mark.parametrize("frame_rate", [0.0, -30.0, math.nan])
def test_a_rate_that_is_not_positive_is_refused(frame_rate):
    with pytest.raises(ValueError, match="`frame_rate`.*must be a positive"):
        frame_timestamps(3, frame_rate)


def test_angles_by_hand():
    angles = rotary_angles(torch.tensor([0.0, 2.0]), head_dim=4, base=100.0)
    torch.testing.assert_close(angles, torch.tensor([[0.0, 0.0], [2.0, 0.2]]))


def test_a_quarter_turn_moves_the_first_half_into_the_second():
    states = torch.tensor([[3.0, 5.0]])
    torch.testing.assert_close(rotate(states, torch.tensor([[math.pi / 2]])), torch.tensor([[-5.0, 3.0]]))


def test_rotation_equals_that_of_transformers():
    states = torch.randn(2, 3, 11, 8, generator=torch.Generator().manual_seed(0))
    angles = rotary_angles(torch.arange(11), head_dim=8)
    doubled = torch.cat([angles, angles], dim=-1)[None]
    theirs, _ = apply_rotary_pos_emb(states, states, doubled.cos(), doubled.sin())
    torch.testing.assert_close(rotate(states, angles), theirs, atol=1e-6, rtol=0)


def test_products_depend_only_on_the_distance_of_positions():
    query, key = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def product(at_query, at_key):
        turned = [
            rotate(states, rotary_angles(torch.tensor([float(at)]), 16))
            for states, at in ((query, at_query), (key, at_key))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(3.0, 7.5), product(103.0, 107.5), atol=1e-4, rtol=0)
    assert not torch.isclose(product(3.0, 7.5), product(3.0, 7.0), atol=1e-4)


@pytest.mark.parametrize("frame_rate", [25.0, 29.97, 30.0, 60.0])
def test_video_of_any_rate_sits_on_the_audio_clock(frame_rate):
    """Eq. 5: frame m turns by m θ_v with θ_v = (η_a / η_v) θ_a, here written out in float64."""
    angles = rotary_angles(frame_timestamps(90, frame_rate) * 50.0, head_dim=8)
    theta_a = 10_000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    theta_v = 50.0 / frame_rate * theta_a
    expected = torch.arange(90, dtype=torch.float64)[:, None] * theta_v
    torch.testing.assert_close(angles.double(), expected, atol=2e-5, rtol=0)


def test_frames_of_the_same_moment_turn_alike():
    """0.6 s is frame 15 at 25 Hz, 18 at 30 Hz, 36 at 60 Hz and audio frame 30 at 50 Hz."""
    angles = [rotary_angles(frame_timestamps(40, rate) * 50.0, 8)[at] for rate, at in ((25, 15), (30, 18), (60, 36))]
    for angle in angles:
        torch.testing.assert_close(angle, rotary_angles(torch.tensor(30.0), 8), atol=1e-5, rtol=0)


def test_sinusoids_by_hand():
    encoding = sinusoids(torch.tensor([0.0, 1.0]), dim=4, base=100.0)
    expected = [[0.0, 1.0, 0.0, 1.0], [math.sin(1), math.cos(1), math.sin(0.1), math.cos(0.1)]]
    torch.testing.assert_close(encoding, torch.tensor(expected))
