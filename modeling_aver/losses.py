"""Cross-temporal matching: frames that are near in time shall be alike (eq. 6-11)."""

import torch
import torch.nn.functional as F


def cross_temporal_matching_loss(
    audio_embeds, video_embeds, audio_timestamps, video_timestamps, audio_mask, video_mask, *, sigma, temperature
):
    """
    Cross-entropy between who is *near in time* and who is *alike*, both ways (eq. 6-11).

    Computed in float32 (in float64 for float64 embeddings), under autocast too.

    Args:
        audio_embeds (`torch.Tensor` of shape `(batch_size, num_audio_frames, projection_dim)`):
            Any length; normalized here to unit vectors.
        video_embeds (`torch.Tensor` of shape `(batch_size, num_video_frames, projection_dim)`):
            Likewise.
        audio_timestamps, video_timestamps (`torch.Tensor` of shape `(num_frames,)` or `(batch_size, num_frames)`):
            Seconds on one common clock.
        audio_mask, video_mask (`torch.BoolTensor` of shape `(batch_size, num_frames)`):
            `True` for real frames. Padding neither asks nor answers: it enters no softmax and no mean.
        sigma (`float`):
            Standard deviation of the affinity (eq. 6), in seconds.
        temperature (`float`):
            Divides the similarities before the softmax (eq. 7-8).

    Returns:
        `torch.Tensor`: a scalar, the mean over the batch, in nats. Never below the mean entropy of the target
        distributions, which is its value where `similarity / temperature` equals the log-affinity up to a constant.
        A clip that lacks a stream has nothing to match and counts as 0.

    Raises:
        `ValueError`: if `sigma` or `temperature` is not positive, or if shapes do not belong together.
    """
    for name, value in {"sigma": sigma, "temperature": temperature}.items():
        if not value > 0:
            raise ValueError(f"`{name}` ({value}) must be positive.")
    _check_shapes("audio", audio_embeds, audio_timestamps, audio_mask)
    _check_shapes("video", video_embeds, video_timestamps, video_mask)
    if audio_embeds.shape[0] != video_embeds.shape[0] or audio_embeds.shape[2] != video_embeds.shape[2]:
        raise ValueError(
            f"`audio_embeds` {tuple(audio_embeds.shape)} and `video_embeds` {tuple(video_embeds.shape)} must agree in "
            "batch size and in projection size."
        )
    audio_mask, video_mask = audio_mask.bool(), video_mask.bool()

    with torch.autocast(device_type=audio_embeds.device.type, enabled=False):
        audio_units = _unit_vectors(audio_embeds, audio_mask)
        video_units = _unit_vectors(video_embeds, video_mask)
        scores = torch.einsum("bid,bjd->bij", audio_units / temperature, video_units)  # s_ij / τ
        audio_seconds = _on_the_clock(audio_timestamps, audio_mask)
        video_seconds = _on_the_clock(video_timestamps, video_mask)
        gaps = (audio_seconds[:, :, None] - video_seconds[:, None, :]).to(scores.dtype)
        # The softmax of log g *is* g divided by its sum (eq. 7-8), and it cannot underflow.
        log_affinity = gaps.square_().mul_(-1 / (2 * sigma**2))  # log g_ij, eq. 6
        # In place, for these two are the largest tensors. Padding that asks is not counted, so one mask serves both
        # directions. It is finite, so that a clip without keys gives numbers and not NaN.
        padding = ~(audio_mask[:, :, None] & video_mask[:, None, :])
        scores, log_affinity = (
            values.masked_fill_(padding, torch.finfo(values.dtype).min) for values in (scores, log_affinity)
        )
        has_both = audio_mask.any(dim=1, keepdim=True) & video_mask.any(dim=1, keepdim=True)
        audio_to_video = _matching_cross_entropy(scores, log_affinity, audio_mask & has_both, dim=2)  # eq. 9
        video_to_audio = _matching_cross_entropy(scores, log_affinity, video_mask & has_both, dim=1)  # eq. 10
        return (audio_to_video + video_to_audio).mean() / 2  # eq. 11


def _matching_cross_entropy(scores, log_affinity, counted, dim):
    """Mean over the `counted (B, T_q)` queries of CrossEntropy(q, p), keys along `dim`; one number a clip: `(B,)`."""
    cross_entropy = -(log_affinity.softmax(dim) * scores.log_softmax(dim)).sum(dim)  # -Σ_j q_ij log p_ij
    return cross_entropy.masked_fill(~counted, 0.0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def _unit_vectors(embeds, mask):
    """Padding is zeroed before anything is computed from it: it has no value, no NaN and no gradient."""
    wide = embeds.to(torch.promote_types(embeds.dtype, torch.float32))
    return F.normalize(wide.masked_fill(~mask[..., None], 0.0), dim=-1)


def _on_the_clock(timestamps, mask):
    """Seconds of shape `(batch_size, num_frames)`, 0 on padding; float64 stays: an hour's offset costs nothing."""
    wide = timestamps.to(torch.promote_types(timestamps.dtype, torch.float32))
    return wide.expand(mask.shape).masked_fill(~mask, 0.0)


def _check_shapes(stream, embeds, timestamps, mask):
    expected = tuple(embeds.shape[:2])
    if tuple(mask.shape) != expected:
        raise ValueError(f"`{stream}_mask` must have the shape {expected} of the frames, but has {tuple(mask.shape)}.")
    if tuple(timestamps.shape) not in (expected, expected[1:]):
        raise ValueError(
            f"`{stream}_timestamps` must have the shape {expected[1:]} or {expected}, but has "
            f"{tuple(timestamps.shape)}."
        )
