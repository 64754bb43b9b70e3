"""Follows the losses of a training: a train loss that does not move, and the best evaluation on the dev split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from train.fit.params import FitParams, StallParams

Record = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Best:
    """The evaluation with the lowest dev loss, and the number of evaluations after it."""

    step: int
    loss: float
    since: int


def best_evaluation(records: Sequence[Record], weights: Mapping[str, float]) -> Best | None:
    """Return the best evaluation of a run; the dev loss is the weighted sum of the terms, as in training."""
    best = None
    for record in records:
        if any(f"dev_{name}" not in record for name in weights):
            continue
        loss = sum(weight * record[f"dev_{name}"] for name, weight in weights.items())
        if best is None or loss < best.loss:
            best = Best(int(record["step"]), loss, 0)
        else:
            best = Best(best.step, best.loss, best.since + 1)
    return best


class Stall:
    """Finds windows of steps in which the train loss has not moved."""

    def __init__(self, params: StallParams) -> None:
        self.params = params
        self.losses: list[float] = []
        self.before: float | None = None
        self.stalls = False

    def add(self, step: int, loss: float) -> str | None:
        """Take the loss of the next step; return a line if the mean of a window is about that of the window before.

        The windows end at multiples of their length. A loss that still does not move is not told again.
        """
        self.losses.append(loss)
        window = self.params.window
        if step % window:
            return None
        complete, mean = len(self.losses) == window, sum(self.losses) / len(self.losses)
        before, self.before, self.losses = self.before, mean if complete else None, []
        if before is None:
            return None
        told, self.stalls = self.stalls, abs(mean - before) < self.params.least_change * abs(before)
        if told or not self.stalls:
            return None
        return (
            f"the loss does not move: its mean was {before:.4g} in steps {step - 2 * window + 1}-{step - window} and "
            f"{mean:.4g} in steps {step - window + 1}-{step}, expected a change of at least "
            f"{self.params.least_change:.2%}"
        )


class Watch:
    """Follows the losses of a run, as its parameters ask."""

    def __init__(
        self,
        settings: FitParams,
        weights: Mapping[str, float],
        records: Sequence[Record],
        best_tensors: dict[str, Tensor] | None,
    ) -> None:
        """Take the weights of the terms, and the records and best tensors of the checkpoint that the run continues."""
        self.weights = weights
        self.keeps_best, self.stop_after = settings.keep == "best", settings.stop_after
        self.best = best_evaluation(records, weights)
        self.best_tensors = best_tensors
        """The trained tensors after the best evaluation, if they are to be kept; only in the main process."""
        self.stall = None if settings.stall is None else Stall(settings.stall)

    @property
    def is_over(self) -> bool:
        """Whether `stop_after` evaluations have brought no better dev loss."""
        return self.stop_after is not None and self.best is not None and self.best.since >= self.stop_after

    def loss(self, values: Mapping[str, float]) -> float:
        """Return the loss of a step."""
        return sum(self.weights[name] * value for name, value in values.items())

    def step(self, step: int, values: Mapping[str, float]) -> str | None:
        """Take the means of the next step; return a line if the loss does not move."""
        return None if self.stall is None else self.stall.add(step, self.loss(values))

    def evaluated(self, records: Sequence[Record], copy: Callable[[], dict[str, Tensor]] | None) -> None:
        """Take the records after an evaluation; keep a copy of the trained tensors if it is the best."""
        self.best = best_evaluation(records, self.weights)
        if self.keeps_best and copy is not None and self.best is not None and self.best.since == 0:
            self.best_tensors = copy()
