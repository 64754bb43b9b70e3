"""The training loop of both stages, on accelerate.

An optimizer step uses `accumulation` batches on each process. Each term of the loss is a sum over its units (response
tokens or labelled clips), divided by the number of units in the whole step. So the loss does not depend on the division
of a step into batches and processes. The random draws of a step and the order of the data follow from (seed, step,
process). So a run that continues from a checkpoint equals a run without interruption.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from train.data.dataset import Collator, Examples
from train.data.sampler import plan
from train.fit import checkpoint
from train.fit.checkpoint import Checkpoint
from train.fit.objectives import Objective
from train.fit.progress import Progress
from train.model import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The number of steps, the batches of a step, and the learning rates."""

    seed: int
    num_steps: int
    batch_size: int
    accumulation: int
    warmup_steps: int
    max_grad_norm: float

    def rate(self, step: int) -> float:
        """Return the learning rate of `step`, counted from 0, as a share of the peak rate.

        The rate has a logarithmic warm-up, then a linear decay to zero: DeepSpeed's WarmupDecayLR, as published.
        """
        if step < self.warmup_steps:
            return math.log(step + 2) / math.log(self.warmup_steps + 1)
        return (self.num_steps - step) / max(1, self.num_steps - self.warmup_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The train split, and the dev split if there is one."""

    train: Examples
    train_lengths: Sequence[int]
    dev: Examples | None
    collate: Collator
    dev_collate: Collator
    workers: int

    def batches(self, rows: list[list[int]]) -> Iterator[Batch]:
        """Return an iterator over the batches with these train rows."""
        return iter(DataLoader(self.train, batch_sampler=rows, collate_fn=self.collate, num_workers=self.workers))

    def dev_batches(self, batch_size: int, process: int, num_processes: int) -> Iterator[Batch]:
        """Return an iterator over this process's share of the dev split."""
        assert self.dev is not None
        rows = list(range(len(self.dev)))[process::num_processes]
        batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        return iter(DataLoader(self.dev, batch_sampler=batches, collate_fn=self.dev_collate))


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
        self.accelerator = accelerator
        self.peak_rates = [group["lr"] for group in optimizer.param_groups]
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        plain = accelerator.unwrap_model(self.model)
        self.trained = {name: p for name, p in plain.named_parameters() if p.requires_grad}
        self.state = self.trained | {
            name: buffer for name, buffer in plain.named_buffers() if name in plain.state_dict()
        }

    def plan(self, lengths: Sequence[int], first_step: int) -> list[list[int]]:
        """Return the batches of this process from `first_step` on, as row numbers."""
        schedule, num_processes = self.schedule, self.accelerator.num_processes
        per_step = schedule.accumulation * num_processes
        batches = plan(lengths, schedule.batch_size, schedule.seed, schedule.num_steps * per_step)
        return batches[first_step * per_step + self.accelerator.process_index :: num_processes]

    def step(self, step: int, batches: Sequence[Batch]) -> dict[str, float]:
        """Run optimizer step `step`; return the mean of each term over its units."""
        torch.manual_seed(hash((self.schedule.seed, step, self.accelerator.process_index)))
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * self.schedule.rate(step)
        self.model.train()
        batches = [batch.to(self.accelerator.device) for batch in batches]
        counts = self._over_processes(_added(self.objective.counts(batch) for batch in batches))
        means: list[Mapping[str, float]] = []
        for i, batch in enumerate(batches):
            if i < len(batches) - 1:
                with self.accelerator.no_sync(self.model):
                    means.append(self._backward(batch, counts))
            else:
                means.append(self._backward(batch, counts))
        self.accelerator.clip_grad_norm_(self.trained.values(), self.schedule.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self._over_processes(_added(means))

    def evaluate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Return the mean of each term over the given batches of all processes, without training."""
        # DistributedDataParallel waits for all processes at each batch, but processes may have different numbers of
        # batches, so evaluation uses the model without it.
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        zeros: Mapping[str, float] = dict.fromkeys(self.objective.weights, 0.0)
        counts, sums = [zeros], [zeros]
        with torch.no_grad():
            for batch in batches:
                batch = batch.to(self.accelerator.device)
                terms = self.objective.sums(model(batch), batch)
                counts.append(self.objective.counts(batch))
                sums.append({name: float(term) for name, term in terms.items()})
        totals, units = self._over_processes(_added(sums)), self._over_processes(_added(counts))
        return {f"dev_{name}": total / max(1.0, units[name]) for name, total in totals.items()}

    def checkpoint(self, step: int, records: list[dict[str, float]]) -> Checkpoint:
        """Return the state after `step` steps, with the records so far."""
        tensors = {name: tensor.detach().cpu() for name, tensor in self.state.items()}
        return Checkpoint(step, tensors, self.optimizer.state_dict(), records)

    def restore(self, state: Checkpoint) -> None:
        """Set model and optimizer to the state of a checkpoint."""
        with torch.no_grad():
            for name, tensor in state.model.items():
                self.state[name].copy_(tensor)
        self.optimizer.load_state_dict(state.optimizer)

    def _backward(self, batch: Batch, counts: Mapping[str, float]) -> dict[str, float]:
        sums = self.objective.sums(self.model(batch), batch)
        means = {name: total / max(1.0, counts[name]) for name, total in sums.items()}
        # accelerate averages the gradients over processes; the factor num_processes turns the average into a sum.
        loss = sum(self.objective.weights[name] * mean for name, mean in means.items())
        self.accelerator.backward(loss * self.accelerator.num_processes)
        return {name: float(mean.detach()) for name, mean in means.items()}

    def _over_processes(self, values: Mapping[str, float]) -> dict[str, float]:
        tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(values, self.accelerator.reduce(tensor, "sum").tolist(), strict=True))


def _added(terms: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for values in terms:
        for name, value in values.items():
            total[name] = total.get(name, 0.0) + value
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """The numbers of steps between two log lines, two evaluations on the dev split, and two checkpoints."""

    log: int
    evaluate: int
    save: int


def train(trainer: Trainer, data: Data, progress: Progress, intervals: Intervals, folder: Path) -> None:
    """Run all steps from `progress.first_step` on; write checkpoints to `folder`."""
    schedule = trainer.schedule
    batches = data.batches(trainer.plan(data.train_lengths, progress.first_step))
    if progress.first_step == 0:
        _evaluate(trainer, data, progress, 0)
    for step in range(progress.first_step, schedule.num_steps):
        taken = [next(batches) for _ in range(schedule.accumulation)]
        values = trainer.step(step, taken)
        done = step + 1
        progress.step(sum(batch.num_positions for batch in taken) * trainer.accelerator.num_processes)
        if done % intervals.log == 0 or done == schedule.num_steps:
            loss = sum(trainer.objective.weights[name] * value for name, value in values.items())
            progress.log(done, {"loss": loss, **values, "lr": schedule.rate(step) * trainer.peak_rates[0]})
        if done % intervals.evaluate == 0 or done == schedule.num_steps:
            _evaluate(trainer, data, progress, done)
        if done % intervals.save == 0 and trainer.accelerator.is_main_process:
            checkpoint.save(folder, trainer.checkpoint(done, progress.records))


def _evaluate(trainer: Trainer, data: Data, progress: Progress, step: int) -> None:
    if data.dev is None:
        return
    accelerator, started = trainer.accelerator, time.monotonic()
    batches = data.dev_batches(trainer.schedule.batch_size, accelerator.process_index, accelerator.num_processes)
    values = trainer.evaluate(batches)
    progress.log_dev(step, values, time.monotonic() - started)
