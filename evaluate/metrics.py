"""The scores of a run: accuracies and divergences by test (task and corpus) and system, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from evaluate import confusions, intervals
from evaluate.calibration import cross_entropy, expected_calibration_error, fit_temperature, soft_label_distance
from evaluate.intervals import Clusters, Estimate, Floats, Ints
from evaluate.predictions import BASELINES, CONDITIONS, PROBE, SYSTEMS
from pipeline.params import Section
from pipeline.stage import UserError

Metrics = dict[str, dict[str, dict[str, float]]]
"""test -> system -> metric -> value; a test is one task on one corpus, called `protocol` in the code."""

EMOTION, CONTINUATION_KL = "emotion_", "continuation_kl_"
"""Prefixes of the test names; the corpus follows."""

CONFUSION_SYSTEMS = ("head", "logprob", "prompted")
UNPARSABLE = "unparsable"
DIGITS = 6


class ScoreParams(Section):
    """The coverage of the intervals over speakers, 0.95 for 95 %, and the protocols to score under."""

    confidence: float = Field(gt=0, lt=1)
    protocols: list[str]
    """Names of protocols (`python -m evaluate protocols`), or paths of files that define one."""


Confusions = dict[str, dict[str, list[list[float]]]]
"""corpus -> system -> number of clips by true and predicted emotion, K rows of K + 1; the last column is unparsable.

The system `own_answers` (evaluate/own_answers.py) has K rows of K.
"""


@dataclass(frozen=True, slots=True)
class Recognition:
    """The results of every system's emotion recognition on every corpus."""

    metrics: Metrics
    """The scores; the test names are `emotion_<corpus>`."""
    confusions: Confusions


def score_recognition(table: pa.Table, emotions: Sequence[str], confidence: float) -> Recognition:
    """Count the confusions and compute the scores of every system on every corpus; add the score of chance.

    Chance is the best unweighted accuracy of answers that do not depend on the clip: 1 / number of emotions in the test
    rows. A system without rows has no scores.
    """
    metrics: Metrics = {}
    counted: Confusions = {}
    for corpus, rows in _by_corpus(table):
        present = len(rows["emotion"].unique())
        protocol = metrics[EMOTION + corpus] = {"chance": {"ua": round(1 / present, DIGITS)}}
        counted[corpus] = {}
        for system in (*SYSTEMS, *BASELINES, PROBE):
            of_system = _where(rows, "system", system.name)
            if of_system.num_rows == 0:
                continue
            by, counts = _count(of_system, emotions)
            protocol[system.name] = _score_system(counts, by, confidence) | _calibration(of_system, emotions)
            counted[corpus][system.name] = counts.sum(axis=0).astype(int).tolist()
    return Recognition(metrics, counted)


def score_calibration(table: pa.Table, dev: pa.Table, manifest: pa.Table, emotions: Sequence[str]) -> Metrics:
    """Compute how right the probabilities of the emotion head are, before and after temperature scaling.

    The temperature is fitted on all dev clips; there is none without any. `manifest` has the votes of annotators. The
    distance to their shares is the mean over the clips with a vote for a class of the run (`n_votes`).
    """
    votes = _votes(manifest, emotions)
    temperature = fit_temperature(_scores(dev, emotions), _codes(dev["emotion"], emotions)) if dev.num_rows else None
    metrics: Metrics = {}
    for corpus, rows in _by_corpus(_where(table, "system", "head")):
        scores, truth = _scores(rows, emotions), _codes(rows["emotion"], emotions)
        found = {"nll": cross_entropy(scores, truth)}
        voted = np.array([votes.get(row_id, np.zeros(0)).sum() > 0 for row_id in rows["id"].to_pylist()])
        shares = np.array([votes[row_id] for row_id in rows["id"].filter(pa.array(voted)).to_pylist()])
        if len(shares):
            found |= {"vote_distance": soft_label_distance(scores[voted], shares), "n_votes": len(shares)}
        if temperature is not None:
            calibrated = scores / temperature
            found |= {
                "temperature": temperature,
                "nll_calibrated": cross_entropy(calibrated, truth),
                "ece_calibrated": expected_calibration_error(calibrated, truth),
            }
            if len(shares):
                found["vote_distance_calibrated"] = soft_label_distance(calibrated[voted], shares)
        metrics[EMOTION + corpus] = {"head": _rounded(**found)}
    return metrics


def _votes(manifest: pa.Table, emotions: Sequence[str]) -> dict[str, Floats]:
    """Return the shares of the votes for each class by id, for the clips with votes."""
    of_clips = manifest.filter(pc.is_valid(manifest["emotion_votes"]))
    pairs = zip(of_clips["id"].to_pylist(), of_clips["emotion_votes"].to_pylist(), strict=True)
    return {row_id: np.array([dict(votes).get(name, 0.0) for name in emotions]) for row_id, votes in pairs}


