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

    `may_stand_for` allows a replacement. Among the allowed rows, one of those with the smallest `unlike` is drawn at
    random. Raises UserError if a row has no allowed replacement.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = []
    for number, row in enumerate(rows):
        candidates = [other for other, clip in enumerate(rows) if other != number and may_stand_for(row, clip)]
        if not candidates:
            raise UserError(
                f"test split: row {number}: found no other clip to replace its own, "
                "expected at least two speakers with different words or emotions"
            )
        distances = [unlike(row, rows[other]) for other in candidates]
        nearest = [other for other, distance in zip(candidates, distances, strict=True) if distance == min(distances)]
        chosen.append(nearest[generator.integers(len(nearest))])
    return chosen
