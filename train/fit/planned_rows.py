"""Which rows a run reads, and the plan of its epochs."""

from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Int

from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.tables.packed import PromptShell
from train.data.augmentation import Augmentation
from train.data.dataset import row_costs
from train.data.sampler import Mixture, Sampler, visit_counts
from train.fit.augmented_rows import make_augmentation, make_budget
from train.fit.params import FitParams, MixtureParams


def with_response(rows: packed.Rows) -> packed.Rows:
    """Return the rows that have a continuation."""
    return rows.select(np.flatnonzero(rows.column("num_response_tokens").to_numpy()))


def plan_train_rows(
    rows: packed.Rows,
    shell: PromptShell,
    settings: FitParams,
    pad_to_30s: bool,
    with_teacher: bool,
    shares_start: bool,
) -> tuple[Sampler, Augmentation | None]:
    """Return the sampler of the train rows, and their augmentation if there is one.

    Raises UserError as `make_sampler`, `make_mixture` and `make_augmentation` do.
    """
    costs = partial(row_costs, rows, shell, pad_to_30s, with_teacher, shares_start)
    sampler = replace(make_sampler(rows, costs(), settings), mixture=make_mixture(rows, settings.mixture))
    augmentation = make_augmentation(settings, rows, shell)
    if augmentation is not None and (speeds := augmentation.speeds) is not None:
        sampler = replace(sampler, costs_in=lambda epoch: costs(speeds.lengths(epoch)))
    return sampler, augmentation


def make_mixture(rows: packed.Rows, mixture: MixtureParams | None) -> Mixture | None:
    """Return how often the corpora of `rows` are read; raises UserError if a weight is that of no corpus."""
    if mixture is None:
        return None
    encoded = rows.column("corpus").combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    numbers = encoded.indices.to_numpy()
    corpora = {name: np.flatnonzero(numbers == names.index(name)) for name in sorted(names)}
    if unknown := sorted(set(mixture.weights) - set(corpora)):
        raise UserError(
            f"fit.*.mixture.weights: found {unknown[0]}, expected corpora of {rows.path}: {', '.join(corpora)}"
        )
    weights = [mixture.weights.get(name, 1.0) for name in corpora]
    counts = visit_counts([len(corpus) for corpus in corpora.values()], weights, mixture.temperature)
    return Mixture(corpora=corpora, visits=dict(zip(corpora, counts, strict=True)))


def make_sampler(rows: packed.Rows, costs: Int[np.ndarray, "n 3"], settings: FitParams) -> Sampler:
    """Return the sampler of rows with these costs; raises UserError if a row alone is over the budget of a batch."""
    limits, budget = settings.batches, make_budget(settings)
    if len(too_large := budget.too_large(costs)):
        frames, *positions = costs[too_large[0]].tolist()
        raise UserError(
            f"{rows.path}: {rows[too_large[0]]['id']}: found {frames:,} encoder frames and {sum(positions):,} LLM "
            f"positions, expected at most {limits.max_frames:,} and {limits.max_positions:,}, as for all {len(rows):,} "
            f"rows of {rows.split} ({len(too_large):,} more than that); raise max_frames and max_positions in "
            "fit.*.batches"
        )
    return Sampler(costs=costs, budget=budget, batches_per_step=limits.per_step, seed=settings.seed)
