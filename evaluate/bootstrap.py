"""Scores, and their intervals by a bootstrap over speakers.

Results on clips of one speaker are correlated, so the bootstrap draws whole speakers (clusters) with replacement. Every
score here is a function of sums over clips. So a resample is a weighted sum of the cluster sums, and thousands of
resamples are computed by one matrix product.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

CHUNK_CELLS = 4_000_000  # resamples x clusters that are drawn at once, 32 MB
KEPT_CELLS = 50_000_000  # resamples x clusters that are kept for the next system, 200 MB


@dataclass(frozen=True, slots=True)
class Resampling:
    """The settings of a bootstrap; `confidence` is the coverage of its intervals, 0.95 for 95 %."""

    seed: int
    resamples: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Interval:
    """The bounds of a percentile bootstrap interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Clusters:
    """The cluster number of each row, from 0, the number of clusters, and the number of speakers."""

    codes: Ints
    count: int
    num_speakers: int


def clusters(speakers: Sequence[str]) -> Clusters:
    """Make each speaker a cluster; with fewer than two speakers, make each row a cluster."""
    names, codes = np.unique(np.asarray(speakers), return_inverse=True)
    if len(names) < 2:
        return Clusters(np.arange(len(speakers)), len(speakers), len(names))
    return Clusters(codes, len(names), len(names))


def sum_by_cluster(values: Floats, by: Clusters) -> Floats:
    """Sum `values` (rows, columns) over the rows of each cluster: (clusters, columns)."""
    sums = np.zeros((by.count, values.shape[1]))
    np.add.at(sums, by.codes, values)
    return sums


def bootstrap(sums: Floats, statistic: Callable[[Floats], Floats], how: Resampling) -> Interval:
    """Draw clusters with replacement and return the interval of `statistic`.

    `sums` is (clusters, columns); `statistic` maps (resamples, columns) to (resamples,).
    """
    if len(sums) < 2:  # a single cluster excludes nothing
        return Interval(-math.inf, math.inf)
    draws = _kept_draws if how.resamples * len(sums) <= KEPT_CELLS else _draws
    drawn = [statistic(weights @ sums) for weights in draws(how, len(sums))]
    tail = (1 - how.confidence) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return Interval(float(low), float(high))


def _draws(how: Resampling, count: int) -> Iterator[Int32s]:
    """Yield how often each resample draws each of `count` clusters, in chunks of (resamples, clusters)."""
    rng = np.random.default_rng(how.seed)
    chunk = max(1, CHUNK_CELLS // count)
    for start in range(0, how.resamples, chunk):
        size = min(chunk, how.resamples - start)
        yield rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.int32)


@lru_cache(maxsize=1)
def _kept_draws(how: Resampling, count: int) -> list[Int32s]:
    """Return `_draws`, and keep them: one system after another is scored on the same clusters."""
    return list(_draws(how, count))


def count_confusions(truth: Ints, predicted: Ints, num_classes: int, by: Clusters) -> Floats:
    """Count (truth, prediction) pairs per cluster: (clusters, K, K + 1).

    A prediction of -1 is an answer that names no class; it is counted in the last column.
    """
    counts = np.zeros((by.count, num_classes, num_classes + 1))
    np.add.at(counts, (by.codes, truth, np.where(predicted < 0, num_classes, predicted)), 1)
    return counts


def unweighted_accuracy(confusions: Floats) -> Floats:
    """Return the mean recall of the classes present in confusions (..., K, K + 1); unparsable answers are wrong."""
    totals = confusions.sum(axis=-1)
    recalls = np.divide(_hits(confusions), totals, out=np.zeros_like(totals), where=totals > 0)
    return np.asarray(recalls.sum(axis=-1) / (totals > 0).sum(axis=-1))


def weighted_accuracy(confusions: Floats) -> Floats:
    """Return the share of rows with the right prediction in confusions (..., K, K + 1)."""
    return np.asarray(_hits(confusions).sum(axis=-1) / confusions.sum(axis=(-2, -1)))


def macro_f1(confusions: Floats) -> Floats:
    """Return the mean F1 of the classes present in confusions (..., K, K + 1); a class never predicted has 0."""
    totals = confusions.sum(axis=-1)
    f1 = 2 * _hits(confusions) / np.maximum(totals + confusions.sum(axis=-2)[..., :-1], 1)
    return np.asarray(np.where(totals > 0, f1, 0).sum(axis=-1) / (totals > 0).sum(axis=-1))


def ratio(sums: Floats) -> Floats:
    """Return the weighted mean from sums (..., 2): weighted total, weight."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def difference_of_ratios(sums: Floats) -> Floats:
    """Return the first weighted mean minus the second, from sums (..., 4): total, weight, total, weight."""
    return ratio(sums[..., :2]) - ratio(sums[..., 2:])


def _hits(confusions: Floats) -> Floats:
    return np.diagonal(confusions, axis1=-2, axis2=-1)
