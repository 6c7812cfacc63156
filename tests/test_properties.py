"""What holds for every input: splits, the clock, masks, and tables that are written and read again."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import aver_config

from datasets_scripts.splits import cut_validation
from modeling_aver.encoder import FusionEncoder
from modeling_aver.features.base import FaceTrack, FeatureIdentity
from modeling_aver.features.tables import read_features, write_features
from modeling_aver.losses import cross_temporal_matching_loss
from modeling_aver.positions import frame_timestamps, rotary_angles, rotate

quick = settings(max_examples=25, deadline=None)
SPEAKERS = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=2, max_size=12, unique=True)
CLIPS = SPEAKERS.flatmap(
    lambda names: st.lists(st.integers(1, 4), min_size=len(names), max_size=len(names)).map(
        lambda counts: {f"{name}-{i}": name for name, count in zip(names, counts, strict=True) for i in range(count)}
    )
)


@quick
@given(clips=CLIPS, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 9), random=st.randoms(use_true_random=False))
def test_a_cut_is_whole_disjoint_by_speaker_and_the_same_in_any_order(clips, fraction, seed, random):
    train, validation = cut_validation(sorted(clips), clips, fraction, seed)
    assert sorted(train + validation) == sorted(clips) and train and validation
    assert not {clips[clip] for clip in train} & {clips[clip] for clip in validation}
    shuffled = random.sample(sorted(clips), len(clips))
    assert [set(part) for part in cut_validation(shuffled, clips, fraction, seed)] == [set(train), set(validation)]


@quick
@given(clips=CLIPS, seed=st.integers(0, 9), data=st.data())
def test_a_missing_clip_moves_no_speaker(clips, seed, data):
    missing = data.draw(st.sampled_from(sorted(clips)))
    fewer = {clip: speaker for clip, speaker in clips.items() if clip != missing}
    if set(fewer.values()) != set(clips.values()):
        return
    held_out = [{some[clip] for clip in cut_validation(sorted(some), some, 0.3, seed)[1]} for some in (clips, fewer)]
    assert held_out[0] == held_out[1]


@quick
@given(num_frames=st.integers(1, 2000), rate=st.floats(0.5, 240.0))
def test_the_clock_starts_at_zero_ticks_evenly_and_never_stands_still(num_frames, rate):
    seconds = frame_timestamps(num_frames, rate).double()
    assert seconds[0] == 0 and (seconds.diff() > 0).all()
    torch.testing.assert_close(seconds * rate, torch.arange(num_frames).double(), atol=1e-3, rtol=1e-6)


@quick
@given(
    times=st.lists(st.floats(0.0, 10.0), min_size=2, max_size=6),
    shift=st.floats(-30.0, 30.0),
    seed=st.integers(0, 99),
)
def test_shifting_both_clocks_changes_no_score(times, shift, seed):
    torch.manual_seed(seed)
    states, positions = torch.randn(len(times), 8, dtype=torch.float64), torch.tensor(times, dtype=torch.float64) * 50

    def scores(at):
        turned = rotate(states, rotary_angles(at, 8))
        return turned @ turned.T

    torch.testing.assert_close(scores(positions + 50 * shift), scores(positions), atol=2e-3, rtol=0)


@quick
@given(
    lengths=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5)), min_size=1, max_size=3),
    layers=st.lists(st.sampled_from(["msa", "isa", "ica"]), max_size=2),
    filling=st.sampled_from([0.0, 1e4, -3.0]),
)
def test_padding_of_any_length_and_content_is_heard_by_no_real_frame(lengths, layers, filling):
    lengths = [(audio, video) if audio + video else (1, 0) for audio, video in lengths]
    torch.manual_seed(0)
    encoder = FusionEncoder(aver_config(fusion_layers=layers)).eval()
    audio, video = torch.randn(len(lengths), 9, 32), torch.randn(len(lengths), 6, 32)
    masks = [
        torch.arange(size) < torch.tensor(column)[:, None]
        for size, column in zip((9, 6), zip(*lengths, strict=True), strict=True)
    ]
    clocks = frame_timestamps(9, 50.0), frame_timestamps(6, 30.0)

    def fused(fill):
        streams = [
            states.masked_fill(~mask[..., None], fill) for states, mask in zip((audio, video), masks, strict=True)
        ]
        with torch.no_grad():
            out = encoder(*streams, *clocks, *masks)
        return [
            states[mask]
            for states, mask in zip((out.audio_hidden_states, out.video_hidden_states), masks, strict=True)
        ]

    for one, other in zip(fused(filling), fused(0.5), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@quick
@given(order=st.permutations(range(4)), seed=st.integers(0, 99))
def test_the_matching_loss_does_not_depend_on_the_order_of_clips_and_masked_frames_have_no_gradient(order, seed):
    torch.manual_seed(seed)
    embeds = [torch.nn.functional.normalize(torch.randn(4, size, 5), dim=-1) for size in (6, 4)]
    clocks = [frame_timestamps(size, rate).expand(4, -1) for size, rate in ((6, 50.0), (4, 30.0))]
    masks = [torch.rand(4, size) > 0.3 for size in (6, 4)]

    def loss(rows):
        parts = [part[rows] for part in (*embeds, *clocks, *masks)]
        return cross_temporal_matching_loss(*parts, sigma=0.5, temperature=0.07)

    torch.testing.assert_close(loss(list(order)), loss([0, 1, 2, 3]))
    embeds = [values.requires_grad_() for values in embeds]
    loss([0, 1, 2, 3]).backward()
    for values, mask in zip(embeds, masks, strict=True):
        assert values.grad[~mask].abs().sum() == 0 and values.grad.isfinite().all()


@quick
@given(
    num_frames=st.integers(1, 40),
    width=st.integers(1, 9),
    seed=st.integers(0, 99),
    suffix=st.sampled_from([".npz", ".parquet"]),
)
def test_a_table_that_was_written_is_read_as_it_was(num_frames, width, seed, suffix):
    generator = np.random.default_rng(seed)
    success = generator.random(num_frames) > 0.2
    features = np.where(success[:, None], generator.normal(size=(num_frames, width)), 0).astype(np.float32)
    identity = FeatureIdentity("made up", "1", {"a": 1}, tuple(f"f{i}" for i in range(width)))
    track = FaceTrack(np.sort(generator.random(num_frames)), features, success, identity)
    with tempfile.TemporaryDirectory() as folder:
        write_features(Path(folder) / f"clip{suffix}", track)
        read = read_features(Path(folder) / f"clip{suffix}")
    for mine, theirs in zip(track, read, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert read.identity == identity
