"""Scores of confusions against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from evaluate import confusions
from evaluate.intervals import Clusters, Floats, Ints


def count(truth: Ints, predicted: Ints, num_classes: int) -> Floats:
    by = Clusters(np.zeros_like(truth), count=1, num_speakers=1)
    counts: Floats = confusions.count_confusions(truth, predicted, num_classes, by)[0]
    return counts


@pytest.mark.parametrize("seed", range(40))
def test_scores_equal_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_classes, num_rows = int(rng.integers(2, 7)), int(rng.integers(1, 60))
    # a class may be missing in the truth, in the predictions, or in both; -1 is unparsable
    truth = rng.choice(rng.permutation(num_classes)[: rng.integers(1, num_classes + 1)], num_rows)
    predicted = np.where(
        rng.random(num_rows) < 0.4, truth, rng.integers(-1, rng.integers(1, num_classes + 1), num_rows)
    )
    counts, present = count(truth, predicted, num_classes), sorted(set(truth.tolist()))
    of_present = {"labels": present, "zero_division": 0}
    assert counts.sum() == num_rows
    recall = sklearn_metrics.recall_score(truth, predicted, average="macro", **of_present)
    assert confusions.unweighted_accuracy(counts) == pytest.approx(recall)
    assert confusions.weighted_accuracy(counts) == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
    for name, average in (("macro_f1", "macro"), ("weighted_f1", "weighted")):
        expected = sklearn_metrics.f1_score(truth, predicted, average=average, **of_present)
        assert confusions.SCORES[name](counts) == pytest.approx(expected), name
    labels = [*range(num_classes), -1]
    assert counts.tolist() == sklearn_metrics.confusion_matrix(truth, predicted, labels=labels)[:-1].tolist()


def test_unparsable_answers_are_counted_apart_and_wrong() -> None:
    counts = count(np.array([0, 0, 1]), np.array([0, -1, 1]), 2)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert confusions.unweighted_accuracy(counts) == pytest.approx(0.75)
    assert confusions.weighted_accuracy(counts) == pytest.approx(2 / 3)


def test_scores_of_many_confusions_at_once_are_those_of_each() -> None:
    counts = np.random.default_rng(0).integers(0, 4, (6, 3, 4)).astype(float)
    counts[0, 1] = 0  # a class that is absent in one of them
    for score in confusions.SCORES.values():
        assert score(counts).tolist() == [float(score(one)) for one in counts]


def test_a_sample_without_a_class_averages_over_the_others() -> None:
    counts = np.array([[[3.0, 1, 0], [0, 0, 0]], [[1, 1, 0], [0, 4, 0]]])
    assert confusions.unweighted_accuracy(counts).tolist() == [0.75, 0.75]
