"""The training loop of both stages: steps, evaluations on the dev split and checkpoints, until the end or a signal."""

import time
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, takewhile, tee

from train.data.dataset import visits
from train.data.sampler import of_rank
from train.fit import signals
from train.fit.answers import Answers
from train.fit.checkpoint import Writer
from train.fit.data import Data
from train.fit.hang import HangWatch
from train.fit.out_of_memory import stops_without_memory
from train.fit.progress import Progress
from train.fit.signals import StopSignal
from train.fit.step_result import StepResult
from train.fit.trainer import Trainer
from train.fit.watch import Watch
from train.model import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """The numbers of steps between two log lines, two evaluations on the dev split, and two checkpoints."""

    log: int
    evaluate: int
    save: int

    def any_due(self, done: int, num_steps: int) -> bool:
        """Return whether anything is due after `done` of `num_steps` steps."""
        return done == num_steps or any(done % every == 0 for every in (self.log, self.evaluate, self.save))


def train(
    trainer: Trainer,
    data: Data,
    progress: Progress,
    intervals: Intervals,
    checkpoints: Writer,
    stop: StopSignal,
    watch: Watch,
    hang: HangWatch,
    answers: Answers,
) -> tuple[int, bool]:
    """Run the steps after `progress.first_step`; return the last step, and whether a signal has stopped training.

    The numbers of a step are read after the next step has started, unless they are needed at once. Processes learn from
    them that one of them has a signal, so all stop after the same step.
    """
    schedule, first, accelerator = trainer.schedule, progress.first_step, trainer.accelerator
    rank, num_ranks = accelerator.process_index, accelerator.num_processes
    steps = islice(data.sampler.steps(first), schedule.num_steps - first)
    for_loader, for_loop = tee((epoch, *of_rank(step, rank, num_ranks), sum(map(len, step))) for epoch, step in steps)
    # the loader reads ahead
    planned = (visits(rows, epoch) for epoch, own, *_ in for_loader for rows in own)
    if not _evaluate(trainer, data, progress, intervals, first, stop, watch, hang, answers):
        return first, True
    if watch.is_over:
        return first, False
    done, stopped = first, False
    unread: StepResult | None = None
    with closing(data.batches(planned, worker_init=signals.ignore)) as batches:
        for done, (_, own, num_spare, num_clips) in enumerate(for_loop, first + 1):
            started = time.monotonic()
            hang.begins(done)
            taken = [next(batches) for _ in own]
            waited_s = time.monotonic() - started
            with stops_without_memory(f"fit: step {done}", taken, trainer.checkpoints_layers):
                result = trainer.step(done - 1, taken, num_spare, stop.arrived)
            progress.step(taken[: len(own) - num_spare], num_clips, waited_s)
            if unread is not None:
                values, stopped = unread.read()
                progress.tell(watch.step(done - 1, values))
            unread = result
            alone = stop.arrived() and num_ranks == 1
            if stopped or alone or intervals.any_due(done, schedule.num_steps):
                values, asked = result.read()
                stopped = stopped or alone or asked
                progress.tell(watch.step(done, values))
                unread = None
            if done % intervals.log == 0 or done == schedule.num_steps:
                rate = schedule.rate(done - 1) * trainer.peak_rates[0]
                progress.log(done, {"loss": watch.loss(values), **values, "lr": rate})
            stopped = stopped or not _evaluate(trainer, data, progress, intervals, done, stop, watch, hang, answers)
            if (stopped or done % intervals.save == 0) and accelerator.is_main_process:
                checkpoints.save(trainer.checkpoint(done, progress.records, progress.seconds, watch.best_tensors))
            if stopped or watch.is_over:
                break
    return done, stopped


def _evaluate(
    trainer: Trainer,
    data: Data,
    progress: Progress,
    intervals: Intervals,
    step: int,
    stop: StopSignal,
    watch: Watch,
    hang: HangWatch,
    answers: Answers,
) -> bool:
    """Compute the losses on the dev split if they are due and unknown; return whether no signal has broken this off."""
    due = step % intervals.evaluate == 0 or step == trainer.schedule.num_steps
    if data.dev is None or not due or progress.has_dev(step):
        return True
    accelerator, started = trainer.accelerator, time.monotonic()
    share = accelerator.process_index, accelerator.num_processes

    def goes_on(_batch: Batch) -> bool:
        hang.alive()
        return not trainer.any_process(stop.arrived())  # a sharded LLM needs all processes for each batch

    with stops_without_memory("fit: dev split", (), trainer.checkpoints_layers):
        batches = takewhile(goes_on, data.dev_batches(*share))
        values = trainer.evaluate(batches, data.num_own_dev_batches(*share))
    if trainer.any_process(stop.arrived()):
        return False
    for line in answers.write(accelerator.unwrap_model(trainer.model), step):
        progress.tell(line)
    progress.log_dev(step, values, time.monotonic() - started)
    watch.evaluated(progress.records, trainer.tensors if accelerator.is_main_process else None)
    return True
