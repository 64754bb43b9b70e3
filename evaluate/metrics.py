"""The scores of a run: accuracies and divergences by test (task and corpus) and system, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from evaluate import bootstrap
from evaluate.bootstrap import Clusters, Floats, Interval, Ints, Resampling
from evaluate.predictions import CONDITIONS, SYSTEMS
from pipeline.params import Section

Metrics = dict[str, dict[str, dict[str, float]]]
"""test -> system -> metric -> value; a test is one task on one corpus, called `protocol` in the code."""

EMOTION, CONTINUATION_KL = "emotion_", "continuation_kl_"
"""Prefixes of the test names; the corpus follows."""

CONFUSION_SYSTEMS = ("head", "logprob", "prompted")
UNPARSABLE = "unparsable"
DIGITS = 6


class ScoreParams(Section):
    """The settings of the bootstrap over speakers, which gives the intervals, and the protocols to score under."""

    seed: int
    resamples: int = Field(ge=1)
    confidence: float = Field(gt=0, lt=1)
    protocols: list[str]
    """Names of protocols (`python -m evaluate protocols`), or paths of files that define one."""

    @property
    def resampling(self) -> Resampling:
        """The settings of the bootstrap."""
        return Resampling(self.seed, self.resamples, self.confidence)


Confusions = dict[str, dict[str, list[list[int]]]]
"""corpus -> system -> number of clips by true and predicted emotion, K rows of K + 1; the last column is unparsable."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """The results of every system's emotion recognition on every corpus."""

    metrics: Metrics
    """The scores; the test names are `emotion_<corpus>`."""
    confusions: Confusions


def score_recognition(table: pa.Table, emotions: Sequence[str], how: Resampling) -> Recognition:
    """Count the confusions and compute the scores of every system on every corpus; add the score of chance.

    Chance is the best unweighted accuracy of answers that do not depend on the clip: 1 / number of emotions in the test
    rows. A system without rows has no scores.
    """
    metrics: Metrics = {}
    confusions: Confusions = {}
    for corpus, rows in _by_corpus(table):
        present = len(rows["emotion"].unique())
        protocol = metrics[EMOTION + corpus] = {"chance": {"ua": round(1 / present, DIGITS)}}
        confusions[corpus] = {}
        for system in SYSTEMS:
            of_system = _where(rows, "system", system.name)
            if of_system.num_rows == 0:
                continue
            by, counts = _count(of_system, emotions)
            protocol[system.name] = _score_system(counts, by, how)
            confusions[corpus][system.name] = counts.sum(axis=0).astype(int).tolist()
    return Recognition(metrics, confusions)


def score_divergence(table: pa.Table, how: Resampling) -> Metrics:
    """Compute the mean stage-1 KL on every corpus; the test names are `continuation_kl_<corpus>`.

    Every token has the same weight in a mean. `hearing` is the cost of a wrong clip: `shuffled` minus `after`, over the
    rows that have a wrong clip; if there are none, both are absent. `transcript` is zero by definition, because the KL
    is measured against the LLM's own distribution given the transcript. A single row has no interval.
    """
    metrics: Metrics = {}
    for corpus, rows in _by_corpus(table):
        protocol = metrics[CONTINUATION_KL + corpus] = {"transcript": {"kl": 0.0}}
        by_condition = {name: _where(rows, "condition", name).sort_by("id") for name in CONDITIONS}
        for name, of_condition in by_condition.items():
            if of_condition.num_rows:
                protocol[name] = _score_kl(of_condition, how)
        if by_condition["shuffled"].num_rows:
            protocol["hearing"] = _score_gap(by_condition["shuffled"], by_condition["after"], how)
    return metrics


