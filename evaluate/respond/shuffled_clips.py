"""The control with wrong clips: every row gets the clip of another row."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.stage import say

Pairs = list[tuple[int, int]]
"""The number of each row, and the number of the row whose clip is given."""

_SHOWN = 10  # ids of the rows without a wrong clip


def own_clips(rows: Collection[object]) -> Pairs:
    """Return the pairs in which every row has its own clip."""
    return [(number, number) for number in range(len(rows))]


def wrong_clips(
    rows: Sequence[Mapping[str, Any]], differ: Sequence[str], seed: int, *, similar: str | None = None
) -> Pairs:
    """Return the pairs in which every row has another row's clip; a row for which there is no such clip has no pair.

    The other row differs in all columns named by `differ`. It comes from the same corpus if possible. If `similar` is
    given, it has the nearest value in this column. One of the nearest rows is drawn at random. Time grows with the
    square of the rows: 10,000 rows take about a second.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    codes = {name: np.unique([row[name] for row in rows], return_inverse=True)[1] for name in {*differ, "corpus"}}
    sizes = None if similar is None else np.array([row[similar] for row in rows])
    pairs: Pairs = []
    for number in range(len(rows)):
        may_stand = np.logical_and.reduce([codes[name] != codes[name][number] for name in differ])
        of_corpus = may_stand & (codes["corpus"] == codes["corpus"][number])
        nearest = np.flatnonzero(of_corpus if of_corpus.any() else may_stand)
        if len(nearest) == 0:
            continue
        if sizes is not None:
            distances = np.abs(sizes[nearest] - sizes[number])
            nearest = nearest[distances == distances.min()]
        pairs.append((number, int(nearest[generator.integers(len(nearest))])))
    return pairs


def tell_missing(kind: str, rows: Sequence[Mapping[str, Any]], pairs: Pairs, expected: str) -> None:
    """Say which rows have no wrong clip, with their ids, and what the test split would need."""
    having = {number for number, _ in pairs}
    ids = [row["id"] for number, row in enumerate(rows) if number not in having]
    if ids:
        shown = ", ".join(ids[:_SHOWN]) + (f" and {len(ids) - _SHOWN:,} more" if len(ids) > _SHOWN else "")
        found = f"found no wrong clip for {len(ids):,} of {len(rows):,} test clips, expected {expected}"
        say(f"respond: {kind}: {found}; these clips are not in this control: {shown}")
