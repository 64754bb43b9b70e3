"""The speech embeddings of test clips, each computed once as long as memory lasts."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

MAX_BYTES = 1 << 30
"""Memory of a process for embeddings. Those of a clip of 5 s, before and after training, have 147 KB in float32 for an
LLM of width 576, and 459 KB in bfloat16 for one of width 3,584. Batches go from long clips to short ones, and a wrong
clip has a similar length. So the clips of a test set of 100 h are encoded once as well, although not all fit at once.
"""


class ClipEmbeddings:
    """Keeps embeddings on the CPU; beyond `max_bytes`, the groups that were needed longest ago are left out.

    The clips of a group are always encoded together, so rounding does not depend on what was asked for before. Each of
    several processes encodes the groups that it needs.
    """

    def __init__(
        self, encode: Callable[[list[int]], Sequence[Tensor]], groups: Sequence[list[int]], max_bytes: int = MAX_BYTES
    ) -> None:
        """`encode` computes what is kept of the clips of the rows in a group."""
        self.encode, self.groups, self.max_bytes = encode, groups, max_bytes
        self._group_of = {row: number for number, group in enumerate(groups) for row in group}
        self._kept: dict[int, dict[int, Tensor]] = {}  # in the order of their last use
        self._num_bytes = 0

    def __call__(self, rows: Sequence[int]) -> list[Tensor]:
        """Return the embeddings of the clips of rows."""
        found: dict[int, Tensor] = {}
        for number in dict.fromkeys(self._group_of[row] for row in rows):
            group = self._kept.pop(number, None)
            if group is None:
                encoded = self.encode(self.groups[number])
                group = {row: clip.cpu() for row, clip in zip(self.groups[number], encoded, strict=True)}
                self._num_bytes += _num_bytes(group)
            self._kept[number] = group
            found |= group
        while self._num_bytes > self.max_bytes:
            self._num_bytes -= _num_bytes(self._kept.pop(next(iter(self._kept))))
        return [found[row] for row in rows]


def _num_bytes(group: Mapping[int, Tensor]) -> int:
    return sum(clip.nbytes for clip in group.values())
