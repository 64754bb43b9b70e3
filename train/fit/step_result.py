"""The numbers of an optimizer step, which a GPU sends while it computes the next step.

To read a number at once, the CPU would wait for the GPU, and the GPU would then wait for the CPU.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.stage import UserError

NORM = "norm of the gradient"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step has computed; complete on the CPU once `copied` has happened."""

    where: str
    """Names the step in messages."""
    terms: tuple[str, ...]
    """The names of the terms of the loss."""
    ids: tuple[tuple[str, ...], ...]
    """The ids of the clips of each batch of this process."""
    numbers: Float[Tensor, " n"]
    """The norm of the gradient; the means of the terms over all processes, and the number of processes that a signal
    has asked to stop; the terms of each batch of this process."""
    copied: torch.cuda.Event | None

    def read(self) -> tuple[dict[str, float], bool]:
        """Return the mean of each term over its units, and whether a process has been asked to stop.

        Raises UserError with the ids of the clips if a number is infinite or not a number.
        """
        if self.copied is not None:
            self.copied.synchronize()
        norm, *numbers = self.numbers.tolist()
        count = len(self.terms)
        means, stop, own = numbers[:count], numbers[count], numbers[count + 1 :]
        for i, ids in enumerate(self.ids):
            check_finite(self.where, dict(zip(self.terms, own[i * count : (i + 1) * count], strict=True)), ids)
        check_finite(self.where, {NORM: norm}, [i for ids in self.ids for i in ids])
        for name, mean in zip(self.terms, means, strict=True):
            if not math.isfinite(mean):
                raise UserError(f"{self.where}: found {name} {mean} in another process, expected a finite number")
        return dict(zip(self.terms, means, strict=True)), stop > 0


def send(
    where: str, terms: tuple[str, ...], ids: Sequence[tuple[str, ...]], numbers: Float[Tensor, " n"]
) -> StepResult:
    """Start to copy the numbers of a step to the CPU, and do not wait."""
    on_cpu = numbers.to("cpu", non_blocking=True)
    copied = None
    if numbers.is_cuda:
        copied = torch.cuda.Event()
        copied.record()
    return StepResult(where=where, terms=terms, ids=tuple(ids), numbers=on_cpu, copied=copied)


def check_finite(where: str, values: Mapping[str, Tensor | float], ids: Sequence[str]) -> dict[str, float]:
    """Return values as numbers; raises UserError with the ids of the batch if one is infinite or not a number."""
    numbers = {name: float(value.detach() if isinstance(value, Tensor) else value) for name, value in values.items()}
    for name, number in numbers.items():
        if not math.isfinite(number):
            batch = ", ".join(ids) or "unknown"
            raise UserError(f"{where}: found {name} {number}, expected a finite number; clips of the batch: {batch}")
    return numbers
