import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_aver.losses import cross_temporal_matching_loss

SIGMA, TEMPERATURE = 0.5, 0.07


def loops(audio, video, audio_times, video_times, sigma=SIGMA, temperature=TEMPERATURE):
    """Eq. 6-11 for one clip as they stand on the page, in float64."""
    unit = lambda row: row / np.sqrt((row**2).sum())  # noqa: E731
    similarity = np.zeros((len(audio), len(video)))
    affinity = np.zeros_like(similarity)
    for i in range(len(audio)):
        for j in range(len(video)):
            similarity[i, j] = unit(audio[i]) @ unit(video[j])
            affinity[i, j] = math.exp(-((audio_times[i] - video_times[j]) ** 2) / (2 * sigma**2))
    audio_to_video = video_to_audio = 0.0
    for i in range(len(audio)):
        denominator = sum(math.exp(similarity[i, j] / temperature) for j in range(len(video)))
        for j in range(len(video)):
            q = affinity[i, j] / affinity[i].sum()
            audio_to_video -= q * math.log(math.exp(similarity[i, j] / temperature) / denominator) / len(audio)
    for j in range(len(video)):
        denominator = sum(math.exp(similarity[i, j] / temperature) for i in range(len(audio)))
        for i in range(len(audio)):
            q = affinity[i, j] / affinity[:, j].sum()
            video_to_audio -= q * math.log(math.exp(similarity[i, j] / temperature) / denominator) / len(video)
    return (audio_to_video + video_to_audio) / 2


