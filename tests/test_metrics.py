import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EvalPrediction

from modeling_aver.training.metrics import EmotionScores, compute_metrics, confusion


def scores(predictions, references):
    return EmotionScores().compute(predictions=predictions, references=references)


def test_scores_by_hand():
    """Emotion 0: one of one right. Emotion 1: two of two. Emotion 2: none of one, answered as 1."""
    assert scores([0, 1, 1, 1], [0, 1, 1, 2]) == pytest.approx(
        {"war": 3 / 4, "uar": 2 / 3, "macro_f1": (1 + 0.8 + 0) / 3}
    )


def test_an_emotion_that_is_never_predicted_counts_as_missed():
    assert scores([0, 0, 0, 0], [0, 0, 0, 1])["uar"] == 0.5


def test_an_emotion_that_does_not_occur_counts_for_nothing():
    assert scores([0, 1, 2], [0, 1, 1])["uar"] == pytest.approx((1 + 0.5) / 2)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_scores_follow_from_the_confusion_matrix(pairs):
    predictions, references = map(list, zip(*pairs, strict=True))
    counts = confusion(predictions, references, 4)
    recalls = [counts[i, i] / counts[i].sum() for i in range(4) if counts[i].sum()]
    result = scores(predictions, references)
    assert result["war"] == pytest.approx(np.trace(counts) / counts.sum())
    assert result["uar"] == pytest.approx(np.mean(recalls))


def test_a_row_of_the_confusion_matrix_is_a_true_emotion():
    np.testing.assert_array_equal(confusion([1, 1, 0], [0, 1, 0], 2), [[1, 1], [0, 1]])


def test_trainer_gets_scores_of_logits():
    prediction = EvalPrediction(predictions=np.array([[2.0, 1.0], [0.0, 3.0]]), label_ids=np.array([0, 0]))
    assert compute_metrics(prediction)["war"] == 0.5
