"""The scores of kept words: word errors of Whisper's transcripts, and what the stage semantics measured of a model.

Every score is a ratio of sums over clips or questions: word errors over words, or a mean. Its interval is over
speakers, or over instructions, because questions with the same instruction resemble each other.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.stats import binomtest

from evaluate import intervals
from evaluate.metrics import DIGITS, Metrics, bounded

TRANSCRIPTS = "transcripts_"
"""Prefix of the test names of Whisper's transcripts; the corpus follows."""

SCORES = {
    "repeat": ("wer", math.inf, ("voice", "transcript")),
    "answers": ("f1", 1.0, ("voice", "shuffled")),
    "answers_cosine": ("cosine", 1.0, ("voice", "shuffled")),
    "instructions": ("share", 1.0, ("voice", "transcript")),
}
"""task -> name of the score, its highest value, and the two systems whose difference is scored."""


def score_transcripts(table: pa.Table, confidence: float) -> Metrics:
    """Compute Whisper's word error rate on every corpus; the test names are `transcripts_<corpus>`.

    Clips without a word in their transcript have none. A clip in the data of both kinds counts once.
    """
    rows = table.to_pandas().query("words > 0").drop_duplicates("id")
    rows = rows.assign(value=rows["errors"], weight=rows["words"])
    return {
        TRANSCRIPTS + str(corpus): {"whisper": _score(of_corpus, "wer", math.inf, confidence)}
        for corpus, of_corpus in rows.groupby("corpus")
    }


def score_semantics(table: pa.Table, confidence: float) -> Metrics:
    """Compute the scores of models; the test names are `<task>_<model>_<corpus>`.

    Beside the systems, `difference` is the difference of the two systems that SCORES names, on the same clips or
    questions. The names of the tasks instructions and text_alone lack the corpus.
    """
    metrics: Metrics = {}
    whole = table.to_pandas().query("weight > 0")
    for (model, task, corpus), rows in whole.query("task in @SCORES").groupby(["model", "task", "corpus"], sort=True):
        name, highest, pair = SCORES[task]
        test = metrics[f"{task}_{model}" + ("" if corpus == task else f"_{corpus}")] = {
            str(system): _score(of_system, name, highest, confidence) for system, of_system in rows.groupby("system")
        }
        first, second = (rows[rows["system"] == system].set_index("id") for system in pair)
        if len(both := first.index.intersection(second.index)):
            test["difference"] = _difference(first.loc[both], second.loc[both], name, highest, confidence)
            if task == "instructions":
                test["difference"] |= {"p": _mcnemar(first.loc[both, "value"], second.loc[both, "value"])}
    for model, rows in whole[whole["task"] == "text_alone"].groupby("model"):
        largest = float(rows["value"].max())
        measured = {"equal": int(largest == 0), "largest_difference": round(largest, DIGITS), "n": len(rows)}
        metrics[f"text_alone_{model}"] = {"transcript": measured}
    return metrics


def _score(rows: pd.DataFrame, name: str, highest: float, confidence: float) -> dict[str, float]:
    by = intervals.by_speaker_or_row(rows["speaker"].tolist())
    sums = intervals.sum_by_cluster(rows[["value", "weight"]].to_numpy(np.float64), by)
    lowest = -1.0 if name == "cosine" else 0.0
    score = bounded(name, intervals.estimate(sums, intervals.ratio, sums[:, 1]), confidence, lowest, highest)
    counts = {"n": len(rows), "speakers": by.num_speakers}
    return _rounded(score) | ({"words": int(sums[:, 1].sum())} if name == "wer" else {}) | counts


def _difference(
    first: pd.DataFrame, second: pd.DataFrame, name: str, highest: float, confidence: float
) -> dict[str, float]:
    by = intervals.by_speaker_or_row(first["speaker"].tolist())
    values = [rows[["value", "weight"]].to_numpy(np.float64) for rows in (first, second)]
    sums = intervals.sum_by_cluster(np.hstack(values), by)
    largest = highest + (name == "cosine")
    difference = intervals.estimate(sums, intervals.difference_of_ratios, sums[:, 1])
    return _rounded(bounded(name, difference, confidence, -largest, largest))


def _mcnemar(first: "pd.Series[float]", second: "pd.Series[float]") -> float:
    """Return p of McNemar's exact test: of the questions with different results, either side wins half."""
    wins, losses = int((first > second).sum()), int((first < second).sum())
    return round(float(binomtest(wins, wins + losses).pvalue), DIGITS) if wins + losses else 1.0


def _rounded(score: dict[str, Any]) -> dict[str, float]:
    return {name: round(float(value), DIGITS) for name, value in score.items()}
