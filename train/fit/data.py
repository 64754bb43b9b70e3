"""The rows of a training, as batches: the train split, and the dev split if there is one."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.weights.source import fetch
from train.data.dataset import Collator, Examples, Visit, row_costs
from train.data.log_mel import ClipHops, LogMel
from train.data.sampler import Sampler, of_rank
from train.data.told_shell import named_of
from train.fit.params import EmotionFitParams, FitParams, SemanticFitParams
from train.fit.planned_rows import make_sampler, plan_train_rows, with_response
from train.fit.told_prompt import ToldPrompt, training_shell
from train.model import Batch
from train.model.inputs import packed_sequences, sequences
from train.model_config import ModelConfig

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

    def batches(
        self, batches: Iterable[list[Visit] | list[int]], worker_init: Callable[[int], None] | None = None
    ) -> Generator[Batch]:
        """Yield batches of these visits of train rows; workers read some batches ahead.

        A row number in place of a visit reads the clip as it is packed. `worker_init` is called in each worker at its
        start. To close the generator ends the workers.
        """
        yield from DataLoader(
            self.train,
            batch_sampler=batches,
            collate_fn=self.collate,
            num_workers=self.workers,
            prefetch_factor=BATCHES_AHEAD if self.workers else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=worker_init,
        )

    def dev_batches(self, process: int, num_processes: int) -> Iterator[Batch]:
        """Return an iterator over this process's share of the dev split.

        All processes get the same number of batches. Those after the first `num_own_dev_batches` are spare.
        """
        assert self.dev is not None
        rows, _ = of_rank(self.dev_rows, process, num_processes)
        return iter(DataLoader(self.dev, batch_sampler=rows, collate_fn=self.dev_collate))

    def num_own_dev_batches(self, process: int, num_processes: int) -> int:
        """Return the number of dev batches that only this process has."""
        return len(self.dev_rows[process::num_processes])


def open_data(
    folder: Path,
    settings: FitParams,
    config: ModelConfig,
    with_teacher: bool,
    shares_start: bool = True,
    told: ToldPrompt | None = None,
) -> Data:
    """Open the packed train split, and the dev split if it has rows.

    `told` is the prompt of the teacher of stage 2. Raises UserError as `training_shell` does.
    """
    of_clips = LogMel(fetch(config.models.encoder), config.pad_to_30s)
    log_mel = of_clips if settings.log_mel_on == "loader" else ClipHops(of_clips)
    train_rows = with_response(packed.load(folder, "train"))
    if len(train_rows) == 0:
        raise UserError(f"{folder}: no train row has a continuation; expected at least one")
    stored = isinstance(settings, SemanticFitParams) and settings.teacher == "stored"
    dev_rows = with_response(packed.load(folder, "dev", allow_empty=True))
    shell = training_shell(folder, [train_rows, dev_rows], told)
    is_packed = settings.batches.layout == "packed"
    lay_out = partial(packed_sequences, shares_start=shares_start) if is_packed else sequences
    run_teacher = with_teacher and not stored
    sampler, augmentation = plan_train_rows(train_rows, shell, settings, config.pad_to_30s, run_teacher, shares_start)
    dev_costs = row_costs(dev_rows, shell, config.pad_to_30s, with_teacher, shares_start)
    dev_sampler = make_sampler(dev_rows, dev_costs, settings)
    examples = partial(
        Examples,
        log_mel=log_mel,
        emotions=config.emotions,
        soft_labels=isinstance(settings, EmotionFitParams) and settings.labels == "soft",
        named=named_of(shell),
    )
    return Data(
        train=examples(train_rows, augment=augmentation),
        sampler=sampler,
        dev=examples(dev_rows) if len(dev_rows) else None,
        dev_rows=[batch for step in dev_sampler.plan(epoch=0) for batch in step] if len(dev_rows) else [],
        collate=Collator(shell, run_teacher, stored, lay_out, settings.batches.round_up),
        dev_collate=Collator(shell, with_teacher=with_teacher, lay_out=lay_out, round_up=settings.batches.round_up),
        workers=settings.workers,
    )