def score_prompts(table: pa.Table, emotions: Sequence[str], confidence: float) -> Metrics:
    """Score the likeliest label under several prompts, as the system `logprob_prompts` of each corpus.

    `mean` and `range` are those of the unweighted accuracy over the prompts. `chosen` is that of the prompt that is
    best on the dev clips of all corpora (absent without dev clips), and `oracle` that of the best one on test.
    `consistency` is the share of clips with the same prediction under all prompts.
    """
    dev, test = (_where(table, "split", split) for split in ("dev", "test"))
    chosen = int(np.argmax(_accuracies_by_prompt(dev, emotions)[0])) if dev.num_rows else None
    metrics: Metrics = {}
    for corpus, rows in _by_corpus(test):
        accuracies, predicted, counts, by = _accuracies_by_prompt(rows, emotions)
        found = {"mean": accuracies.mean(), "range": np.ptp(accuracies), "oracle": accuracies.max()}
        found["consistency"] = (predicted == predicted[0]).all(axis=0).mean()
        if chosen is not None:
            accuracy = intervals.estimate(counts[chosen], confusions.unweighted_accuracy, counts[chosen].sum((1, 2)))
            found |= bounded("chosen", accuracy, confidence, lowest=0, highest=1)
        sizes = {"prompts": len(accuracies), "n": predicted.shape[1], "speakers": by.num_speakers}
        metrics[EMOTION + corpus] = {"logprob_prompts": _rounded(**found, **sizes)}
    return metrics


def _accuracies_by_prompt(rows: pa.Table, emotions: Sequence[str]) -> tuple[Floats, Ints, list[Floats], Clusters]:
    """Return the unweighted accuracies (P), the predicted classes (P, n), and the confusions by speaker of each prompt.

    The clusters of speakers are the same for all prompts, which are in the order of their names.
    """
    names = sorted(rows["prompt"].unique().to_pylist())
    by_prompt = [_where(rows, "prompt", name).sort_by("id") for name in names]
    predicted = np.stack([_scores(of_prompt, emotions).argmax(axis=1) for of_prompt in by_prompt])
    truth = _codes(by_prompt[0]["emotion"], emotions)
    by = intervals.by_speaker_or_row(by_prompt[0]["speaker"].to_pylist())
    counts = [confusions.count_confusions(truth, each, len(emotions), by) for each in predicted]
    accuracies = np.array([float(confusions.unweighted_accuracy(each.sum(axis=0))) for each in counts])
    return accuracies, predicted, counts, by


def score_divergence(table: pa.Table, confidence: float) -> Metrics:
    """Compute the mean stage-1 KL on every corpus; the test names are `continuation_kl_<corpus>`.

    Every token has the same weight in a mean. `hearing` is the cost of a wrong clip: `shuffled` minus `after`, over the
    rows that have a wrong clip; if there are none, both are absent. `transcript` is zero by definition, because the KL
    is measured against the LLM's own distribution given the transcript. `top1` is the share of tokens for which both
    have the same likeliest token. A single row has no interval.
    """
    metrics: Metrics = {}
    for corpus, rows in _by_corpus(table):
        protocol = metrics[CONTINUATION_KL + corpus] = {"transcript": {"kl": 0.0}}
        by_condition = {name: _where(rows, "condition", name).sort_by("id") for name in CONDITIONS}
        for name, of_condition in by_condition.items():
            if of_condition.num_rows:
                protocol[name] = _score_kl(of_condition, confidence)
        if by_condition["shuffled"].num_rows:
            protocol["hearing"] = _score_gap(by_condition["shuffled"], by_condition["after"], confidence)
    return metrics


def _score_kl(rows: pa.Table, confidence: float) -> dict[str, float]:
    by = intervals.by_speaker_or_row(rows["speaker"].to_pylist())
    sums = intervals.sum_by_cluster(kl_and_tokens(rows), by)
    kl = bounded("kl", intervals.estimate(sums, intervals.ratio, sums[:, 1]), confidence, lowest=0)
    sums = np.stack([np.bincount(by.codes, rows["num_agree"].to_numpy()), sums[:, 1]], axis=1)
    top1 = bounded("top1", intervals.estimate(sums, intervals.ratio, sums[:, 1]), confidence, lowest=0, highest=1)
    return _rounded(**kl, **top1, n=rows.num_rows, speakers=by.num_speakers)


