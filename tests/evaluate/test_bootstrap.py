"""Scores against scikit-learn, and what the bootstrap over speakers does."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from evaluate import bootstrap
from evaluate.bootstrap import Floats, Ints, Resampling

HOW = Resampling(seed=1, resamples=10_000, confidence=0.95)


def confusions(truth: Ints, predicted: Ints, num_classes: int) -> Floats:
    by = bootstrap.Clusters(np.zeros_like(truth), count=1, num_speakers=1)
    counts: Floats = bootstrap.count_confusions(truth, predicted, num_classes, by)[0]
    return counts


@pytest.mark.parametrize("absent", [None, 2])
def test_scores_equal_those_of_scikit_learn(absent: int | None) -> None:
    rng = np.random.default_rng(3)
    truth, predicted = rng.integers(0, 5, 300), rng.integers(-1, 5, 300)
    keep = truth != (-9 if absent is None else absent)
    truth, predicted = truth[keep], predicted[keep]
    counts = confusions(truth, predicted, 5)
    present = sorted(set(truth.tolist()))
    recall = sklearn_metrics.recall_score(truth, predicted, labels=present, average="macro", zero_division=0)
    f1 = sklearn_metrics.f1_score(truth, predicted, labels=present, average="macro", zero_division=0)
    assert bootstrap.unweighted_accuracy(counts) == pytest.approx(recall)
    assert bootstrap.macro_f1(counts) == pytest.approx(f1)
    assert bootstrap.weighted_accuracy(counts) == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))


def test_unparsable_answers_are_counted_apart_and_wrong() -> None:
    counts = confusions(np.array([0, 0, 1]), np.array([0, -1, 1]), 2)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert bootstrap.unweighted_accuracy(counts) == pytest.approx(0.75)


def test_speakers_are_clusters_and_a_single_speaker_is_not() -> None:
    several = bootstrap.clusters(["b", "a", "b"])
    assert (several.codes.tolist(), several.count, several.num_speakers) == ([1, 0, 1], 2, 2)
    single = bootstrap.clusters(["a", "a", "a"])
    assert (single.codes.tolist(), single.count, single.num_speakers) == ([0, 1, 2], 3, 1)


def test_the_interval_of_independent_rows_is_the_textbook_one() -> None:
    values = np.random.default_rng(0).normal(2, 1, 400)
    sums = np.stack([values, np.ones_like(values)], axis=1)
    interval = bootstrap.bootstrap(sums, bootstrap.ratio, HOW)
    error = values.std() / 20
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_rows_that_agree_within_a_speaker_widen_the_interval() -> None:
    speakers = [f"speaker {i // 20}" for i in range(200)]
    right = np.repeat([1.0, 0.0], 100)
    values = np.stack([right, np.ones(200)], axis=1)
    by_row = bootstrap.bootstrap(values, bootstrap.ratio, HOW)
    by = bootstrap.clusters(speakers)
    by_speaker = bootstrap.bootstrap(bootstrap.sum_by_cluster(values, by), bootstrap.ratio, HOW)
    assert by_speaker.high - by_speaker.low > 3 * (by_row.high - by_row.low)


def test_a_constant_difference_has_a_narrow_paired_interval() -> None:
    base = np.random.default_rng(0).normal(2, 1, 20)
    ones = np.ones_like(base)
    sums = np.stack([base + 0.1, ones, base, ones], axis=1)
    interval = bootstrap.bootstrap(sums, bootstrap.difference_of_ratios, HOW)
    assert (interval.low, interval.high) == pytest.approx((0.1, 0.1))


def test_chunks_change_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(0).random((7, 2)) + 1
    whole = bootstrap.bootstrap(sums, bootstrap.ratio, HOW)
    monkeypatch.setattr(bootstrap, "CHUNK_CELLS", 700)
    assert bootstrap.bootstrap(sums, bootstrap.ratio, HOW) == whole


def test_a_resample_without_a_class_averages_over_the_others() -> None:
    counts = np.array([[[3.0, 1, 0], [0, 0, 0]], [[1, 1, 0], [0, 4, 0]]])
    assert bootstrap.unweighted_accuracy(counts).tolist() == [0.75, 0.75]


@pytest.mark.parametrize("limit", ["KEPT_CELLS", "CHUNK_CELLS"])
def test_an_interval_depends_neither_on_what_is_kept_nor_on_the_chunks(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = np.random.default_rng(2).random((30, 2))
    expected = [bootstrap.bootstrap(part, bootstrap.ratio, HOW) for part in (sums, sums[:7], sums)]
    monkeypatch.setattr(bootstrap, limit, 20_000)
    bootstrap._kept_draws.cache_clear()
    assert [bootstrap.bootstrap(part, bootstrap.ratio, HOW) for part in (sums, sums[:7], sums)] == expected