def ragged_batch(audio_lengths, video_lengths, seed=0, fill=0.0, dtype=torch.float64):
    """Clips of different lengths, padded with `fill`, on clocks of their own."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"audio": audio_lengths, "video": video_lengths}
    embeds, times, masks = {}, {}, {}
    for stream, lengths in sizes.items():
        shape = (len(lengths), max(lengths))
        masks[stream] = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
        embeds[stream] = torch.randn(*shape, 5, generator=generator, dtype=dtype)
        embeds[stream][~masks[stream]] = fill
        times[stream] = torch.rand(shape, generator=generator, dtype=dtype).cumsum(dim=1) / 5
        times[stream][~masks[stream]] = fill
    return tuple(part[stream] for part in (embeds, times, masks) for stream in ("audio", "video"))


def loss_of(batch, **values):
    return cross_temporal_matching_loss(*batch, **{"sigma": SIGMA, "temperature": TEMPERATURE, **values})


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 5)), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    sigma=st.floats(0.05, 3.0),
    temperature=st.floats(0.05, 2.0),
)
def test_it_equals_plain_loops_over_the_equations(lengths, seed, sigma, temperature):
    batch = ragged_batch(*zip(*lengths, strict=True), seed=seed)
    clips = [
        loops(
            *(part[index, :length].numpy() for part, length in zip(batch[:4], (a, v, a, v), strict=True)),
            sigma,
            temperature,
        )
        for index, (a, v) in enumerate(lengths)
    ]
    assert loss_of(batch, sigma=sigma, temperature=temperature).item() == pytest.approx(np.mean(clips), abs=1e-6)


@pytest.mark.parametrize("fill", [1e6, math.nan, math.inf])
def test_padding_has_no_value_and_no_gradient(fill):
    clean = ragged_batch([6, 3], [4, 2])
    dirty = ragged_batch([6, 3], [4, 2], fill=fill)
    for batch in (clean, dirty):
        for embeds in batch[:2]:
            embeds.requires_grad_()
    loss_of(clean).backward()
    loss_of(dirty).backward()
    assert loss_of(clean).item() == loss_of(dirty).item()
    for ours, theirs, mask in zip(clean[:2], dirty[:2], clean[4:], strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
        assert ours.grad[mask].abs().max() > 0
        assert ours.grad[~mask].abs().max() == 0


def test_swapping_the_streams_changes_nothing():
    audio, video, audio_times, video_times, audio_mask, video_mask = batch = ragged_batch([6, 3], [4, 2])
    swapped = (video, audio, video_times, audio_times, video_mask, audio_mask)
    torch.testing.assert_close(loss_of(batch), loss_of(swapped))


def target_entropy(audio_times, video_times, sigma=SIGMA):
    """Mean entropy of q of eq. 7-8, both ways, in nats."""
    affinity = np.exp(-((audio_times[:, None] - video_times[None]) ** 2) / (2 * sigma**2))
    rows, columns = affinity / affinity.sum(1, keepdims=True), affinity / affinity.sum(0, keepdims=True)
    return (-(rows * np.log(rows)).sum(1).mean() - (columns * np.log(columns)).sum(0).mean()) / 2


@settings(max_examples=25, deadline=None)
@given(num_audio=st.integers(1, 9), num_video=st.integers(1, 9), seed=st.integers(0, 1000))
def test_it_is_never_below_the_entropy_of_the_targets(num_audio, num_video, seed):
    batch = ragged_batch([num_audio], [num_video], seed=seed)
    assert loss_of(batch).item() >= target_entropy(batch[2][0].numpy(), batch[3][0].numpy()) - 1e-9


def test_embeddings_that_follow_time_reach_the_entropy_of_the_targets():
    """Points on a circle at angle t √τ / σ have cosine 1 - gap² τ / 2σ² up to gap⁴: the log-affinity, shifted."""
    audio_times, video_times = (torch.arange(n, dtype=torch.float64) / rate for n, rate in ((10, 50), (6, 30)))
    angles = [times * math.sqrt(TEMPERATURE) / SIGMA for times in (audio_times, video_times)]
    embeds = [torch.stack([angle.cos(), angle.sin()], dim=-1)[None] for angle in angles]
    masks = [torch.ones(1, len(times), dtype=torch.bool) for times in (audio_times, video_times)]
    loss = loss_of((*embeds, audio_times, video_times, *masks)).item()
    assert loss == pytest.approx(target_entropy(audio_times.numpy(), video_times.numpy()), abs=1e-7)


def test_a_clip_without_video_counts_as_zero():
    batch = ragged_batch([6, 3], [4, 2])
    both = loss_of(batch)
    first = loss_of(tuple(part[:1] for part in batch))
    batch[5][1] = False
    assert loss_of(batch).item() == pytest.approx(first.item() / 2)
    assert both.item() != pytest.approx(first.item() / 2)


def test_a_stream_without_any_frame_gives_zero_and_not_nan():
    audio, _, audio_times, _, audio_mask, _ = ragged_batch([6, 3], [4, 2])
    nothing = torch.zeros(2, 0, dtype=torch.bool)
    loss = loss_of((audio, audio[:, :0], audio_times, audio_times[:, :0], audio_mask, nothing))
    assert loss.item() == 0


def test_an_hour_of_offset_changes_nothing():
    batch = ragged_batch([6, 3], [4, 2])
    later = (*batch[:2], batch[2] + 3600.0, batch[3] + 3600.0, *batch[4:])
    torch.testing.assert_close(loss_of(batch), loss_of(later), atol=1e-9, rtol=0)


def test_half_precision_embeddings_and_autocast_are_computed_in_float32():
    batch = ragged_batch([6, 3], [4, 2], dtype=torch.float32)
    half = (*(part.bfloat16() for part in batch[:2]), *batch[2:])
    rounded = (*(part.float() for part in half[:2]), *batch[2:])
    assert loss_of(half).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss_of(half), loss_of(rounded), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["sigma", "temperature"])
def test_scales_must_be_positive(name):
    with pytest.raises(ValueError, match=f"`{name}` \\(0.0\\) must be positive"):
        loss_of(ragged_batch([2], [2]), **{name: 0.0})


def test_shapes_that_do_not_belong_together_are_named():
    batch = ragged_batch([6, 3], [4, 2])
    with pytest.raises(ValueError, match=r"`audio_mask` must have the shape \(2, 6\).*\(2, 5\)"):
        loss_of((*batch[:4], batch[4][:, :5], batch[5]))
    with pytest.raises(ValueError, match="`video_timestamps` must have the shape"):
        loss_of((*batch[:3], batch[3][:, :1], *batch[4:]))
    with pytest.raises(ValueError, match="must agree in batch size"):
        loss_of((batch[0][:1], batch[1], batch[2][:1], batch[3], batch[4][:1], batch[5]))
