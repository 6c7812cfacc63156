"""Scores of emotion recognition as an `evaluate.Metric` that needs no network."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, recall_score

_DESCRIPTION = """
WAR (weighted average recall) is the share of clips that are right: accuracy, the paper's number. UAR (unweighted
average recall) is the mean over emotions of the share of each emotion's clips that are right, and does not reward
guessing the frequent ones. Macro F1 is the mean over emotions of F1. All are in [0, 1]; higher is better.
"""


class EmotionScores(evaluate.Metric):
    """
    `war`, `uar` and `macro_f1` of predicted emotions.

    Emotions that occur in no reference count for neither UAR nor macro F1: a fold without an emotion is not punished.

    Example:

    ```python
    >>> EmotionScores().compute(predictions=[0, 1, 1, 1], references=[0, 1, 1, 2])
    {'war': 0.75, 'uar': 0.6666666666666666, 'macro_f1': 0.6}
    ```
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description="`predictions` and `references`: integers, one a clip.",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")},
            ),
        )

    def _compute(self, predictions, references):
        present = np.unique(references)
        return {
            "war": float(np.mean(np.asarray(predictions) == np.asarray(references))),
            "uar": float(recall_score(references, predictions, labels=present, average="macro", zero_division=0)),
            "macro_f1": float(f1_score(references, predictions, labels=present, average="macro", zero_division=0)),
        }


def compute_metrics(prediction):
    """Scores for `Trainer`: `prediction` is an `EvalPrediction` of logits `(num_clips, num_labels)` and labels."""
    scores = EmotionScores()
    return scores.compute(predictions=prediction.predictions.argmax(axis=-1), references=prediction.label_ids)


def confusion(predictions, references, num_labels):
    """Counts `(num_labels, num_labels)`: row = true emotion, column = predicted emotion."""
    return confusion_matrix(references, predictions, labels=np.arange(num_labels))
