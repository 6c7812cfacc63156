"""Scores by hand, against scikit-learn, and as the two libraries that call them want them."""

import re
from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, recall_score
from transformers import EvalPrediction

import modeling_aver.evaluation.metrics
from modeling_aver.evaluation.metrics import (
    EmotionScores,
    compute_metrics,
    confusion,
    recall_of_counts,
    scores_of_counts,
)

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@pytest.fixture
def scores():
    metric = EmotionScores(keep_in_memory=True)
    return lambda predictions, references, **kwargs: metric.compute(
        predictions=predictions, references=references, **kwargs
    )


def test_scores_by_hand(scores):
    """Emotion 0: one of one right. Emotion 1: two of two. Emotion 2: none of one, answered as 1."""
    assert scores([0, 1, 1, 1], [0, 1, 1, 2]) == pytest.approx(
        {"war": 3 / 4, "uar": 2 / 3, "macro_f1": (1 + 0.8 + 0) / 3, "weighted_f1": (1 + 2 * 0.8 + 0) / 4}
    )


def test_an_emotion_that_is_never_predicted_counts_as_missed(scores):
    assert scores([0, 0, 0, 0], [0, 0, 0, 1])["uar"] == 0.5


def test_an_emotion_that_does_not_occur_counts_for_nothing(scores):
    assert scores([0, 1, 2], [0, 1, 1]) == pytest.approx(
        {"war": 2 / 3, "uar": (1 + 0.5) / 2, "macro_f1": (1 + 2 / 3) / 2, "weighted_f1": (1 + 2 * 2 / 3) / 3}
    )


def test_guessing_the_frequent_emotion_raises_war_and_leaves_uar_at_chance(scores):
    result = scores([0] * 100, [0] * 97 + [1, 2, 3])
    assert result["war"] == 0.97 and result["uar"] == 0.25


def test_the_example_of_the_docstring_is_true(scores):
    example = re.search(r"(\{'war'.*\})", EmotionScores.__doc__).group(1)
    assert str(scores([0, 1, 1, 1], [0, 1, 1, 2])) == example


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_scores_equal_those_of_scikit_learn(pairs):
    predictions, references = map(list, zip(*pairs, strict=True))
    present = sorted(set(references))
    average = {"labels": present, "zero_division": 0}
    result = scores_of_counts(confusion(predictions, references, 5))
    assert result == pytest.approx(
        {
            "war": np.mean(np.equal(predictions, references)),
            "uar": recall_score(references, predictions, average="macro", **average),
            "macro_f1": f1_score(references, predictions, average="macro", **average),
            "weighted_f1": f1_score(references, predictions, average="weighted", **average),
        },
        abs=1e-12,
    )


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_scores_stay_between_0_and_1_and_weighted_recall_is_war(pairs):
    predictions, references = map(list, zip(*pairs, strict=True))
    counts = confusion(predictions, references, 5)
    result = scores_of_counts(counts)
    assert all(0 <= value <= 1 for value in result.values())
    assert result["war"] == pytest.approx(np.nansum(recall_of_counts(counts) * counts.sum(axis=1)) / len(pairs))


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.permutations(range(5)))
def test_renaming_the_emotions_changes_no_score(pairs, names):
    predictions, references = map(list, zip(*pairs, strict=True))
    renamed = confusion([names[i] for i in predictions], [names[i] for i in references], 5)
    assert scores_of_counts(renamed) == pytest.approx(scores_of_counts(confusion(predictions, references, 5)))


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_the_confusion_matrix_equals_that_of_scikit_learn(pairs):
    predictions, references = map(list, zip(*pairs, strict=True))
    expected = confusion_matrix(references, predictions, labels=range(5))
    np.testing.assert_array_equal(confusion(predictions, references, 5), expected)


def test_many_tables_at_once_score_as_each_alone():
    tables = np.random.default_rng(0).integers(0, 9, size=(3, 4, 5, 5))
    together = scores_of_counts(tables)
    for index in np.ndindex(3, 4):
        assert {name: values[index] for name, values in together.items()} == pytest.approx(
            scores_of_counts(tables[index])
        )


def test_a_row_of_the_confusion_matrix_is_a_true_emotion():
    np.testing.assert_array_equal(confusion([1, 1, 0], [0, 1, 0], 2), [[1, 1], [0, 1]])


def test_with_the_number_of_emotions_there_are_recalls_and_counts(scores):
    result = scores([0, 1, 1, 0], [0, 1, 0, 0], num_labels=3)
    assert result["recall"] == [pytest.approx(2 / 3), 1.0, None]
    assert result["confusion"] == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_trainer_gets_scores_of_logits_and_nothing_but_floats():
    prediction = EvalPrediction(predictions=np.array([[2.0, 1.0], [0.0, 3.0]]), label_ids=np.array([0, 0]))
    result = compute_metrics(prediction)
    assert result["war"] == 0.5
    assert list(result) == ["war", "uar", "macro_f1", "weighted_f1"]
    assert {type(value) for value in result.values()} == {float}


def test_batches_added_one_by_one_score_as_all_at_once(scores):
    metric = EmotionScores(keep_in_memory=True)
    metric.add_batch(predictions=[0, 1], references=[0, 1])
    metric.add(prediction=1, reference=2)
    assert metric.compute() == scores([0, 1, 1], [0, 1, 2])


def test_the_file_loads_by_its_path_as_any_metric_of_evaluate(scores):
    loaded = evaluate.load(str(Path(modeling_aver.evaluation.metrics.__file__)), keep_in_memory=True)
    assert loaded.compute(predictions=[0, 1, 1], references=[0, 1, 2]) == scores([0, 1, 1], [0, 1, 2])


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([0, 1], [0, 2], r"`references` must lie between 0 and 1, but one is 2\."),
        ([0, 2], [0, 1], r"`predictions` must lie between 0 and 1, but one is 2\."),
        ([0, 1], [0, -100], r"`references` must lie between 0 and 1, but one is -100\."),
        ([0, 1], [0], r"There are 2 `predictions` and 1 `references`: give one of each for every clip"),
        ([], [], r"There are 0 `predictions` and 0 `references`: .* at least one clip"),
    ],
)
def test_values_that_name_no_emotion_are_refused(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        confusion(predictions, references, 2)
