"""Compare two systems on the same clips: differences of their scores, with intervals and tests over speakers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluate import confusions, intervals, paired
from evaluate.intervals import Clusters, Floats, Statistic
from evaluate.metrics import kl_and_tokens, label_codes
from pipeline.stage import UserError

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE
"""The highest p value that decides."""

RECOGNITION_KEYS, DIVERGENCE_KEYS = ("corpus", "speaker", "emotion"), ("corpus", "speaker", "num_tokens")
"""Columns in which the rows of both sides must agree."""
SHOWN_IDS = 3


@dataclass(frozen=True, slots=True)
class Side:
    """A system or condition, and the table of all answers of its run."""

    path: Path
    system: str
    table: pa.Table

    @property
    def rows(self) -> pa.Table:
        """The rows of the system, by id."""
        column = "system" if "system" in self.table.schema.names else "condition"
        return self.table.filter(pc.field(column) == self.system).sort_by("id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A score of both sides, and B's minus A's with its 95 % interval and p values."""

    score: str
    a: float
    b: float
    difference: float
    low: float | None
    """None for a single speaker, whose interval has no bounds."""
    high: float | None
    p: float
    equivalence_p: float | None
    """None without a margin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The comparison on one corpus; the verdict is on the first score."""

    corpus: str
    a: str
    b: str
    clips: int
    speakers: int
    smallest_p: float
    scores: list[Difference]
    verdict: str


def compare_recognition(a: Side, b: Side, margin: float | None) -> Iterator[Comparison]:
    """Compare two systems of emotion recognition on every corpus; the verdict is on the unweighted accuracy."""
    for rows_a, rows_b in _by_corpus(a, b, RECOGNITION_KEYS):
        emotions = sorted(rows_a["emotion"].unique().to_pylist())
        by = intervals.by_speaker(rows_a["speaker"].to_pylist())
        sums = [
            confusions.count_confusions(*label_codes(rows, emotions), len(emotions), by) for rows in (rows_a, rows_b)
        ]
        yield _compare(a, b, rows_a, by, np.stack(sums, axis=1), confusions.SCORES, sums[0].sum(axis=(1, 2)), margin)


def compare_divergence(a: Side, b: Side, margin: float | None) -> Iterator[Comparison]:
    """Compare the stage-1 KL of two conditions on every corpus."""
    for rows_a, rows_b in _by_corpus(a, b, DIVERGENCE_KEYS):
        by = intervals.by_speaker(rows_a["speaker"].to_pylist())
        sums = [intervals.sum_by_cluster(kl_and_tokens(rows), by) for rows in (rows_a, rows_b)]
        yield _compare(a, b, rows_a, by, np.stack(sums, axis=1), {"kl": intervals.ratio}, sums[0][:, 1], margin)


def _compare(
    a: Side, b: Side, rows: pa.Table, by: Clusters, sums: Floats, scores: Mapping[str, Statistic], sizes: Floats,
    margin: float | None,
) -> Comparison:  # fmt: skip
    """Compare all scores; `sums` is (speakers, sides, *columns), `sizes` the clips or tokens of each speaker."""
    found = [_difference(name, sums, statistic, sizes, margin) for name, statistic in scores.items()]
    least = paired.smallest_p(by.count)
    return Comparison(
        corpus=rows["corpus"][0].as_py(),
        a=f"{a.path.parents[1]}: {a.system}",
        b=f"{b.path.parents[1]}: {b.system}",
        clips=rows.num_rows,
        speakers=by.count,
        smallest_p=least,
        scores=found,
        verdict=state_verdict(found[0], by.count, least, margin),
    )


def _difference(name: str, sums: Floats, statistic: Statistic, sizes: Floats, margin: float | None) -> Difference:
    axis = 1 - sums.ndim  # of the sides, also where the speakers are summed

    def b_minus_a(of_both: Floats) -> Floats:
        of_a, of_b = np.moveaxis(of_both, axis, 0)
        return statistic(of_b) - statistic(of_a)

    estimate = intervals.estimate(sums, b_minus_a, sizes)
    interval, has_bounds = estimate.interval(CONFIDENCE), len(sums) > 1
    return Difference(
        score=name,
        a=float(statistic(sums[:, 0].sum(axis=0))),
        b=float(statistic(sums[:, 1].sum(axis=0))),
        difference=estimate.value,
        low=interval.low if has_bounds else None,
        high=interval.high if has_bounds else None,
        p=paired.swap_test(sums[:, 0], sums[:, 1], statistic).p,
        equivalence_p=None if margin is None else paired.equivalence_p(estimate, margin),
    )


def state_verdict(found: Difference, speakers: int, smallest_p: float, margin: float | None) -> str:
    """State in one sentence whether A and B differ, and with a margin, whether they are equivalent."""
    name = {"ua": "unweighted accuracy", "kl": "KL"}[found.score]
    if smallest_p > LEVEL:
        who = "1 speaker" if speakers == 1 else f"{speakers} speakers"
        verdict = f"{who} cannot decide this: the smallest p is {smallest_p:.3g}"
    elif found.p <= LEVEL:
        verdict = f"B has a {'higher' if found.difference > 0 else 'lower'} {name} than A (p {found.p:.3g})"
    else:
        verdict = f"No difference in {name} was shown (p {found.p:.3g})"
    if found.equivalence_p is not None:
        shown = "the difference is" if found.equivalence_p <= LEVEL else "it was not shown that the difference is"
        verdict += f"; {shown} within \N{PLUS-MINUS SIGN}{margin:g} (p {found.equivalence_p:.3g})"
    return f"{verdict}."


def _by_corpus(a: Side, b: Side, keys: Sequence[str]) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield the matching rows of both sides by corpus, sorted by id.

    Rows without a wrong clip are left out if a side is a control with wrong clips. Raises UserError if the runs have
    other rows, or if the rows have other values in `keys`.
    """
    _check_same_ids(a, b)
    rows_a, rows_b = a.rows, b.rows
    rows_a, rows_b = (
        rows.filter(pc.is_in(rows["id"], other["id"])) for rows, other in ((rows_a, rows_b), (rows_b, rows_a))
    )
    if rows_a.num_rows == 0:
        raise UserError(f"{a.path}: found no clips that both {a.system} and {b.system} have, expected some")
    for key in keys:
        differs = pc.not_equal(rows_a[key], rows_b[key])
        for i in pc.indices_nonzero(differs)[:1].to_pylist():
            found = f"{rows_a[key][i]} in {a.path} and {rows_b[key][i]} in {b.path}"
            raise UserError(f"{rows_a['id'][i]}: {key}: found {found}, expected the same")
    for corpus in sorted(rows_a["corpus"].unique().to_pylist()):
        is_of_corpus = pc.field("corpus") == corpus
        yield rows_a.filter(is_of_corpus), rows_b.filter(is_of_corpus)


def _check_same_ids(a: Side, b: Side) -> None:
    ids_a, ids_b = a.table["id"].unique(), b.table["id"].unique()
    found = []
    for side, own, other in ((a, ids_a, ids_b), (b, ids_b, ids_a)):
        if lacking := sorted(own.filter(pc.invert(pc.is_in(own, other))).to_pylist()):
            names = ", ".join(lacking[:SHOWN_IDS]) + (", \N{HORIZONTAL ELLIPSIS}" if len(lacking) > SHOWN_IDS else "")
            found.append(f"{len(lacking):,} only in {side.path} ({names})")
    if found:
        raise UserError(f"rows do not match: found {' and '.join(found)}; expected the same rows in both")
