"""Last batches: any number of processes takes the clips of one, each once, and fillers count for nothing."""

import itertools

import pytest
import torch
from accelerate.data_loader import DataLoaderShard, prepare_data_loader, skip_first_batches
from support.models import aver_config, aver_model
from torch.utils.data import BatchSampler, SequentialSampler

from datasets_scripts import SAMPLE_DIR, load_crema_d
from modeling_aver import AverProcessor
from modeling_aver.training.collation import AverDataCollator
from modeling_aver.training.even_batches import ClipsWithFillers, fill_last_batches
from modeling_aver.training.modality_dropout import drop_streams


def dealt(num_clips, batch_size, num_processes, skipped=0, **options):
    """Batches of each process, as accelerate deals them out."""
    numbers = torch.arange(num_clips)
    processes = []
    for process in range(num_processes):
        loader = torch.utils.data.DataLoader(numbers, batch_size, drop_last=options.get("drop_last", False))
        split = options.get("split_batches", False)
        loader = prepare_data_loader(loader, num_processes=num_processes, process_index=process, split_batches=split)
        fill_last_batches(loader)
        assert isinstance(loader, DataLoaderShard)
        processes.append(list(skip_first_batches(loader, skipped).batch_sampler))
    return processes


@pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
def test_each_step_has_the_clips_that_one_process_has_in_it(num_processes):
    for num_clips, batch_size in itertools.product(range(1, 14), (1, 2, 3)):
        alone = list(BatchSampler(SequentialSampler(range(num_clips)), batch_size * num_processes, drop_last=False))
        together = dealt(num_clips, batch_size, num_processes)
        for whole, parts in itertools.zip_longest(alone, zip(*together, strict=True)):
            assert [clip for part in parts for clip in part if clip >= 0] == whole
            assert num_processes == 1 or {len(part) for part in parts} == {batch_size}


def test_what_fills_up_are_fillers_of_the_last_clip():
    assert dealt(5, 2, 2) == [[[0, 1], [4, ~4]], [[2, 3], [~4, ~4]]]
    assert dealt(5, 4, 2, split_batches=True) == [[[0, 1], [4, ~4]], [[2, 3], [~4, ~4]]]
    assert dealt(5, 2, 2, skipped=1) == [[[4, ~4]], [[~4, ~4]]], "resumed within an epoch"


def test_nothing_is_filled_up_where_the_rest_is_dropped_or_one_process_is_alone():
    assert dealt(5, 2, 2, drop_last=True) == [[[0, 1]], [[2, 3]]]
    assert dealt(5, 2, 1) == [[[0, 1], [2, 3], [4]]]


@pytest.fixture(scope="module")
def clips():
    return load_crema_d(SAMPLE_DIR, name="all")["train"]


def losses_of(rows, num_clips):
    config = aver_config(num_action_units=35)
    model = aver_model(config)
    batch = AverDataCollator(AverProcessor.from_config(config))(rows)
    loss = model(**batch, num_items_in_batch=num_clips).loss
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def test_a_filler_changes_neither_loss_nor_gradient(clips):
    filled = ClipsWithFillers(clips)
    loss, gradients = losses_of([clips[0], clips[1]], 2)
    with_fillers, same = losses_of([filled[0], filled[1], filled[~1], filled[~5]], 2)
    torch.testing.assert_close(with_fillers, loss, atol=1e-6, rtol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, atol=1e-5, rtol=1e-4)


def test_a_batch_of_fillers_uses_every_weight_and_moves_none(clips):
    loss, gradients = losses_of([ClipsWithFillers(clips)[~0]] * 2, 4)
    assert loss == 0
    # DistributedDataParallel waits for the gradient of each weight, if only a zero.
    unused = [name for name, gradient in gradients.items() if gradient is None]
    assert unused == [name for name in gradients if "masked_spec_embed" in name]
    assert not [name for name, gradient in gradients.items() if gradient is not None and gradient.any()]


@pytest.mark.parametrize("without", ["sound", "video"])
def test_a_filler_of_a_clip_with_one_stream_keeps_it(clips, without):
    lost = {"audio": {"bytes": None, "path": None}} if without == "sound" else {"action_units": []}
    if without == "video":
        lost |= {"action_units_success": [], "video_timestamps": []}
    loss, _ = losses_of([ClipsWithFillers([{**clips[0], **lost}])[~0]], 1)
    assert loss == 0


def test_modality_dropout_leaves_fillers_as_they_are(clips):
    batch = AverDataCollator(AverProcessor.from_config(aver_config(num_action_units=35)))(
        [ClipsWithFillers(clips)[~0]]
    )
    dropped = drop_streams(batch, 1.0, 0.0)
    for name in ("attention_mask", "action_units_mask"):
        assert torch.equal(dropped[name], batch[name])
