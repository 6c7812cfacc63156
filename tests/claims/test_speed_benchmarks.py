"""Benchmarks of speed: that contenders compute the same thing, that the ruler measures, and that their floors hold."""

import gc
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import ctm_loss  # noqa: E402
import fusion_encoder  # noqa: E402
import whole_model  # noqa: E402
from side_by_side import Ratio, interleave, peak_mebibytes  # noqa: E402

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "position_embedding_type": "none"}


@pytest.fixture
def quick_collections():
    """`interleave` collects garbage before each measurement; all that the other tests hold need not be walked."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("quick_collections")
def test_rounds_call_each_contender_once_in_changing_order_and_time_it():
    calls = []

    def work(name, seconds):
        calls.append(name)
        time.sleep(seconds)

    times = interleave({"long": lambda: work("long", 0.02), "short": lambda: work("short", 0.01)}, rounds=4)
    rounds = [tuple(calls[2:][start : start + 2]) for start in range(0, 8, 2)]  # the first two warmed up
    assert set(rounds) == {("long", "short"), ("short", "long")}
    assert len(times["long"]) == len(times["short"]) == 4
    assert 1.4 < Ratio.of(times["long"], times["short"]).median < 2.6


def test_a_ratio_is_taken_within_each_round():
    ratio = Ratio.of([2.0, 20.0, 600.0], [1.0, 10.0, 100.0])
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.0, 4.0)


def allocation(mebibytes):
    return lambda: np.ones(mebibytes << 20, dtype=np.uint8).sum()


@pytest.mark.slow  # a process of its own imports torch
def test_the_peak_of_a_known_allocation():
    assert peak_mebibytes(allocation, 64) == pytest.approx(64, abs=8)


@pytest.mark.parametrize("work", ["inference", "training"])
def test_without_positions_both_encoders_compute_the_same(work):
    sizes = {**TINY, "dropout": 0.0}
    torch.manual_seed(0)
    ours = fusion_encoder.FusionEncoder(fusion_encoder.config(initializer_range=0.2, **sizes)).train(
        work == "training"
    )
    theirs = fusion_encoder.torch_encoder(ours).train(work == "training")
    assert sum(value.numel() for value in theirs.parameters()) == ours.num_parameters()
    *inputs, audio_mask, video_mask = fusion_encoder.streams(3, 1, width=32)
    mask = torch.cat([audio_mask, video_mask], dim=1)
    assert not mask.all()
    with torch.set_grad_enabled(work == "training"):
        fused = fusion_encoder.fused_tokens(ours(*inputs, audio_mask, video_mask))
        expected = theirs(torch.cat(inputs[:2], dim=1), src_key_padding_mask=~mask)
    torch.testing.assert_close(fused[mask], expected[mask], atol=1e-5, rtol=0)


def test_all_shapes_and_kinds_of_the_grid_are_covered():
    cells = fusion_encoder.CELLS
    assert {cell.batch for cell in cells} == {1, 4, 32}
    assert {cell.seconds for cell in cells} == {1, 3, 30}
    assert {(cell.work, cell.dtype, cell.compiled) for cell in cells} >= {
        ("inference", "fp32", False),
        ("training", "fp32", False),
        ("inference", "bf16", False),
        ("inference", "fp32", True),
    }
    assert len({str(cell) for cell in cells}) == len(cells)


def test_rotations_are_equal_up_to_the_order_of_channels():
    calls = fusion_encoder.rotations(2, 7)
    ours, llama = calls["ours"](), calls["transformers' Llama"]()
    for mine, theirs in zip(ours, llama, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_rotation_of_adjacent_pairs_is_ours_in_another_order():
    rotary_embedding_torch = pytest.importorskip("rotary_embedding_torch")
    states = torch.randn(2, 3, 7, 64, generator=torch.Generator().manual_seed(0))
    interleaved = torch.stack(states.chunk(2, dim=-1), dim=-1).flatten(-2)  # (i, i + 32) side by side
    theirs = rotary_embedding_torch.RotaryEmbedding(dim=64).rotate_queries_or_keys(interleaved)
    ours = fusion_encoder.rotate(states, fusion_encoder.rotary_angles(torch.arange(7), 64))
    torch.testing.assert_close(torch.cat([theirs[..., ::2], theirs[..., 1::2]], dim=-1), ours, atol=1e-5, rtol=0)


def test_the_loop_over_clips_has_our_loss_and_our_gradients():
    arguments = ctm_loss.clips(1, batch=3)
    embeds = arguments[:2]
    values = [ctm_loss.ours(*arguments), ctm_loss.loop(*arguments)]
    torch.testing.assert_close(values[0], values[1], atol=1e-5, rtol=0)
    gradients = [torch.autograd.grad(value, embeds) for value in values]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


def test_info_nce_asks_for_the_frame_nearest_in_time():
    """Where each frame is most alike the one at its own time the loss is small, and shifted by a second it is not."""
    channels = torch.eye(128)[:60]
    audio, video = channels[None, :50], channels[None, torch.arange(30) * 50 // 30]
    assert ctm_loss.info_nce(audio, video) < ctm_loss.info_nce(audio.flip(1), video) - 1


def test_whole_models_share_their_encoder_and_train_the_same_of_it():
    models = whole_model.build_models(small=True)
    encoders = [
        models["ours"].aver.audio_encoder,
        models["audio encoder"],
        models["audio classifier"].wav2vec2,
    ]
    parameters = [
        {name: (value.data_ptr(), value.requires_grad) for name, value in encoder.named_parameters()}
        for encoder in encoders
    ]
    assert parameters[0] == parameters[1] == parameters[2]
    assert {trains for _, trains in parameters[0].values()} == {True, False}


def results(name):
    path = BENCHMARKS / "results" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path.name} is written by `python benchmarks/{name}.py`")
    return json.loads(path.read_text())


def test_the_fusion_encoder_holds_its_floor():
    found = results("fusion_encoder")
    for row in found["encoders"] + found["rotations"]:
        times = row["seconds_a_call"]
        for other in times.keys() - {"ours"}:
            assert Ratio.of(times["ours"], times[other]).median <= 1.10, (row["name"], other)


def test_the_whole_model_holds_its_floor():
    found = results("whole_model")
    assert "--small" not in found["command"]
    for work, times in found["seconds_a_call"].items():
        for other in ("audio encoder", "audio classifier"):
            assert Ratio.of(times["ours"], times[other]).median <= 1.06, (work, other)


def test_the_matching_loss_holds_its_floors():
    for row in results("ctm_loss")["rows"]:
        held = ctm_loss.LIMITS if row["seconds"] <= ctm_loss.HELD_SECONDS else {}
        for other, (_, floor) in held.items():
            times = row["seconds_a_call"]
            assert Ratio.of(times["ours"], times[other]).median <= floor, (row["seconds"], other)
        assert row["value"]["ours"] == pytest.approx(row["value"]["loop"], abs=1e-5)