def _score_kl(rows: pa.Table, how: Resampling) -> dict[str, float]:
    by = bootstrap.clusters(rows["speaker"].to_pylist())
    sums = bootstrap.sum_by_cluster(_kl_and_tokens(rows), by)
    interval = _bounds("kl", bootstrap.bootstrap(sums, bootstrap.ratio, how))
    return _rounded(kl=bootstrap.ratio(sums.sum(axis=0)), **interval, n=rows.num_rows, speakers=by.num_speakers)


def _score_gap(wrong: pa.Table, right: pa.Table, how: Resampling) -> dict[str, float]:
    right = right.filter(pc.is_in(right["id"], wrong["id"]))  # both are sorted by id
    by = bootstrap.clusters(wrong["speaker"].to_pylist())
    sums = [bootstrap.sum_by_cluster(_kl_and_tokens(rows), by) for rows in (wrong, right)]
    paired = np.concatenate(sums, axis=1)
    interval = _bounds("gap", bootstrap.bootstrap(paired, bootstrap.difference_of_ratios, how))
    return _rounded(gap=bootstrap.difference_of_ratios(paired.sum(axis=0)), **interval)


def _bounds(name: str, interval: Interval) -> dict[str, float]:
    """Return the bounds as metrics; without bounds, there are none."""
    return {f"{name}_low": interval.low, f"{name}_high": interval.high} if math.isfinite(interval.low) else {}


def confusion_rows(table: pa.Table, system: str) -> list[tuple[str, str, str]]:
    """Return corpus, true and predicted emotion of every row of `system`, for the confusion template of dvc."""
    rows = _where(table, "system", system)
    columns = (rows[name].to_pylist() for name in ("corpus", "emotion", "predicted"))
    return [(corpus, actual, predicted or UNPARSABLE) for corpus, actual, predicted in zip(*columns, strict=True)]


def _count(rows: pa.Table, emotions: Sequence[str]) -> tuple[Clusters, Floats]:
    """Return the clusters of the rows and their confusions by cluster: (clusters, K, K + 1)."""
    by = bootstrap.clusters(rows["speaker"].to_pylist())
    truth, predicted = _codes(rows, emotions)
    return by, bootstrap.count_confusions(truth, predicted, len(emotions), by)


def _score_system(counts: Floats, by: Clusters, how: Resampling) -> dict[str, float]:
    shape = counts.shape[1:]
    interval = bootstrap.bootstrap(
        counts.reshape(by.count, -1), lambda sums: bootstrap.unweighted_accuracy(sums.reshape(-1, *shape)), how
    )
    total = counts.sum(axis=0)
    return _rounded(
        ua=bootstrap.unweighted_accuracy(total), **_bounds("ua", interval),
        wa=bootstrap.weighted_accuracy(total), macro_f1=bootstrap.macro_f1(total),
        unparsable=total[:, -1].sum() / total.sum(), n=int(total.sum()), speakers=by.num_speakers,
    )  # fmt: skip


def _codes(rows: pa.Table, emotions: Sequence[str]) -> tuple[Ints, Ints]:
    known = pa.array(emotions, pa.string())
    codes = (pc.fill_null(pc.index_in(rows[name], value_set=known), -1) for name in ("emotion", "predicted"))
    truth, predicted = (column.to_numpy().astype(np.int64) for column in codes)
    return truth, predicted


def _kl_and_tokens(rows: pa.Table) -> Floats:
    tokens = rows["num_tokens"].to_numpy().astype(np.float64)
    return np.stack([rows["kl"].to_numpy() * tokens, tokens], axis=1)


def _by_corpus(table: pa.Table) -> list[tuple[str, pa.Table]]:
    return [(corpus, _where(table, "corpus", corpus)) for corpus in sorted(table["corpus"].unique().to_pylist())]


def _where(table: pa.Table, column: str, value: str) -> pa.Table:
    return table.filter(pc.field(column) == value)


def _rounded(**values: float | Floats) -> dict[str, float]:
    return {name: value if isinstance(value, int) else round(float(value), DIGITS) for name, value in values.items()}
