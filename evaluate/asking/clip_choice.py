"""Choose some of the test clips, with equally many of each group, such as a speaker."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def choose_clips(groups: Sequence[str], count: int | None, seed: int) -> list[int]:
    """Draw the places of at most `count` clips, in ascending order; None: all clips.

    The groups take turns until no clip is left. With the same seed, a smaller choice is within a larger one.
    """
    order = np.random.default_rng(seed).permutation(len(groups))
    turns = pd.Series(np.asarray(groups, object)[order])
    places: list[int] = order[np.argsort(turns.groupby(turns).cumcount(), kind="stable")].tolist()
    return sorted(places[:count])
