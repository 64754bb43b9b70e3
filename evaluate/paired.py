"""Tests of the difference between two systems on the same clips, by speaker."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special

from evaluate.intervals import Estimate, Floats, Statistic

MOST_EXACT = 16  # speakers; up to there, all swaps are counted
NUM_DRAWS = 100_000  # random swaps where there are more speakers
MOST_GROUPS = 1_000  # speakers beyond that are swapped in groups
CHUNK_CELLS = 4_000_000  # swaps x (speakers + columns) at once, 32 MB
SEED = 1
TOLERANCE = 1e-9  # of a score; swaps that give the same difference are rounded differently


@dataclass(frozen=True, slots=True)
class SwapTest:
    """The two-sided p value of a difference, and the smallest one that so many speakers can give."""

    p: float
    smallest_p: float


def smallest_p(num_speakers: int) -> float:
    """Return the smallest p value of the swap test: only the answers as they are, and all swapped, are as extreme."""
    return 2 / 2**num_speakers if num_speakers <= MOST_EXACT else 1 / (NUM_DRAWS + 1)


def swap_test(sums_a: Floats, sums_b: Floats, statistic: Statistic) -> SwapTest:
    """Test whether systems A and B are exchangeable, from their sums (speakers, *columns).

    If they are, the answers of A and B may be swapped for any speaker. The p value is the share of all swaps whose
    difference of the statistic is at least as large as the one seen. For a mean of speakers' scores, this is the
    sign-flip test of the speakers' differences. With many speakers, swaps are drawn, and the one seen counts as one of
    them, so that p is never 0 (Phipson and Smyth 2010, Permutation p-values should never be zero). Groups of speakers
    are swapped together if there are very many; a test with fewer swaps is still exact.
    """
    total_a, total_b = sums_a.sum(axis=0), sums_b.sum(axis=0)
    changes = _in_groups(sums_b - sums_a)
    seen = abs(float(statistic(total_b) - statistic(total_a)))
    extreme, drawn = 0, 0
    for swaps in _swaps(len(changes), changes[0].size):
        moved = np.tensordot(swaps.astype(np.float64), changes, axes=1)
        differences = statistic(total_b - moved) - statistic(total_a + moved)
        extreme += int((np.abs(differences) >= seen - TOLERANCE).sum())
        drawn += len(swaps)
    is_exact = len(changes) <= MOST_EXACT
    return SwapTest(extreme / drawn if is_exact else (extreme + 1) / (drawn + 1), smallest_p(len(changes)))


def equivalence_p(difference: Estimate, margin: float) -> float:
    """Return the p value of two one-sided t tests (TOST): small if the difference is within plus or minus `margin`."""
    if difference.freedom == 0:
        return 1.0
    if difference.error == 0:
        return float(abs(difference.value) >= margin)
    distance = margin - abs(difference.value)
    return float(special.stdtr(difference.freedom, -distance / difference.error))


def _in_groups(changes: Floats) -> Floats:
    if len(changes) <= MOST_GROUPS:
        return changes
    groups = np.random.default_rng(SEED).permutation(len(changes)) % MOST_GROUPS
    sums = np.zeros((MOST_GROUPS, *changes.shape[1:]))
    np.add.at(sums, groups, changes)
    return sums


def _swaps(num_speakers: int, num_columns: int) -> Iterator[np.ndarray]:
    """Yield chunks of swaps, (swaps, speakers) of 0 and 1: all of them, or random ones.

    The last speaker is not swapped in the exact test: with all speakers swapped, the difference changes only its sign.
    """
    chunk = max(1, CHUNK_CELLS // (num_speakers + num_columns))
    if num_speakers <= MOST_EXACT:
        numbers = np.arange(2 ** (num_speakers - 1))
        for start in range(0, len(numbers), chunk):
            yield numbers[start : start + chunk, None] >> np.arange(num_speakers) & 1
        return
    rng = np.random.default_rng(SEED)
    for start in range(0, NUM_DRAWS, chunk):
        yield rng.integers(0, 2, (min(chunk, NUM_DRAWS - start), num_speakers), np.int8)
