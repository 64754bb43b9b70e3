"""Gathering: positions of one sequence that become another sequence, and the few sizes to which sequences are padded.

In the packed layout, all indices are made with the batch, on the CPU. So no step waits until a GPU has counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from train.model.shipping import Shipped

SIZES, FEW_SIZES = 16, 4
"""The sizes from a power of two to the next one to which positions are rounded up, and to which rows are, and the
length of the longest row: on a GPU, the two cost nothing."""


def rounded_up(size: int, num_sizes: int = SIZES) -> int:
    """Return the next one of a few sizes, `num_sizes` from a power of two to the next; less than 1 / num_sizes more."""
    step = max(1, (1 << max(0, size.bit_length() - 1)) // num_sizes)
    return -(-size // step) * step


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection(Shipped):
    """Some positions of a sequence, which are another sequence, and padding. To take or to place them reads no GPU."""

    places: Int[Tensor, " n"]
    """The position of each selected one, then l at padding."""
    numbers: Int[Tensor, " l"]
    """For each position of the sequence, its number among the selected ones; n if it is not selected."""

    @staticmethod
    def of(selected: Bool[np.ndarray, " l"], *, round_up: bool = False) -> "Selection":
        """Return the selection of the positions that are true; `round_up` adds padding, so that few sizes occur."""
        found = np.flatnonzero(selected)
        size = rounded_up(len(found)) if round_up else len(found)
        numbers = np.full(len(selected), size)
        numbers[found] = np.arange(len(found))
        places = np.pad(found, (0, size - len(found)), constant_values=len(selected))
        return Selection(places=torch.from_numpy(places), numbers=torch.from_numpy(numbers))

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Selection":
        """Return a selection whose tensors are `change` of these."""
        return Selection(places=change(self.places), numbers=change(self.numbers))

    def taken(self, x: Float[Tensor, "l ..."]) -> Float[Tensor, "n ..."]:
        """Return the selected values, then 0."""
        return gather(x, self.places, self.numbers)

    def placed(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "l ..."]:
        """Return values at the selected positions; 0 elsewhere."""
        return gather(x, self.numbers, self.places)


def gather(x: Float[Tensor, "s ..."], index: Int[Tensor, "*i"], inverse: Int[Tensor, "s ..."]) -> Float[Tensor, "..."]:
    """Return the rows of `x` with these numbers; the number s stands for zeros.

    `inverse` holds, for each row of `x`, where it stands in the flattened result: one place, or several with the
    number of places in the result where there is none.
    """
    found: Tensor = _Gather.apply(x, index, inverse)  # type: ignore[no-untyped-call]
    return found


class _Gather(torch.autograd.Function):
    """Gathers rows; so does its gradient, which is faster on a GPU than that of indexing, and always the same."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "s ..."], index: Int[Tensor, "*i"], inverse: Int[Tensor, "s ..."]
    ) -> Float[Tensor, "..."]:
        ctx.save_for_backward(index, inverse)
        return _with_zeros(x, index)

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "..."]) -> tuple[Float[Tensor, "s ..."], None, None]:
        index, inverse = ctx.saved_tensors
        found = _with_zeros(gradient.flatten(0, index.ndim - 1), inverse)
        return found if inverse.ndim == 1 else found.sum(1), None, None


def _with_zeros(x: Float[Tensor, "s ..."], index: Int[Tensor, "*i"]) -> Float[Tensor, "..."]:
    padded = torch.cat([x, x.new_zeros(1, *x.shape[1:])])
    found: Tensor = padded.index_select(0, index.flatten()).unflatten(0, index.shape)
    return found
