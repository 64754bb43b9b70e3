"""The scores of a run under protocols."""

from collections.abc import Sequence

import pyarrow as pa

from evaluate.metrics import EMOTION, Metrics, score_recognition
from evaluate.protocols.definition import Protocol
from evaluate.protocols.selection import RunFacts, SelectedRows, select
from pipeline.stage import say

Scores = dict[str, dict[str, float]]
"""system -> metric -> value"""

CONDITIONS = "protocol"
"""The key, beside the systems, of the numbers of rows and classes."""


def score_protocols(protocols: Sequence[Protocol], predictions: pa.Table, run: RunFacts, confidence: float) -> Metrics:
    """Score the predictions under each protocol and say a line for each; the keys are the names of the protocols.

    A protocol whose corpus has no predictions has no scores. Raises UserError if the run does not keep the conditions
    of a protocol.
    """
    metrics: Metrics = {}
    for protocol in protocols:
        rows = select(protocol, predictions, run)
        if rows is None:
            say(f"score: {protocol.name}: not scored, no test row is of the reader {protocol.reader}")
            continue
        metrics[protocol.name] = score_rows(protocol, rows, run.classes, confidence)
        say(f"score: {describe(protocol, metrics[protocol.name])}")
    return metrics


def score_rows(protocol: Protocol, rows: SelectedRows, classes: Sequence[str], confidence: float) -> Scores:
    """Score each system on the rows that a protocol tests, as on a whole corpus.

    The entry `protocol` has the numbers: `rows` that are tested, `rows_expected` if the protocol knows them,
    `rows_left_out` of the corpus, `classes` of the protocol, and `options`, the classes that the model may answer. An
    answer outside the classes is wrong.
    """
    scores = score_recognition(rows.predictions, classes, confidence).metrics[EMOTION + rows.corpus]
    numbers: dict[str, float] = {"rows": rows.num_rows}
    if protocol.rows_expected is not None:
        numbers["rows_expected"] = protocol.rows_expected
    numbers |= {"rows_left_out": rows.left_out, "classes": len(protocol.classes), "options": len(classes)}
    return scores | {CONDITIONS: numbers}


def describe(protocol: Protocol, scores: Scores) -> str:
    """Return a line with the headline metrics of the emotion head, and with the number of rows."""
    numbers = scores[CONDITIONS]
    values = ", ".join(f"{metric} {scores['head'][metric]:.3f}" for metric in protocol.headline)
    expected = numbers.get("rows_expected")
    rows = f"{numbers['rows']:,} rows"
    if expected is not None and expected != numbers["rows"]:
        rows = f"partial: {numbers['rows']:,} of {expected:,} rows"
    return f"{protocol.name}: head {values} ({rows}, {numbers['rows_left_out']:,} left out)"
