"""Passes of the frozen audio encoder over a dataset: to fill the feature cache, and to take statistics."""

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list
from torch.utils.data import DataLoader

from ..io.progress import count_progress
from .collation import AverDataCollator
from .feature_cache import clip_key

CLIPS_IN_A_FILE = 64


def fill_cache(cache, model, processor, datasets, batch_size=8, num_workers=0):
    """
    Encodes the clips that a feature cache lacks; processes share the work, and each clip is encoded once. Broken off,
    it goes on where it stopped.

    Args:
        cache ([`FeatureCache`]): Of this model.
        model ([`AverModel`]): Runs where this process computes, in evaluation mode.
        processor ([`AverProcessor`]): Its processor.
        datasets (`list[datasets.Dataset]`): Rows of the documented schema.
        batch_size (`int`, *optional*, defaults to 8): Clips at a time.
        num_workers (`int`, *optional*, defaults to 0): Processes that decode sound beside each encoding one.
    """
    state = PartialState()
    for dataset in datasets:
        missing = [_missing(cache, dataset) if state.is_main_process else None]
        broadcast_object_list(missing)  # one list for all: an entry that appears meanwhile must not shift the shares
        rows, keys = missing[0]
        files = [slice(start, start + CLIPS_IN_A_FILE) for start in range(0, len(rows), CLIPS_IN_A_FILE)]
        mine = files[state.process_index :: state.num_processes]
        frames = _encoded(model, processor, dataset, [rows[part] for part in mine], batch_size, num_workers)
        total = sum(len(rows[part]) for part in mine)
        with count_progress("encoding sound", total, disable=not (mine and state.is_local_main_process)) as advance:
            frames = _counted(frames, advance)
            for part in mine:
                cache.write(dict(zip(keys[part], frames, strict=False)))
        state.wait_for_everyone()
        cache.refresh()


def _missing(cache, dataset):
    """Rows and their keys, the longest first, for neighbours are padded to one length."""
    found = {}
    for row, clip in enumerate(dataset.select_columns(["audio"])):
        if (key := clip_key(clip)) is not None:
            found.setdefault(key, row)
    cache.drop_damaged(found)
    found = {key: row for key, row in found.items() if key not in cache}
    durations = dataset["audio_duration"] if "audio_duration" in dataset.column_names else [0] * len(dataset)
    order = sorted(found.items(), key=lambda item: (-durations[item[1]], item[1]))
    return [row for _, row in order], [key for key, _ in order]


def _counted(frames, advance):
    for one in frames:
        advance()
        yield one


def _encoded(model, processor, dataset, files, batch_size, num_workers):
    """Frames of each clip of `files` (rows of the dataset) in turn, without padding."""
    batches = [rows[start : start + batch_size] for rows in files for start in range(0, len(rows), batch_size)]
    collator = AverDataCollator(processor)  # of both streams, for it also checks that they belong together
    for batch in DataLoader(dataset, batch_sampler=batches, collate_fn=collator, num_workers=num_workers):
        for frames, mask in zip(*encode(model, batch), strict=True):
            yield frames[mask]


@torch.inference_mode()
def encode(model, batch):
    """
    Frames of a batch, made now or kept from before.

    Args:
        model ([`AverModel`]), batch (`BatchFeature`): See [`AverDataCollator`].

    Returns:
        `tuple`: `audio_frames` `(B, T, L, C)` and their mask `(B, T)`, bool; `None` where nobody has sound.
    """
    if "audio_frames" in batch:
        return batch["audio_frames"].to(model.device), batch["audio_frames_mask"].bool().to(model.device)
    name = model.config.audio_input_name
    if name not in batch:
        return None
    was_training = model.training
    model.eval()
    frames = model.encode_audio(**{part: batch[part].to(model.device) for part in (name, "attention_mask")})
    model.train(was_training)
    return frames


def fit_audio_standardization(model, collator, dataset, batch_size=8):
    """
    Puts mean and deviation of each channel over the real frames of the *training* clips into the model. One process
    reads the clips, the others get its numbers.

    Args:
        model ([`AverModel`]): With `audio_normalization="standardize"`.
        collator ([`AverDataCollator`]): With a feature cache or without.
        dataset (`datasets.Dataset`): The training clips.
        batch_size (`int`, *optional*, defaults to 8): Clips at a time.

    Raises:
        `ValueError`: if no training clip has sound.
    """
    layer = model.audio_standardization
    if PartialState().is_main_process:
        statistics = RunningStatistics(layer.mean.shape)
        batches = DataLoader(dataset, batch_size=batch_size, collate_fn=collator)
        sizes = [min(batch_size, len(dataset) - start) for start in range(0, len(dataset), batch_size)]
        with count_progress("statistics of the training clips", len(dataset)) as advance:
            for size, batch in zip(sizes, batches, strict=True):
                if (encoded := encode(model, batch)) is not None:
                    frames, mask = encoded
                    statistics.add(frames[mask].cpu())
                advance(size)
        layer.set_statistics(*statistics.mean_and_deviation())
    if PartialState().num_processes > 1:
        layer.to(PartialState().device)
        layer.set_statistics(broadcast(layer.mean.clone()), broadcast(layer.std.clone()))


class RunningStatistics:
    """
    Mean and deviation of values that come in parts, in one pass and in float64 (Chan's update, no cancellation).

    Args:
        shape (`tuple[int, ...]`): Of one value.
    """

    def __init__(self, shape):
        self.count = 0
        self.mean = torch.zeros(shape, dtype=torch.float64)
        self.scatter = torch.zeros(shape, dtype=torch.float64)

    def add(self, values):
        """`values` `(num_values, *shape)`; none is fine."""
        if len(values) == 0:
            return
        values = values.double()
        mean, total = values.mean(dim=0), self.count + len(values)
        self.scatter += ((values - mean) ** 2).sum(dim=0) + (mean - self.mean) ** 2 * self.count * len(values) / total
        self.mean += (mean - self.mean) * len(values) / total
        self.count = total

    def mean_and_deviation(self):
        """Both of the given shape, float32. Raises `ValueError` where nothing came."""
        if self.count == 0:
            raise ValueError(
                "No training clip has sound: there is nothing to take statistics of. Give `audio_normalization` none."
            )
        return self.mean.float(), (self.scatter / self.count).sqrt().float()
