"""The order of the clips: that of an epoch depends on the seed and the epoch alone, so that a resumed run keeps it."""

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback


class EpochSampler(Sampler):
    """
    A sampler that draws anew for each epoch, and the same in every process and after any interruption.

    Args:
        sampler (`Sampler`): One that draws by its `generator`, which transformers leaves to chance.
        seed (`int`): Of the run.
    """

    def __init__(self, sampler, seed):
        self.sampler, self.seed, self.epoch = sampler, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.sampler)

    def __iter__(self):
        self.sampler.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(self.sampler)


class EpochOfSampler(TrainerCallback):
    """
    Tells the sampler its epoch, however deep it lies. Accelerate 1.4 does not where batches are skipped, and a run
    resumed within an epoch would see other clips.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        level = train_dataloader.batch_sampler
        while hasattr(level, "batch_sampler"):
            level = level.batch_sampler
        if hasattr(level.sampler, "set_epoch"):
            level.sampler.set_epoch(int(state.epoch))
