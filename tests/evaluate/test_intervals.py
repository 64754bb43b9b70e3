"""Intervals over speakers by the jackknife and the t distribution."""

import math

import numpy as np
import pytest
from scipy import stats

from evaluate import confusions, intervals
from evaluate.intervals import Clusters, Floats, Interval

CONFIDENCE = 0.95


def with_ones(values: Floats) -> Floats:
    return np.stack([values, np.ones_like(values)], axis=1)


def interval_of(sums: Floats) -> Interval:
    return intervals.estimate(sums, intervals.ratio, sums[:, 1]).interval(CONFIDENCE)


def test_speakers_are_clusters_and_a_single_speaker_is_not() -> None:
    several = intervals.by_speaker_or_row(["b", "a", "b"])
    assert (several.codes.tolist(), several.count, several.num_speakers) == ([1, 0, 1], 2, 2)
    single = intervals.by_speaker_or_row(["a", "a", "a"])
    assert (single.codes.tolist(), single.count, single.num_speakers) == ([0, 1, 2], 3, 1)
    assert intervals.by_speaker(["a", "a"]).count == 1


@pytest.mark.parametrize("num_speakers", [2, 4, 30])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_of_a_mean_over_speakers_is_that_of_the_t_test(num_speakers: int, confidence: float) -> None:
    values = np.random.default_rng(num_speakers).normal(2, 1, num_speakers)
    found = intervals.estimate(with_ones(values) * 7, intervals.ratio, np.full(num_speakers, 7.0)).interval(confidence)
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_error_of_a_ratio_is_near_that_of_its_linear_approximation() -> None:
    rng = np.random.default_rng(5)
    tokens = rng.integers(50, 200, 500).astype(float)
    kl = rng.normal(1.5, 0.2, 500)
    found = intervals.estimate(np.stack([kl * tokens, tokens], axis=1), intervals.ratio, tokens)
    residuals = (kl - found.value) * tokens / tokens.mean()
    assert found.error == pytest.approx(residuals.std(ddof=1) / math.sqrt(500), rel=0.01)


def test_the_jackknife_leaves_out_each_speaker_once() -> None:
    counts = np.random.default_rng(1).integers(1, 9, (5, 3, 4)).astype(float)
    found = intervals.estimate(counts, confusions.macro_f1, np.ones(5))
    scores = [float(confusions.macro_f1(np.delete(counts, i, axis=0).sum(axis=0))) for i in range(5)]
    whole = float(confusions.macro_f1(counts.sum(axis=0)))
    assert (found.value, found.freedom) == (whole, 4)
    assert found.error == pytest.approx(math.sqrt(4 / 5 * sum((score - whole) ** 2 for score in scores)))


def test_rows_that_agree_within_a_speaker_widen_the_interval() -> None:
    values = with_ones(np.repeat([1.0, 0.0], 100))
    by = intervals.by_speaker([f"speaker {i // 20}" for i in range(200)])
    by_row, by_cluster = interval_of(values), interval_of(intervals.sum_by_cluster(values, by))
    assert by_cluster.high - by_cluster.low > 3 * (by_row.high - by_row.low)


def test_a_constant_difference_has_a_narrow_paired_interval() -> None:
    base = np.random.default_rng(0).normal(2, 1, 20)
    sums = np.concatenate([with_ones(base + 0.1), with_ones(base)], axis=1)
    found = intervals.estimate(sums, intervals.difference_of_ratios, np.ones(20)).interval(CONFIDENCE)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_speakers_of_unequal_size_count_as_fewer_equal_ones() -> None:
    sums = with_ones(np.array([1.0, 2, 3, 4]))
    sizes = np.array([1.0, 1, 1, 3])
    found = intervals.estimate(sums, intervals.ratio, sizes)
    assert found.freedom == pytest.approx(36 / 12 - 1)
    half = stats.t.ppf(0.975, 2) * found.error
    interval = found.interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((2.5 - half, 2.5 + half))
    assert intervals.estimate(sums, intervals.ratio, np.array([1.0, 1, 1, 999])).freedom == 1


def test_a_single_cluster_excludes_nothing() -> None:
    assert interval_of(np.array([[3.0, 2.0]])) == Interval(-math.inf, math.inf)


def test_the_sums_of_a_cluster_are_those_of_its_rows() -> None:
    by = Clusters(np.array([1, 0, 1]), 2, 2)
    assert intervals.sum_by_cluster(np.array([[1.0, 2], [3, 4], [5, 6]]), by).tolist() == [[3, 4], [6, 8]]
