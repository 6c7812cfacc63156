"""
Last batches that several processes share evenly: what is missing is filled up with clips that count for nothing.

Accelerate fills up with clips of the epoch's beginning, which then count twice: two processes would train other
weights than one, and average another loss.
"""

from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, Dataset

from ..modeling_aver import IGNORED_LABEL


class ClipsWithFillers(Dataset):
    """
    Clips as they are, and each again as a filler: index `~i` is clip `i` without its label and, if it has sound, with
    every video frame masked. It enters neither the classification loss nor CTM (a clip without a stream has nothing to
    match), nor the number of clips that both are divided by; yet the network runs over both of its streams, for
    processes that train together have to use the same weights.

    Args:
        dataset (`datasets.Dataset`): Rows of the documented schema.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        if index >= 0:
            return self.dataset[index]
        row = self.dataset[~index]
        audio = row["audio"]
        if audio is not None and (audio["bytes"] or audio["path"]):
            row["action_units_success"] = [False] * len(row["action_units"] or ())
        return {**row, "label": IGNORED_LABEL}


class FilledBatches(BatchSampler):
    """
    The batches of an epoch, filled up with fillers so that every process gets as many, all of one size.

    Args:
        batch_sampler (`BatchSampler`): The batches of all processes, one after the other.
        multiple (`int`): Number of batches that the processes take at a time.
    """

    def __init__(self, batch_sampler, multiple):
        self.batch_sampler, self.multiple = batch_sampler, multiple
        self.batch_size, self.drop_last = batch_sampler.batch_size, batch_sampler.drop_last

    def __len__(self):
        return len(self.batch_sampler) + -len(self.batch_sampler) % self.multiple

    def __iter__(self):
        batch = []
        for batch in self.batch_sampler:
            yield batch + [~batch[-1]] * (self.batch_size - len(batch))
        for _ in range(-len(self.batch_sampler) % self.multiple):
            yield [~batch[-1]] * self.batch_size


def fill_last_batches(dataloader):
    """
    Has the batches of a prepared data loader over [`ClipsWithFillers`] filled up, where accelerate deals them out to
    several processes and none are dropped.
    """
    shard = dataloader.batch_sampler
    if isinstance(shard, BatchSamplerShard) and shard.num_processes > 1 and not shard.drop_last:
        shard.batch_sampler = FilledBatches(shard.batch_sampler, 1 if shard.split_batches else shard.num_processes)
