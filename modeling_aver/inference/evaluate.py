"""A model's answers to a dataset."""

import numpy as np
import torch
from rich.progress import track
from torch.utils.data import DataLoader

from ..training.collation import AverDataCollator


@torch.inference_mode()
def predict_logits(model, processor, dataset, batch_size=8):
    """
    Logits of every clip, with a progress bar.

    Args:
        model ([`AverForEmotionClassification`]): Runs where it is, in evaluation mode.
        processor ([`AverProcessor`]): The one that the model was trained with.
        dataset (`datasets.Dataset`): Rows of the documented schema.
        batch_size (`int`, *optional*, defaults to 8): Clips at a time.

    Returns:
        `np.ndarray` of shape `(num_clips, num_labels)`: float32, in the dataset's order.
    """
    model.eval()
    batches = DataLoader(dataset, batch_size=batch_size, collate_fn=AverDataCollator(processor))
    logits = []
    for batch in track(batches, description="clips", transient=True):
        batch.pop("labels", None)
        logits.append(model(**batch.to(model.device)).logits.float().cpu().numpy())
    return np.concatenate(logits)
