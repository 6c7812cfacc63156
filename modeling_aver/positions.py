"""One clock for two streams: timestamps in seconds, and the positional encodings of Table 3 as functions of position.

TaRoPE (eq. 4-5) turns audio frame n by n θ_a and video frame m by m θ_v with θ_v = (η_a / η_v) θ_a. Both are one rule,
`timestamp × η_a`, because n = timestamp × η_a and m η_a / η_v = timestamp × η_a. Plain RoPE (eq. 3) is the same
rotation by indices. Nothing here keeps a buffer, so nothing can be lost on the meta device or rounded by a cast.
"""

import torch


def frame_timestamps(num_frames, frame_rate, *, device=None):
    """
    Times at which frames begin: `i / frame_rate`, on a clock that starts at 0.

    Args:
        num_frames (`int`): How many frames.
        frame_rate (`float`): Frames per second, in Hz. 29.97 exists.

    Returns:
        `torch.Tensor` of shape `(num_frames,)`: seconds, float32.

    Raises:
        `ValueError`: if `frame_rate` is not positive.
    """
    if not frame_rate > 0:
        raise ValueError(f"`frame_rate` ({frame_rate}) must be a positive number of frames per second.")
    return torch.arange(num_frames, device=device, dtype=torch.float32) / frame_rate


def channel_frequencies(dim, base=10_000.0, *, device=None):
    """`base^(-2i / dim)` for i = 0 … dim/2 - 1: radians per unit of position, shape `(dim // 2,)`, float32."""
    return base ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)


def rotary_angles(positions, head_dim, base=10_000.0):
    """
    Angles of eq. 3, in radians: `position × base^(-2i / head_dim)`.

    Args:
        positions (`torch.Tensor` of shape `(..., num_frames)`):
            Indices (RoPE) or `timestamp × audio_frame_rate` (TaRoPE, eq. 4-5). Computed in float32.
        head_dim (`int`): Channels of one attention head; even.
        base (`float`, *optional*, defaults to 10000.0): θ_base.

    Returns:
        `torch.Tensor` of shape `(..., num_frames, head_dim // 2)`: float32.
    """
    return positions[..., None].float() * channel_frequencies(head_dim, base, device=positions.device)


def rotate(states, angles):
    """
    Turn each channel pair (i, i + head_dim/2), as `rotate_half` of transformers does.

    Args:
        states (`torch.Tensor` of shape `(..., num_frames, head_dim)`): Queries or keys.
        angles (`torch.Tensor` of shape `(..., num_frames, head_dim // 2)`): Radians; broadcast against `states`.

    Returns:
        `torch.Tensor` of the shape and type of `states`. Lengths do not change, and the product of a query and a key
        depends only on the difference of their positions.
    """
    both = torch.cat([-angles, angles], dim=-1)  # cos(-x) = cos(x), sin(-x) = -sin(x): one product for each half
    cos, sin = both.cos().to(states.dtype), both.sin().to(states.dtype)
    real, imaginary = states.chunk(2, dim=-1)
    return (states * cos).addcmul_(torch.cat([imaginary, real], dim=-1), sin)  # whole rows, few new tensors


def sinusoids(positions, dim, base=10_000.0):
    """
    Sinusoidal encodings (Vaswani et al. 2017, section 3.5), sines and cosines interleaved.

    Args:
        positions (`torch.Tensor` of shape `(..., num_frames)`): Indices, or any other positions.
        dim (`int`): Channels of a token; even.

    Returns:
        `torch.Tensor` of shape `(..., num_frames, dim)`: float32 in [-1, 1].
    """
    angles = rotary_angles(positions, dim, base)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
