"""Choose some of the test clips, with equally many of each speaker."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def choose_clips(speakers: Sequence[str], count: int | None, seed: int) -> list[int]:
    """Draw the places of at most `count` clips, in ascending order; None: all clips.

    The speakers take turns until no clip is left. With the same seed, a smaller choice is within a larger one.
    """
    order = np.random.default_rng(seed).permutation(len(speakers))
    turns = pd.Series(np.asarray(speakers, object)[order])
    places: list[int] = order[np.argsort(turns.groupby(turns).cumcount(), kind="stable")].tolist()
    return sorted(places[:count])
