"""
Scores of emotion recognition, all of them read from the confusion counts, as an `evaluate.Metric` without a network.

With C the counts (row = true emotion i, column = answer j), n their sum, and the emotions that occur i = 1 … m:

    recall_i    = C_ii / Σ_j C_ij
    WAR         = Σ_i C_ii / n                      accuracy: the recalls weighted by how often each emotion occurs
    UAR         = Σ_i recall_i / m                  what guessing the frequent emotions cannot raise
    F1_i        = 2 C_ii / (Σ_j C_ij + Σ_j C_ji)
    macro F1    = Σ_i F1_i / m
    weighted F1 = Σ_i F1_i Σ_j C_ij / n
"""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
WAR (weighted average recall) is the share of clips that are right: accuracy, the paper's number. UAR (unweighted
average recall) is the mean over emotions of the share of each emotion's clips that are right, and does not reward
guessing the frequent ones. Macro F1 is the mean over emotions of F1, weighted F1 the same mean weighted by how many
clips each emotion has. All are in [0, 1]; higher is better.
"""


class EmotionScores(evaluate.Metric):
    """
    `war`, `uar`, `macro_f1` and `weighted_f1` of predicted emotions, each in [0, 1]; formulas at the top of this file.

    Emotions that occur in no reference count for neither UAR nor F1: a fold without an emotion is not punished.

    Example:

    ```python
    >>> EmotionScores().compute(predictions=[0, 1, 1, 1], references=[0, 1, 1, 2])
    {'war': 0.75, 'uar': 0.6666666666666666, 'macro_f1': 0.6, 'weighted_f1': 0.65}
    >>> EmotionScores().compute(predictions=[0, 1, 1, 1], references=[0, 1, 1, 2], num_labels=3)["recall"]
    [1.0, 1.0, 0.0]
    ```

    With `num_labels` there are also `recall` (a list; `None` for an emotion that does not occur) and `confusion`
    (nested lists, row = true emotion).
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=(
                "`predictions` and `references`: integers from 0, one a clip. `num_labels`, optional: how many "
                "emotions there are, for `recall` and `confusion`."
            ),
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")},
            ),
        )

    def _compute(self, predictions, references, num_labels=None):
        counts = confusion(predictions, references, num_labels)
        scores = {name: float(value) for name, value in scores_of_counts(counts).items()}
        if num_labels is None:
            return scores
        recall = [None if np.isnan(value) else float(value) for value in recall_of_counts(counts)]
        return {**scores, "recall": recall, "confusion": counts.tolist()}


def compute_metrics(prediction):
    """
    Scores for `Trainer`, as floats in [0, 1].

    Args:
        prediction (`transformers.EvalPrediction`): Logits of shape `(num_clips, num_labels)` and as many labels.
    """
    counts = confusion(prediction.predictions.argmax(axis=-1), prediction.label_ids)
    return {name: float(value) for name, value in scores_of_counts(counts).items()}


def confusion(predictions, references, num_labels=None):
    """
    Counts `(num_labels, num_labels)`: row = true emotion, column = predicted emotion.

    Args:
        predictions (`Sequence[int]` of length `num_clips`): The answers, from 0.
        references (`Sequence[int]` of length `num_clips`): The true emotions, from 0.
        num_labels (`int`, *optional*): How many emotions there are; without it, as many as occur.

    Raises:
        `ValueError`: if there is no clip, if the lengths differ, or if a value names no emotion.
    """
    pairs = {
        "predictions": np.asarray(predictions).reshape(-1),
        "references": np.asarray(references).reshape(-1),
    }
    sizes = {name: len(values) for name, values in pairs.items()}
    if len(set(sizes.values())) > 1 or not all(sizes.values()):
        raise ValueError(
            f"There are {sizes['predictions']} `predictions` and {sizes['references']} `references`: give one of each "
            "for every clip, and at least one clip."
        )
    if num_labels is None:
        num_labels = 1 + max(int(values.max()) for values in pairs.values())
    for name, values in pairs.items():
        outside = values[(values < 0) | (values >= num_labels)]
        if len(outside):
            raise ValueError(f"`{name}` must lie between 0 and {num_labels - 1}, but one is {outside[0]}.")
    cells = pairs["references"].astype(int) * num_labels + pairs["predictions"].astype(int)
    return np.bincount(cells, minlength=num_labels**2).reshape(num_labels, num_labels)


def recall_of_counts(counts):
    """
    The share of each emotion's clips that are right, in [0, 1]; NaN where an emotion does not occur.

    Args:
        counts (`np.ndarray` of shape `(..., num_labels, num_labels)`): See [`confusion`]; any number at once.

    Returns:
        `np.ndarray` of shape `(..., num_labels)`.
    """
    occurring = counts.sum(axis=-1)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    return np.divide(right, occurring, where=occurring > 0, out=np.full(occurring.shape, np.nan))


def scores_of_counts(counts):
    """
    `war`, `uar`, `macro_f1`, `weighted_f1`, each in [0, 1]; formulas at the top of this file.

    Args:
        counts (`np.ndarray` of shape `(..., num_labels, num_labels)`): See [`confusion`]; any number at once, each
            with at least one clip.

    Returns:
        `dict[str, np.ndarray]`: four arrays of shape `(...)`.
    """
    occurring, answered = counts.sum(axis=-1), counts.sum(axis=-2)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    num_clips, num_occurring = occurring.sum(axis=-1), (occurring > 0).sum(axis=-1)
    recall = np.nan_to_num(recall_of_counts(counts))
    f1 = 2 * right / np.maximum(occurring + answered, 1)  # 0 where an emotion does not occur
    return {
        "war": right.sum(axis=-1) / num_clips,
        "uar": recall.sum(axis=-1) / num_occurring,
        "macro_f1": f1.sum(axis=-1) / num_occurring,
        "weighted_f1": (f1 * occurring).sum(axis=-1) / num_clips,
    }
