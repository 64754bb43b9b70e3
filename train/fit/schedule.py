"""The learning rate of each step."""

import math
from dataclasses import dataclass

from train.fit.params import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The number of steps and the learning rates."""

    shape: Shape
    seed: int
    num_steps: int
    warmup_steps: int
    max_grad_norm: float

    def rate(self, step: int) -> float:
        """Return the learning rate of `step`, counted from 0, as a share of the peak rate.

        Each shape has a logarithmic warm-up. As published, a linear decay to zero follows: DeepSpeed's WarmupDecayLR.
        """
        if step < self.warmup_steps:
            return math.log(step + 2) / math.log(self.warmup_steps + 1)
        if self.shape == "constant":
            return 1.0
        left = (self.num_steps - step) / max(1, self.num_steps - self.warmup_steps)
        return left if self.shape == "as-published" else (1 - math.cos(math.pi * left)) / 2
