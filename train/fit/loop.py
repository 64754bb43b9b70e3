"""The training loop of both stages, on accelerate.

The batches of an optimizer step are divided over the processes. Each term of the loss is a sum over its units (response
tokens or labelled clips), divided by the number of units in the whole step. So the loss does not depend on the division
of a step into batches and processes. The random draws follow from (seed, step, batch), and the order of the data from
(seed, epoch). So a run that continues from a checkpoint equals a run without interruption.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pipeline.stage import UserError
from train.data.dataset import Collator, Examples, Visit, visits
from train.data.sampler import Sampler, of_rank
from train.fit import checkpoint
from train.fit.checkpoint import Checkpoint
from train.fit.objectives import Objective
from train.fit.progress import Progress
from train.fit.schedule import Schedule
from train.model import Batch

BATCHES_AHEAD = 4
"""Batches that each worker reads ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The train split, and the dev split if there is one."""

    train: Examples
    sampler: Sampler
    dev: Examples | None
    dev_rows: list[list[int]]
    """The rows of each batch of the dev split."""
    collate: Collator
    dev_collate: Collator
    workers: int

    def batches(self, batches: Iterable[list[Visit] | list[int]]) -> Iterator[Batch]:
        """Return an iterator over batches of these visits of train rows; workers read some batches ahead.

        A row number in place of a visit reads the clip as it is packed.
        """
        return iter(
            DataLoader(
                self.train,
                batch_sampler=batches,
                collate_fn=self.collate,
                num_workers=self.workers,
                prefetch_factor=BATCHES_AHEAD if self.workers else None,
                pin_memory=torch.cuda.is_available(),
            )
        )

    def dev_batches(self, process: int, num_processes: int) -> Iterator[Batch]:
        """Return an iterator over this process's share of the dev split."""
        assert self.dev is not None
        rows = self.dev_rows[process::num_processes]
        return iter(DataLoader(self.dev, batch_sampler=rows, collate_fn=self.dev_collate))


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

    def step(self, step: int, batches: Sequence[Batch], num_spare: int = 0) -> dict[str, float]:
        """Run optimizer step `step`; return the mean of each term over its units.

        The last `num_spare` batches have no weight. They run only because all processes have to run equally often.
        """
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * self.schedule.rate(step)
        self.model.train()
        batches = [batch.to(self.accelerator.device) for batch in batches]
        weights = [1.0] * (len(batches) - num_spare) + [0.0] * num_spare
        counts = self._over_processes(
            _added(
                {name: weight * count for name, count in self.objective.counts(batch).items()}
                for batch, weight in zip(batches, weights, strict=True)
            )
        )
        means: list[Mapping[str, float]] = []
        for i, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
            number = i * self.accelerator.num_processes + self.accelerator.process_index
            torch.manual_seed(hash((self.schedule.seed, step, number)))
            waits = i < len(batches) - 1
            with self.accelerator.no_sync(self.model) if waits else nullcontext():
                means.append(self._backward(step, batch, weight, counts))
        norm = self.accelerator.clip_grad_norm_(self.trained.values(), self.schedule.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        # read after the step, so that a GPU need not wait
        check_finite(
            f"fit: step {step + 1}", {"norm of the gradient": norm}, [i for batch in batches for i in batch.ids]
        )
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
                sums.append(check_finite("fit: dev split", terms, batch.ids))
        totals, units = self._over_processes(_added(sums)), self._over_processes(_added(counts))
        return {f"dev_{name}": total / max(1.0, units[name]) for name, total in totals.items()}

    def checkpoint(self, step: int, records: list[dict[str, float]]) -> Checkpoint:
        """Return the state after `step` steps, with the records so far."""
        tensors = {name: tensor.detach().cpu() for name, tensor in self.state.items()}
        return Checkpoint(step, tensors, self.optimizer.state_dict(), records)

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
        with torch.no_grad():
            for name, tensor in state.model.items():
                self.state[name].copy_(tensor)
        self.optimizer.load_state_dict(state.optimizer)

    def _backward(self, step: int, batch: Batch, weight: float, counts: Mapping[str, float]) -> dict[str, float]:
        sums = self.objective.sums(self.model(batch), batch)
        means = {name: weight * total / max(1.0, counts[name]) for name, total in sums.items()}
        # accelerate averages the gradients over processes; the factor num_processes turns the average into a sum.
        loss = sum(self.objective.weights[name] * mean for name, mean in means.items())
        self.accelerator.backward(loss * self.accelerator.num_processes)
        return check_finite(f"fit: step {step + 1}", means, batch.ids)

    def _over_processes(self, values: Mapping[str, float]) -> dict[str, float]:
        tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(values, self.accelerator.reduce(tensor, "sum").tolist(), strict=True))


def check_finite(where: str, values: Mapping[str, Tensor], ids: Sequence[str]) -> dict[str, float]:
    """Return values as numbers; raises UserError with the ids of the batch if one is infinite or not a number."""
    numbers = {name: float(value.detach()) for name, value in values.items()}
    for name, number in numbers.items():
        if not math.isfinite(number):
            batch = ", ".join(ids) or "unknown"
            raise UserError(f"{where}: found {name} {number}, expected a finite number; clips of the batch: {batch}")
    return numbers


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
    rank, num_ranks = trainer.accelerator.process_index, trainer.accelerator.num_processes
    steps = islice(data.sampler.steps(progress.first_step), schedule.num_steps - progress.first_step)
    for_loader, for_loop = tee((epoch, *of_rank(step, rank, num_ranks)) for epoch, step in steps)
    # the loader reads ahead
    batches = data.batches(visits(rows, epoch) for epoch, own, _ in for_loader for rows in own)
    if progress.first_step == 0:
        _evaluate(trainer, data, progress, 0)
    for step, (_, own, num_spare) in enumerate(for_loop, progress.first_step):
        started = time.monotonic()
        taken = [next(batches) for _ in own]
        waited_s = time.monotonic() - started
        values = trainer.step(step, taken, num_spare)
        done = step + 1
        progress.step(sum(batch.num_positions for batch in taken[: len(own) - num_spare]) * num_ranks, waited_s)
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
    batches = data.dev_batches(accelerator.process_index, accelerator.num_processes)
    values = trainer.evaluate(batches)
    progress.log_dev(step, values, time.monotonic() - started)
