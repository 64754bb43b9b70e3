"""The control that takes the right voice away: every row gets the clip of another row."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from pipeline.stage import UserError

Row = TypeVar("Row")


def swapped(
    rows: Sequence[Row], may_stand_for: Callable[[Row, Row], bool], unlike: Callable[[Row, Row], Any], seed: int
) -> list[int]:
    """Return for each row the number of another, chosen at random among the least `unlike` that may stand for it.

    Raises UserError where a row has none, since the control would then be no control.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = []
    for number, row in enumerate(rows):
        candidates = [other for other, clip in enumerate(rows) if other != number and may_stand_for(row, clip)]
        if not candidates:
            raise UserError(
                f"test part: row {number} has no other clip to be swapped with; "
                "expected at least two speakers with different words or emotions"
            )
        distances = [unlike(row, rows[other]) for other in candidates]
        nearest = [other for other, distance in zip(candidates, distances, strict=True) if distance == min(distances)]
        chosen.append(nearest[generator.integers(len(nearest))])
    return chosen
