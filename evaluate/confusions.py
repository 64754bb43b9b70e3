"""Confusions by speaker, and the scores that they give."""

import numpy as np

from evaluate.intervals import Clusters, Floats, Ints, Statistic


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
    return np.asarray(np.where(totals > 0, _f1(confusions), 0).sum(axis=-1) / (totals > 0).sum(axis=-1))


def weighted_f1(confusions: Floats) -> Floats:
    """Return the mean F1 of the classes in confusions (..., K, K + 1), weighted by their rows."""
    totals = confusions.sum(axis=-1)
    return np.asarray((_f1(confusions) * totals).sum(axis=-1) / totals.sum(axis=-1))


SCORES: dict[str, Statistic] = {
    "ua": unweighted_accuracy, "wa": weighted_accuracy, "macro_f1": macro_f1, "weighted_f1": weighted_f1,
}  # fmt: skip
"""Name of a score in metrics.json: its function."""


def _f1(confusions: Floats) -> Floats:
    """Return the F1 of each class: (..., K)."""
    found = confusions.sum(axis=-1) + confusions.sum(axis=-2)[..., :-1]
    return np.asarray(2 * _hits(confusions) / np.maximum(found, 1))


def _hits(confusions: Floats) -> Floats:
    return np.diagonal(confusions, axis1=-2, axis2=-1)
