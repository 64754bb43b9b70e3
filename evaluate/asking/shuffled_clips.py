"""The control with wrong clips: every row gets the clip of another row.

The rows that may give their clip to a row are never listed, because there may be as many for each row as there are
rows. They are counted instead: all rows of the corpus, without those of the same speaker, without those of the same
words, plus those of both. A binary search over such counts finds the nearest of them, and the one that is drawn. So
time grows with n log n: 10,000 rows take half a second, and 100,000 rows 7 s.
"""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.stage import say

Pairs = list[tuple[int, int]]
"""The number of each row, and the number of the row whose clip is given."""

Ints = NDArray[np.int64]

_SHOWN = 10  # ids of the rows without a wrong clip


def own_clips(rows: Collection[object]) -> Pairs:
    """Return the pairs in which every row has its own clip."""
    return [(number, number) for number in range(len(rows))]


def wrong_clips(
    rows: Sequence[Mapping[str, Any]], differ: Sequence[str], seed: int, *, similar: str | None = None
) -> Pairs:
    """Return the pairs in which every row has another row's clip; a row for which there is no such clip has no pair.

    The other row differs in all columns named by `differ`. It comes from the same corpus if possible. If `similar` is
    given, it has the nearest value in this column. One of the nearest rows is drawn at random.
    """
    codes = [_codes(row[name] for row in rows) for name in differ]
    corpora = _codes(row["corpus"] for row in rows)
    sizes = np.array([0 if similar is None else row[similar] for row in rows], np.int64)
    in_corpus = _Clips(corpora, codes, sizes)
    everyone = np.arange(len(rows))
    anywhere, lonely = _Clips(np.zeros_like(corpora), codes, sizes), in_corpus.count(everyone) == 0
    found = [in_corpus.nearest(everyone[~lonely]), anywhere.nearest(everyone[lonely & (anywhere.count(everyone) > 0)])]
    generator = np.random.Generator(np.random.PCG64(seed))
    counts = dict(zip(_joined(f.rows for f in found), _joined(f.counts for f in found), strict=True))
    drawn = {row: int(generator.integers(counts[row])) for row in sorted(counts)}
    clips = [
        of.take(near, np.array([drawn[row] for row in near.rows.tolist()], np.int64))
        for of, near in zip((in_corpus, anywhere), found, strict=True)
    ]
    return sorted(zip(_joined(f.rows for f in found), _joined(clips), strict=True))


def _joined(arrays: Iterable[Ints]) -> list[int]:
    return np.concatenate(list(arrays)).tolist()  # type: ignore[no-any-return]


