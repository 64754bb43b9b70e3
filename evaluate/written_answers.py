"""The scores of written answers: is what a system writes one of the LLM's own continuations, and for which emotion?

The LLM continued each transcript once for each emotion that it was told. A written answer is right if it is, word for
word, the continuation for the clip's emotion, and other if it is the one for another emotion. If it is that for k
emotions, it counts 1/k for each. Many answers are neither, because one different word is enough. So chance is that of
the same answers: the share that would be right if the clip's emotion were drawn anew.

A cruder measure looks for the first word for an emotion in the answer (evaluate/emotion_named.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluate import intervals
from evaluate.emotion_named import label
from evaluate.intervals import Floats
from evaluate.metrics import DIGITS, Metrics, bounded

WRITTEN = "written_"
"""Prefix of the test names; the corpus follows."""

Row = dict[str, Any]


def score_written(table: pa.Table, emotions: Sequence[str], confidence: float) -> Metrics:
    """Score every system on every corpus; an emotion that is drawn anew is one of those of the corpus' clips."""
    metrics: Metrics = {}
    for corpus in sorted(table["corpus"].unique().to_pylist()):
        rows = table.filter(pc.field("corpus") == corpus)
        present = [emotions.index(emotion) for emotion in rows["emotion"].unique().to_pylist()]
        scores = metrics[WRITTEN + corpus] = {}
        for system in rows["system"].unique().to_pylist():
            of_system = rows.filter(pc.field("system") == system).to_pylist()
            speakers = [row["speaker"] for row in of_system]
            truth = np.array([emotions.index(row["emotion"]) for row in of_system])
            scores[system] = {"n": len(of_system), "speakers": len(set(speakers))}
            for name, shares in (("is", _is(of_system)), ("names", _names(of_system, emotions))):
                right = shares[np.arange(len(truth)), truth]
                scores[system] |= _mean(f"written_{name}_right", right, speakers, confidence)
                scores[system] |= _mean(f"written_{name}_other", shares.sum(axis=1) - right, speakers, confidence)
                scores[system][f"written_{name}_chance"] = round(float(shares[:, present].mean()), DIGITS)
    return metrics


def _is(rows: Sequence[Row]) -> Floats:
    """Return the share of each emotion in the continuations that an answer is, (n, K)."""
    equal = np.array([[text == row["answer"] for text in row["continuations"]] for row in rows], np.float64)
    shares: Floats = equal / np.maximum(equal.sum(axis=1, keepdims=True), 1)
    return shares


def _names(rows: Sequence[Row], emotions: Sequence[str]) -> Floats:
    """Return 1 for the emotion that an answer names, (n, K)."""
    named = [label(row["answer"], emotions) for row in rows]
    return np.array([[emotion == name for emotion in emotions] for name in named], np.float64)


def _mean(name: str, values: Floats, speakers: Sequence[str], confidence: float) -> dict[str, float]:
    by = intervals.by_speaker_or_row(speakers)
    sums = intervals.sum_by_cluster(np.stack([values, np.ones(len(values))], axis=1), by)
    found = bounded(name, intervals.estimate(sums, intervals.ratio, sums[:, 1]), confidence, lowest=0, highest=1)
    return {key: round(value, DIGITS) for key, value in found.items()}
