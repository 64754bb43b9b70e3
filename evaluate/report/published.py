"""The run's scores under protocols, beside published ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluate.metrics import Metrics
from evaluate.protocols.definition import Protocol
from evaluate.protocols.scoring import CONDITIONS
from evaluate.verdict.systems import CLIP, RECOGNITION_ROWS
from evaluate.verdict.wording import bounds, share

METRIC_NAMES = {"ua": "UA", "wa": "WA", "macro_f1": "macro-F1", "weighted_f1": "weighted F1"}


@dataclass(frozen=True, slots=True)
class ProtocolRow:
    """A score in percent: ours or a published one."""

    system: str
    values: dict[str, str]
    """Metric: percent, with the interval where there is one."""
    source: str


@dataclass(frozen=True, slots=True)
class ScoredProtocol:
    """A protocol with the scores of this run, and with the published ones if they can be compared."""

    name: str
    about: str
    note: str | None
    tested: str
    is_partial: bool
    metrics: dict[str, str]
    """Metrics that have a column: name and title."""
    rows: list[ProtocolRow]


def protocol_tables(protocols: Sequence[Protocol], metrics: Metrics) -> list[ScoredProtocol]:
    """Lay out the protocols that score has scored; a partial one has no published scores beside it."""
    found = []
    for protocol in protocols:
        if protocol.name not in metrics:
            continue
        scores = metrics[protocol.name]
        numbers = scores[CONDITIONS]
        expected = numbers.get("rows_expected")
        is_partial = expected is not None and expected != numbers["rows"]
        published = [] if is_partial else protocol.published
        shown: dict[str, None] = dict.fromkeys([*protocol.headline, *(result.metric for result in published)])
        ours = [
            ProtocolRow(
                f"this run: {RECOGNITION_ROWS[system][1]}",
                {name: _value(scores[system], name) for name in shown},
                "this run",
            )
            for system in ("head", "logprob", "prompted")
            if system in scores and RECOGNITION_ROWS[system][0] == CLIP
        ]
        theirs = [
            ProtocolRow(
                result.system,
                {result.metric: f"{result.percent:g}"},
                result.source + (f" ({result.note})" if result.note else ""),
            )
            for result in published
        ]
        tested = f"{numbers['rows']:,.0f}" + (f" of {expected:,.0f}" if is_partial else "") + " test clips"
        titles = {name: METRIC_NAMES[name] for name in shown}
        found.append(
            ScoredProtocol(protocol.name, protocol.about, protocol.note, tested, is_partial, titles, ours + theirs)
        )
    return found


def _value(score: dict[str, float], name: str) -> str:
    low, high = bounds(score, name)
    return share(score[name]) + ("" if low == -high else f" ({share(low)} to {share(high)})")