def _score_gap(wrong: pa.Table, right: pa.Table, confidence: float) -> dict[str, float]:
    right = right.filter(pc.is_in(right["id"], wrong["id"]))  # both are sorted by id
    by = intervals.by_speaker_or_row(wrong["speaker"].to_pylist())
    sums = np.hstack([intervals.sum_by_cluster(kl_and_tokens(rows), by) for rows in (wrong, right)])
    gap = intervals.estimate(sums, intervals.difference_of_ratios, sums[:, 1])
    return _rounded(**bounded("gap", gap, confidence))


def bounded(
    name: str, score: Estimate, confidence: float, lowest: float = -math.inf, highest: float = math.inf
) -> dict[str, float]:
    """Return a score and its bounds, which are cut at its lowest and highest value; a single cluster has no bounds."""
    bounds = score.interval(confidence)
    if not math.isfinite(bounds.low):
        return {name: score.value}
    return {name: score.value, f"{name}_low": max(bounds.low, lowest), f"{name}_high": min(bounds.high, highest)}


def confusion_rows(table: pa.Table, system: str) -> list[tuple[str, str, str]]:
    """Return corpus, true and predicted emotion of every row of `system`, for the confusion template of dvc."""
    rows = _where(table, "system", system)
    columns = (rows[name].to_pylist() for name in ("corpus", "emotion", "predicted"))
    return [(corpus, actual, predicted or UNPARSABLE) for corpus, actual, predicted in zip(*columns, strict=True)]


def _count(rows: pa.Table, emotions: Sequence[str]) -> tuple[Clusters, Floats]:
    """Return the clusters of the rows and their confusions by cluster: (clusters, K, K + 1)."""
    by = intervals.by_speaker_or_row(rows["speaker"].to_pylist())
    return by, confusions.count_confusions(*label_codes(rows, emotions), len(emotions), by)


def _score_system(counts: Floats, by: Clusters, confidence: float) -> dict[str, float]:
    total = counts.sum(axis=0)
    accuracy = intervals.estimate(counts, confusions.unweighted_accuracy, counts.sum(axis=(1, 2)))
    scores = {name: float(score(total)) for name, score in confusions.SCORES.items()}
    scores |= bounded("ua", accuracy, confidence, lowest=0, highest=1)
    unparsable = total[:, -1].sum() / total.sum()
    return _rounded(**scores, unparsable=unparsable, n=int(total.sum()), speakers=by.num_speakers)


def _calibration(rows: pa.Table, emotions: Sequence[str]) -> dict[str, float]:
    """Return the expected calibration error (`ece`) of a system with scores; a written answer has none."""
    if not pc.fill_null(pc.list_value_length(rows["scores"]), 0).to_numpy().any():
        return {}
    return _rounded(ece=expected_calibration_error(_scores(rows, emotions), _codes(rows["emotion"], emotions)))


def _scores(rows: pa.Table, emotions: Sequence[str]) -> Floats:
    """Return the scores of rows, (rows, K); raises UserError if a row has not one score of each emotion."""
    counts = pc.fill_null(pc.list_value_length(rows["scores"]), 0).to_numpy()
    if (wrong := np.flatnonzero(counts != len(emotions))).size:
        row = {name: rows[name][int(wrong[0])].as_py() for name in ("id", "system")}
        found = f"found {counts[wrong[0]]} scores, expected {len(emotions)}, one of each emotion"
        raise UserError(f"{row['id']} ({row['system']}): {found}")
    scores: Floats = pc.list_flatten(rows["scores"]).to_numpy().reshape(-1, len(emotions))
    return scores


def label_codes(rows: pa.Table, emotions: Sequence[str]) -> tuple[Ints, Ints]:
    """Return the numbers of the true and the predicted emotions in `emotions`; -1 is another one, or none."""
    return _codes(rows["emotion"], emotions), _codes(rows["predicted"], emotions)


def _codes(names: pa.ChunkedArray, emotions: Sequence[str]) -> Ints:
    codes = pc.fill_null(pc.index_in(names, value_set=pa.array(emotions, pa.string())), -1)
    numbers: Ints = codes.to_numpy().astype(np.int64)
    return numbers


def kl_and_tokens(rows: pa.Table) -> Floats:
    """Return the sum of the KL over the tokens of each row, and the number of tokens: (rows, 2)."""
    tokens = rows["num_tokens"].to_numpy().astype(np.float64)
    return np.stack([rows["kl"].to_numpy() * tokens, tokens], axis=1)


def _by_corpus(table: pa.Table) -> list[tuple[str, pa.Table]]:
    return [(corpus, _where(table, "corpus", corpus)) for corpus in sorted(table["corpus"].unique().to_pylist())]


def _where(table: pa.Table, column: str, value: str) -> pa.Table:
    return table.filter(pc.field(column) == value)


def _rounded(**values: float | Floats) -> dict[str, float]:
    return {name: value if isinstance(value, int) else round(float(value), DIGITS) for name, value in values.items()}
