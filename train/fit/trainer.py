"""A training step of both stages, on accelerate.

The batches of an optimizer step are divided over the processes. Each term of the loss is a sum over its units (response
tokens or labelled clips), divided by the number of units in the whole step. So the loss does not depend on the division
of a step into batches and processes. The random draws follow from (seed, step, batch), and the order of the data from
(seed, epoch). So a run that continues from a checkpoint equals a run without interruption.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.stage import UserError
from train.fit.checkpoint import Checkpoint
from train.fit.objectives import Objective, recalled, unweighted_accuracy
from train.fit.schedule import Schedule
from train.fit.sharded_llm import prepare_model
from train.fit.step_result import StepResult, check_finite, send
from train.model import Batch


class Trainer:
    """Trains the parameters of `model` that require a gradient."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        accelerator: Accelerator,
    ) -> None:
        self.schedule = schedule
        self.objective = objective
        self.terms = tuple(objective.weights)
        self.accelerator = accelerator
        self.peak_rates = [group["lr"] for group in optimizer.param_groups]
        self.model, self.optimizer = prepare_model(model, accelerator), accelerator.prepare(optimizer)
        plain = accelerator.unwrap_model(self.model)
        self.reached: Callable[[], None] = lambda: None
        """Is called before this process waits for the others, equally often in all processes."""
        self.checkpoints_layers = bool(getattr(plain, "checkpoints_layers", False))
        self.trained = {name: p for name, p in plain.named_parameters() if p.requires_grad}
        self.state = self.trained | {
            name: buffer for name, buffer in plain.named_buffers() if name in plain.state_dict()
        }

    def step(
        self, step: int, batches: Sequence[Batch], num_spare: int = 0, stop: Callable[[], bool] = lambda: False
    ) -> StepResult:
        """Run optimizer step `step` on batches that lie on the CPU; `stop` says whether this process should stop.

        The last `num_spare` batches have no weight. They run only because all processes have to run equally often.
        """
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * self.schedule.rate(step)
        self.model.train()
        weights = [1.0] * (len(batches) - num_spare) + [0.0] * num_spare
        counted = [self.objective.counts(batch) for batch in batches]  # on the CPU, so that no GPU is asked
        units = [sum(w * c[name] for w, c in zip(weights, counted, strict=True)) for name in self.terms]
        counts = self._over_processes(self._on_device(units)).clamp(min=1)
        means = []
        for i, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
            number = i * self.accelerator.num_processes + self.accelerator.process_index
            torch.manual_seed(hash((self.schedule.seed, step, number)))
            waits = i < len(batches) - 1
            with self.accelerator.no_sync(self.model) if waits else nullcontext():
                means.append(self._backward(batch.to(self.accelerator.device), weight, counts))
        norm = self.accelerator.clip_grad_norm_(self.trained.values(), self.schedule.max_grad_norm).double().view(1)
        total = self._over_processes(
            torch.cat([sum(means, torch.zeros_like(counts)), self._on_device([float(stop())])])
        )
        self._update(torch.cat([total, norm]).isfinite().all())
        numbers = torch.cat([norm, total, *means])
        return send(f"fit: step {step + 1}", self.terms, [batch.ids for batch in batches], numbers)

    def evaluate(self, batches: Iterator[Batch], num_counted: int | None = None) -> dict[str, float]:
        """Return the mean of each term over the given batches of all processes, without training.

        Only the first `num_counted` batches have a weight (None: all have); the others run because all processes have
        to run a sharded LLM equally often.

        With an emotion head, dev_ua is its unweighted accuracy: the mean recall over the emotions that occur.
        """
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        zeros: Mapping[str, float] = dict.fromkeys(self.objective.weights, 0.0)
        counts, sums = [zeros], [zeros]
        num_emotions = self.objective.num_emotions
        emotions = torch.zeros(2, num_emotions, dtype=torch.float64, device=self.accelerator.device)
        with torch.no_grad():
            for i, batch in enumerate(batches):
                on_device = batch.to(self.accelerator.device)
                outputs = model(on_device)
                if num_counted is not None and i >= num_counted:
                    continue
                counts.append(self.objective.counts(batch))
                if num_emotions:
                    emotions += recalled(outputs.emotion, on_device.emotion)
                terms = self.objective.sums(outputs, on_device)
                sums.append(check_finite("fit: dev split", terms, batch.ids))
        totals, units = (
            self._over_processes(self._on_device([added[name] for name in self.terms])).tolist()
            for added in (_added(sums), _added(counts))
        )
        values = {
            f"dev_{name}": total / max(1.0, count) for name, total, count in zip(self.terms, totals, units, strict=True)
        }
        emotions = self._over_processes(emotions)
        return values | ({"dev_ua": unweighted_accuracy(emotions)} if emotions.sum() > 0 else {})

    def any_process(self, condition: bool) -> bool:
        """Return whether a condition holds in any process; all processes have to ask."""
        return bool(self._over_processes(self._on_device([float(condition)])).item())

    def tensors(self) -> dict[str, Tensor]:
        """Return a copy of the trained tensors and buffers on the CPU."""
        return {name: _copy(tensor) for name, tensor in self.state.items()}

    def checkpoint(
        self, step: int, records: list[dict[str, float]], seconds: float, best: dict[str, Tensor] | None = None
    ) -> Checkpoint:
        """Return a copy of the state after `step` steps, with the records and the time so far.

        `best` are the best tensors, if they are kept.
        """
        optimizer = self.optimizer.state_dict()
        moments = {i: {name: _copy(value) for name, value in state.items()} for i, state in optimizer["state"].items()}
        return Checkpoint(step, self.tensors(), {**optimizer, "state": moments}, list(records), seconds, best)

    def check_weights(self) -> None:
        """Raise UserError if a trained weight is infinite or not a number."""
        for name, tensor in self.trained.items():
            if not tensor.isfinite().all():
                raise UserError(
                    f"fit: weight {name}: found infinite values or no numbers after the last step, expected finite "
                    "numbers; lower the learning rate; the last checkpoint is kept"
                )

    def restore(self, state: Checkpoint) -> None:
        """Set model and optimizer to the state of a checkpoint."""
        self.set_tensors(state.model)
        self.optimizer.load_state_dict(state.optimizer)

    @torch.no_grad()
    def set_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the trained tensors and buffers to these."""
        for name, tensor in tensors.items():
            self.state[name].copy_(tensor)

    def _backward(self, batch: Batch, weight: float, counts: Float[Tensor, " terms"]) -> Float[Tensor, " terms"]:
        """Add the gradient of a batch; return its share of the mean of each term."""
        sums = self.objective.sums(self.model(batch), batch)
        means = {
            name: weight * sums[name] / count.to(sums[name].dtype)
            for name, count in zip(self.terms, counts, strict=True)
        }
        # accelerate averages the gradients over processes; the factor num_processes turns the average into a sum.
        loss = sum(self.objective.weights[name] * mean for name, mean in means.items())
        self.reached()
        self.accelerator.backward(loss * self.accelerator.num_processes)
        return torch.stack([mean.detach().double() for mean in means.values()])

    def _update(self, finite: Tensor) -> None:
        """Run the optimizer, unless a loss or the gradient is not finite: then weights and moments stay as they are.

        On a GPU, the kernel of the fused optimizer reads `found_inf`, so the CPU does not wait for it.
        """
        if self.optimizer.param_groups[0].get("fused"):
            self.optimizer.optimizer.found_inf = (~finite).float()
            self.optimizer.step()
        elif finite:
            self.optimizer.step()
        self.optimizer.zero_grad()

    def _on_device(self, values: Sequence[float]) -> Float[Tensor, " n"]:
        return torch.tensor(values, dtype=torch.float64).to(self.accelerator.device, non_blocking=True)

    def _over_processes(self, values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        self.reached()
        total: Tensor = self.accelerator.reduce(values, "sum")
        return total


def _copy(value: Any) -> Any:
    """Return a copy of a tensor on the CPU; other values as they are."""
    return value.detach().to("cpu", copy=True).contiguous() if isinstance(value, Tensor) else value


def _added(terms: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for values in terms:
        for name, value in values.items():
            total[name] = total.get(name, 0.0) + value
    return total
