"""The control with wrong clips: every row gets the clip of another row."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from pipeline.stage import UserError

Row = TypeVar("Row")


def swapped(
    rows: Sequence[Row], may_stand_for: Callable[[Row, Row], bool], unlike: Callable[[Row, Row], Any], seed: int
) -> list[int]:
    """Return, for each row, the number of the row whose clip replaces its own.

    `may_stand_for` says which rows are candidates. `unlike` gives the distance of a candidate. One of the nearest
    candidates is drawn at random. Raises UserError if a row has no candidate.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = []
    for number, row in enumerate(rows):
        candidates = [other for other, clip in enumerate(rows) if other != number and may_stand_for(row, clip)]
        if not candidates:
            raise UserError(
                f"test split: row {number}: found no clip that may replace this row's clip; the test split needs "
                "another speaker with different words (stage 1) or another emotion (stage 2)"
            )
        distances = [unlike(row, rows[other]) for other in candidates]
        nearest = [other for other, distance in zip(candidates, distances, strict=True) if distance == min(distances)]
        chosen.append(nearest[generator.integers(len(nearest))])
    return chosen
