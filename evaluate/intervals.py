"""Estimates and their intervals over speakers: leave-one-speaker-out jackknife and t distribution.

Results on clips of one speaker are correlated, so the speakers (clusters) are the sample, not the clips. Every score is
a function of sums over clips. So a score without one cluster needs only a subtraction. The variance is CV3 of
MacKinnon, Nielsen and Webb (2023, Fast and reliable jackknife and bootstrap methods for cluster-robust inference):
(n - 1) / n times the sum of squared differences between the scores without one of n clusters and the score. The degrees
of freedom are the effective number of clusters (Kish 1965, Survey sampling) minus 1: clusters of unequal size tell less
than as many equal ones. For a mean over clusters of equal size, the interval is that of the t test over their means.
benchmarks.coverage measures how often the intervals hold the true value.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Statistic = Callable[[Floats], Floats]
"""A score from sums: it maps (..., *columns) to (...)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The bounds of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score, its standard error, and the degrees of freedom of its t distribution; 0 for a single cluster."""

    value: float
    error: float
    freedom: float

    def interval(self, confidence: float) -> Interval:
        """Return the interval with this coverage, 0.95 for 95 %; a single cluster excludes nothing."""
        if self.freedom == 0:
            return Interval(-math.inf, math.inf)
        half = float(special.stdtrit(self.freedom, (1 + confidence) / 2)) * self.error
        return Interval(self.value - half, self.value + half)


@dataclass(frozen=True, slots=True)
class Clusters:
    """The cluster number of each row, from 0, the number of clusters, and the number of speakers."""

    codes: Ints
    count: int
    num_speakers: int


def by_speaker(speakers: Sequence[str]) -> Clusters:
    """Make each speaker a cluster."""
    names, codes = np.unique(np.asarray(speakers), return_inverse=True)
    return Clusters(codes, len(names), len(names))


def by_speaker_or_row(speakers: Sequence[str]) -> Clusters:
    """Make each speaker a cluster; with fewer than two speakers, make each row a cluster."""
    by = by_speaker(speakers)
    return by if by.count > 1 else Clusters(np.arange(len(speakers)), len(speakers), by.count)


def sum_by_cluster(values: Floats, by: Clusters) -> Floats:
    """Sum `values` (rows, columns) over the rows of each cluster: (clusters, columns)."""
    sums = np.zeros((by.count, values.shape[1]))
    np.add.at(sums, by.codes, values)
    return sums


def estimate(sums: Floats, statistic: Statistic, sizes: Floats) -> Estimate:
    """Return the statistic of all clusters and its jackknife standard error, from sums (clusters, *columns).

    `sizes` are the clips or the tokens of each cluster.
    """
    total, count = sums.sum(axis=0), len(sums)
    value = float(statistic(total))
    if count < 2:
        return Estimate(value, math.inf, 0)
    without_one = statistic(total - sums)
    error = math.sqrt((count - 1) / count * ((without_one - value) ** 2).sum())
    effective = float(sizes.sum() ** 2 / (sizes @ sizes))
    return Estimate(value, error, max(effective - 1, 1))


def ratio(sums: Floats) -> Floats:
    """Return the weighted mean from sums (..., 2): weighted total, weight."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def difference_of_ratios(sums: Floats) -> Floats:
    """Return the first weighted mean minus the second, from sums (..., 4): total, weight, total, weight."""
    return ratio(sums[..., :2]) - ratio(sums[..., 2:])