def _codes(values: Iterable[Hashable]) -> Ints:
    """Number the distinct values; return the number of each value."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


@dataclass(frozen=True, slots=True)
class _Nearest:
    """The nearest clips of some rows: those of one size, or of two sizes at the same distance."""

    rows: Ints
    lower: Ints
    """The rank at which the clips of the smaller size begin; a rank of any clip of this size will do."""
    upper: Ints
    """As `lower`, of the larger size; the same if there is only one size."""
    counts: Ints


class _Clips:
    """The clips that rows may be given, in the order of pool, size and number; a rank is a place in this order.

    A row may be given the clips of its pool that have another code than its own in each of `differ`. All arrays have
    an entry for each row.
    """

    def __init__(self, pools: Ints, differ: Sequence[Ints], sizes: Ints) -> None:
        self.num = len(pools)
        self.sizes = sizes
        self.order = np.lexsort((sizes, pools))
        ranks = np.empty_like(self.order)
        ranks[self.order] = np.arange(self.num)
        sorted_pools = pools[self.order]
        self.first, self.last = (np.searchsorted(sorted_pools, pools, side) for side in ("left", "right"))
        levels = np.stack([pools, sizes], axis=1)[self.order]
        new_level = np.r_[False, (levels[1:] != levels[:-1]).any(1)]
        self.level = np.cumsum(new_level)  # of each rank: ranks of a pool and a size have the same level
        self.numbers = self.level * self.num + self.order  # rises with the rank
        self.groups = []  # of rows that share some of the columns: sign, keys of the ranks, first key, keys before it
        for count in range(1, len(differ) + 1):
            for chosen in combinations(differ, count):
                code = np.unique(np.stack([pools, *chosen], axis=1), axis=0, return_inverse=True)[1].ravel()
                members = np.sort(code * self.num + ranks)
                self.groups.append(((-1) ** count, members, code * self.num, np.searchsorted(members, code * self.num)))
        self.own_rank = ranks

    def count(self, rows: Ints) -> Ints:
        """Return how many clips each row may be given."""
        return self._before(rows, self.last[rows])

    def nearest(self, rows: Ints) -> _Nearest:
        """Find the clips of the most similar size; each row must have a clip that it may be given."""
        start = np.searchsorted(self.level, self.level[self.own_rank[rows]])
        smaller, all_clips = self._before(rows, start), self.count(rows)
        below = self._select(rows, np.maximum(smaller - 1, 0))
        above = self._select(rows, np.minimum(smaller, all_clips - 1))
        far = np.iinfo(np.int64).max
        down = np.where(smaller > 0, self.sizes[rows] - self.sizes[self.order[below]], far)
        up = np.where(smaller < all_clips, self.sizes[self.order[above]] - self.sizes[rows], far)
        lower, upper = np.where(down <= up, below, above), np.where(up <= down, above, below)
        return _Nearest(rows, lower, upper, self._up_to(rows, lower, upper, np.full_like(rows, self.num)))

    def take(self, near: _Nearest, drawn: Ints) -> Ints:
        """Return the number of the row whose clip is drawn: number `drawn` of the nearest, in the order of the rows."""
        low, high = np.zeros_like(near.rows), np.full_like(near.rows, self.num)
        while (low < high).any():
            middle = (low + high) // 2
            enough = self._up_to(near.rows, near.lower, near.upper, middle + 1) > drawn
            low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
        return low

    def _up_to(self, rows: Ints, lower: Ints, upper: Ints, numbers: Ints) -> Ints:
        """Count the clips of two sizes, given by a rank each, that come from rows below `numbers`."""
        count = self._of_level(rows, self.level[lower], numbers)
        count[lower != upper] += self._of_level(rows, self.level[upper], numbers)[lower != upper]
        return count

    def _of_level(self, rows: Ints, level: Ints, numbers: Ints) -> Ints:
        start = np.searchsorted(self.numbers, level * self.num)
        stop = np.searchsorted(self.numbers, level * self.num + numbers)
        return self._before(rows, stop) - self._before(rows, start)

    def _select(self, rows: Ints, places: Ints) -> Ints:
        """Return the rank of clip number `places` of those that each row may be given."""
        low, high = self.first[rows], self.last[rows]
        while (low < high).any():
            middle = (low + high) // 2
            enough = self._before(rows, middle + 1) > places
            low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
        return low

    def _before(self, rows: Ints, ranks: Ints) -> Ints:
        """Count the clips of lower rank that each row may be given."""
        count: Ints = ranks - self.first[rows]
        for sign, members, start, num_before in self.groups:
            count += sign * (np.searchsorted(members, start[rows] + ranks) - num_before[rows])
        return count


def tell_missing(kind: str, rows: Sequence[Mapping[str, Any]], pairs: Pairs, expected: str) -> None:
    """Say which rows have no wrong clip, with their ids, and what the test split would need."""
    having = {number for number, _ in pairs}
    ids = [row["id"] for number, row in enumerate(rows) if number not in having]
    if ids:
        shown = ", ".join(ids[:_SHOWN]) + (f" and {len(ids) - _SHOWN:,} more" if len(ids) > _SHOWN else "")
        found = f"found no wrong clip for {len(ids):,} of {len(rows):,} test clips, expected {expected}"
        say(f"respond: {kind}: {found}; these clips are not in this control: {shown}")
