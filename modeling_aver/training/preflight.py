"""A dry pass before the hours are spent: one batch there and back, and one save."""

import contextlib
import random
import shutil

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from safetensors import SafetensorError
from transformers import TrainerCallback

MOMENTS = 2  # numbers that AdamW keeps for each weight that it trains


class Rehearsal(TrainerCallback):
    """
    Before the first step, runs the longest clips forward and backward, and saves the model and removes it again. What
    would stop the training hours later stops it here. Weights, gradients and generators stay as they are.

    Args:
        trainer ([`AverTrainer`]): The one whose training this is.
    """

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        """
        Raises:
            `ValueError`: if the batch does not fit into memory. `OSError`: if a checkpoint does not fit on the disk.
        """
        with unchanged_generators():
            rehearse_step(self.trainer)
            rehearse_save(self.trainer)


@contextlib.contextmanager
def unchanged_generators():
    """Random numbers that are drawn inside are drawn again after: of Python, numpy, and torch on every device."""
    python, of_numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        yield
    random.setstate(python)
    np.random.set_state(of_numpy)


def rehearse_step(trainer):
    """Forward and backward of the batch of the longest clips; its gradients and its part of the log are dropped."""
    args, dataset = trainer.args, trainer.train_dataset
    longest = _longest(dataset, args.per_device_train_batch_size)
    batch = trainer.data_collator([dataset[index] for index in longest])
    trainer.current_gradient_accumulation_steps = 1
    try:
        trainer.training_step(trainer.model_wrapped, batch, torch.tensor(len(longest), device=args.device))
    except (RuntimeError, MemoryError) as error:
        # Trainer itself looks for a smaller batch where `auto_find_batch_size` is set.
        if args.auto_find_batch_size or not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
            raise
        raise ValueError(
            f"`per_device_train_batch_size` ({args.per_device_train_batch_size}) does not fit into memory with the "
            f"longest clips{_seconds(dataset, longest)}. Halve it and double `gradient_accumulation_steps`; "
            f"`--bf16` and `--activation_checkpointing` help too. It said: {str(error).splitlines()[0]}"
        ) from error
    finally:
        trainer.model_wrapped.zero_grad()
        trainer.loss_sums["train"] = {}


def _longest(dataset, count):
    """Indices of the longest clips of a dataset, where it says how long they are."""
    if "audio_duration" not in dataset.column_names:
        return range(min(count, len(dataset)))
    return np.argsort([-(seconds or 0.0) for seconds in dataset["audio_duration"]], kind="stable")[:count].tolist()


def _seconds(dataset, indices):
    if "audio_duration" not in dataset.column_names:
        return ""
    return f" (up to {max(dataset.select(indices)['audio_duration']):.1f} s)"


def rehearse_save(trainer):
    """Saves the model beside the checkpoints-to-be, removes it, and asks whether the disk holds the checkpoints."""
    try:
        folder = trainer.clean_aside() / "rehearsal"
        trainer.save_model(str(folder), _internal_call=True)
        if trainer.args.should_save:
            _check_space(trainer, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
    except (OSError, SafetensorError) as error:
        raise OSError(f"`output_dir` ({trainer.args.output_dir}) cannot hold a checkpoint: {error}") from error
    finally:
        trainer.drop_aside()


def _check_space(trainer, model_bytes):
    """A new checkpoint is written before an old one goes, so there has to be room for it beside what is saved now."""
    args = trainer.args
    if args.save_strategy == "no":
        return
    trained = sum(parameter.nbytes for parameter in trainer.model.parameters() if parameter.requires_grad)
    needed = model_bytes + (0 if args.save_only_model else MOMENTS * trained)
    free = shutil.disk_usage(args.output_dir).free + model_bytes  # what is saved now goes again
    if free < needed:
        raise OSError(
            f"it takes {needed / 1e9:.2f} GB with the optimizer's state, and {free / 1e9:.2f} GB are free. Free some, "
            "name another folder, or train with `--save_strategy no`."
        )
