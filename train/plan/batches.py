"""The plan of an epoch, and its largest batch with clips of silence and tokens that mean nothing."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pipeline.audio.speech_tokens import MAX_MEL_FRAMES, MEL_FRAMES_PER_S
from pipeline.stage import UserError
from train.data.dataset import Collator, Example
from train.data.sampler import Sampler, real_share
from train.fit.augmented_rows import make_budget
from train.fit.params import EmotionFitParams, FitParams, SemanticFitParams
from train.model import Batch
from train.model.inputs import packed_sequences, sequences
from train.plan.rows import RowFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochFacts:
    """The plan of an epoch, as numbers for all rows."""

    steps: float
    """Of an epoch."""
    batches: float
    """Of an epoch, with those that have no effect because the GPUs do not divide a step."""
    clips_per_batch: float
    frames: float
    """Computed encoder frames of an epoch, with padding."""
    student: float
    """Computed positions of the student, with padding."""
    teacher: float
    """Computed positions of the teacher, with padding; 0 without one."""
    real_frames: float
    """Share of the computed encoder frames that belong to rows; all GPUs wait for the largest batch of a step."""
    real_positions: float
    """Share of the computed LLM positions that belong to rows."""
    largest_rows: list[int]
    """Rows of the largest batch."""
    load: float
    """Cost of the mean batch divided by that of the largest one."""


def plan_epoch(rows: RowFacts, settings: FitParams, pad_to_30s: bool, num_gpus: int) -> EpochFacts:
    """Plan an epoch; raises UserError if no row fits into a batch."""
    budget = make_budget(settings)
    costs = rows.costs(pad_to_30s, settings.runs_teacher, shares_start(settings))
    fits = np.setdiff1d(np.arange(len(costs)), budget.too_large(costs))
    if len(fits) == 0:
        raise UserError(
            f"fit.*.batches: found no row within {budget.max_frames:,} encoder frames and {budget.max_positions:,} LLM "
            "positions, expected at least one"
        )
    costs = costs[fits]
    sampler = Sampler(costs=costs, budget=budget, batches_per_step=settings.batches.per_step, seed=settings.seed)
    plan = sampler.plan(epoch=0)
    scale = rows.num_rows / len(rows.seconds)
    batches = [batch for step in plan for batch in step]
    is_padded = budget.layout == "padded"
    computed = np.array([len(b) * costs[b].max(0) if is_padded else costs[b].sum(0) for b in batches])
    loads = np.stack([computed[:, 0] / budget.max_frames, computed[:, 1:].sum(1) / budget.max_positions], axis=1)
    largest = int(loads.max(1).argmax())
    ran = [-(-len(step) // num_gpus) * num_gpus for step in plan]
    shares = np.array([real_share(costs, step, count, budget) for step, count in zip(plan, ran, strict=True)])
    spare = sum(ran) / len(batches)
    frames, student, teacher = (float(total) for total in scale * spare * computed.sum(0))
    return EpochFacts(
        steps=scale * len(plan),
        batches=scale * sum(ran),
        clips_per_batch=len(costs) / len(batches),
        frames=frames,
        student=student,
        teacher=teacher,
        real_frames=float(shares[:, 0].mean()),
        real_positions=float(shares[:, 1].mean()),
        largest_rows=fits[batches[largest]].tolist(),
        load=float(loads.sum(1).mean() / loads[largest].sum()),
    )


def shares_start(settings: FitParams) -> bool:
    """Return whether a batch computes the start of its prompts once, if the LLM allows it."""
    return not (isinstance(settings, EmotionFitParams) and settings.plora.positions == "all")


def make_batch(
    rows: RowFacts, numbers: list[int], settings: FitParams, pad_to_30s: bool, num_mel_bins: int, num_top: int
) -> Batch:
    """Return a batch of the rows with these numbers; `num_top` tokens at a position make a stored teacher."""
    stored = isinstance(settings, SemanticFitParams) and settings.teacher == "stored"

    def example(number: int) -> Example:
        frames = int(np.clip(round(float(rows.seconds[number]) * MEL_FRAMES_PER_S), 1, MAX_MEL_FRAMES))
        count = int(rows.response[number])
        return Example(
            features=torch.zeros(num_mel_bins, MAX_MEL_FRAMES if pad_to_30s else frames),
            num_frames=frames,
            text_ids=[0] * int(rows.text[number]),
            response_ids=[0] * count,
            emotion=0,
            top_ids=[list(range(num_top))] * count if stored else None,
            top_logprobs=[[-9.0] * num_top] * count if stored else None,
        )

    is_packed = settings.batches.layout == "packed"
    lay_out = partial(packed_sequences, shares_start=shares_start(settings)) if is_packed else sequences
    collate = Collator(rows.shell, settings.runs_teacher, stored, lay_out)
    return collate([example(number) for number in numbers])
