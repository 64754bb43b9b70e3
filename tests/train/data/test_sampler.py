"""The plan of an epoch visits each row as often as it should, within the budget, whatever the number of devices."""

from collections import Counter
from dataclasses import replace
from itertools import islice, zip_longest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from train.data.sampler import Budget, Layout, Mixture, Sampler, of_rank, real_share, visit_counts

Costs = NDArray[np.int64]
LAYOUTS: list[Layout] = ["padded", "packed"]


def clips(count: int, seed: int = 1) -> Costs:
    """Return the costs of clips with lengths as in LibriSpeech and answers of up to 60 tokens."""
    generator = np.random.default_rng(seed)
    frames = np.clip(generator.gamma(6, 2, count) * 50, 60, 1500)
    answers = generator.integers(4, 60, count)
    return np.stack([frames, 20 + frames // 8 + answers, 20 + frames // 20 + answers], axis=1).astype(np.int64)


@st.composite
def samplers(draw: st.DrawFn) -> Sampler:
    rows = draw(st.lists(st.tuples(*[st.integers(1, 100)] * 3), min_size=1, max_size=60))
    budget = Budget(
        max_frames=draw(st.integers(100, 400)),
        max_positions=draw(st.integers(200, 400)),
        layout=draw(st.sampled_from(LAYOUTS)),
    )
    return Sampler(
        costs=np.array(rows),
        budget=budget,
        batches_per_step=draw(st.integers(1, 8)),
        seed=draw(st.integers(0, 3)),
        mixture=draw(st.none() | mixtures(len(rows))),
    )


@st.composite
def mixtures(draw: st.DrawFn, num_rows: int) -> Mixture:
    corpus = np.array(draw(st.lists(st.integers(0, 2), min_size=num_rows, max_size=num_rows)))
    rows = {str(number): np.flatnonzero(corpus == number) for number in np.unique(corpus)}
    visits_of = {name: draw(st.integers(0, 2 * len(numbers) + 1)) or 1 for name, numbers in rows.items()}
    return Mixture(corpora=rows, visits=visits_of)


def rows_of(sampler: Sampler, epoch: int) -> list[int]:
    return [row for step in sampler.plan(epoch) for batch in step for row in batch]


@given(samplers(), st.integers(0, 3))
def test_every_row_once_in_an_epoch(sampler: Sampler, epoch: int) -> None:
    if sampler.mixture is None:
        assert sorted(rows_of(sampler, epoch)) == list(range(len(sampler.costs)))
    else:
        expected = sampler.mixture.rows(sampler.seed, epoch)
        assert len(expected) == sum(sampler.mixture.visits.values())
        assert sorted(rows_of(sampler, epoch)) == sorted(expected.tolist())


@given(samplers())
def test_batches_within_the_budget(sampler: Sampler) -> None:
    for step in sampler.plan(0):
        assert 1 <= len(step) <= sampler.batches_per_step
        for batch in step:
            assert batch
            frames, positions = sampler.budget.cost(sampler.costs[batch])
            assert frames <= sampler.budget.max_frames
            assert positions <= sampler.budget.max_positions


@given(samplers(), st.integers(1, 8))
def test_the_devices_divide_each_step(sampler: Sampler, num_ranks: int) -> None:
    for step in sampler.plan(0):
        shares = [of_rank(step, rank, num_ranks) for rank in range(num_ranks)]
        assert len({len(batches) for batches, _ in shares}) == 1
        counted = [batches[: len(batches) - num_spare] for batches, num_spare in shares]
        assert [batch for together in zip_longest(*counted) for batch in together if batch] == step
        assert sum(num_spare for _, num_spare in shares) < num_ranks


@given(samplers(), st.integers(0, 40))
def test_a_run_that_continues_reads_the_same_rows(sampler: Sampler, first: int) -> None:
    assert list(islice(sampler.steps(first), 10)) == list(islice(sampler.steps(), first, first + 10))


@given(samplers(), st.integers(1, 6))
def test_the_visits_of_a_corpus_differ_by_at_most_one(sampler: Sampler, num_epochs: int) -> None:
    visited: Counter[int] = Counter(dict.fromkeys(range(len(sampler.costs)), 0))
    for epoch in range(num_epochs):
        visited.update(rows_of(sampler, epoch))
    corpora = [range(len(sampler.costs))] if sampler.mixture is None else sampler.mixture.corpora
    for corpus in corpora:
        counts = [visited[int(row)] for row in corpus]
        assert max(counts) - min(counts) <= 1


@settings(max_examples=20)
@given(samplers())
def test_an_epoch_has_the_same_steps_whatever_was_planned_before(sampler: Sampler) -> None:
    fresh = replace(sampler)
    assert [sampler.plan(epoch) for epoch in (0, 0, 1, 0)] == [fresh.plan(epoch) for epoch in (0, 0, 1, 0)]
    assert sampler.num_batches(1.0) == [len(step) for step in replace(sampler).plan(0)]
    assert sampler.plan(0) is sampler.plan(0)  # counting the steps of a run of one epoch also plans it


@pytest.mark.parametrize("layout", LAYOUTS)
def test_epochs_and_seeds_differ(layout: Layout) -> None:
    budget = Budget(max_frames=6000, max_positions=4000, layout=layout)
    plans = [
        Sampler(costs=clips(200), budget=budget, batches_per_step=2, seed=seed).plan(epoch)
        for seed in (1, 2)
        for epoch in (0, 1)
    ]
    assert all(a != b for i, a in enumerate(plans) for b in plans[:i])


@pytest.mark.parametrize(("layout", "least"), [("packed", (0.98, 0.9)), ("padded", (0.93, 0.9))])
def test_little_of_what_is_computed_is_padding(layout: Layout, least: tuple[float, float]) -> None:
    costs = clips(3000)
    budget = Budget(max_frames=9600, max_positions=4000, layout=layout)
    steps = Sampler(costs=costs, budget=budget, batches_per_step=1, seed=1).plan(0)
    for part in (0, 1):
        batches = [budget.cost(costs[batch])[part] for (batch,) in steps]
        real = costs[:, 0].sum() if part == 0 else costs[:, 1:].sum()
        assert real / sum(batches) > least[part]


def test_the_devices_wait_little_for_the_slowest() -> None:
    costs = clips(3000)
    budget = Budget(max_frames=9600, max_positions=4000, layout="packed")
    steps = Sampler(costs=costs, budget=budget, batches_per_step=8, seed=1).plan(0)
    shares = [max(real_share(costs, step, 8, budget)) for step in steps]
    assert np.mean(shares) > 0.98
    assert min(shares) > 0.95


def test_rows_of_which_one_fills_a_batch_are_packed_alone() -> None:
    costs = np.tile([[80, 30, 30]], (20, 1))
    budget = Budget(max_frames=100, max_positions=100, layout="packed")
    steps = Sampler(costs=costs, budget=budget, batches_per_step=3, seed=1).plan(0)
    assert sorted(len(step) for step in steps) == [2] + [3] * 6
    assert all(len(batch) == 1 for step in steps for batch in step)


def test_a_row_over_the_budget_is_found() -> None:
    costs = np.array([[10, 5, 5], [200, 5, 5], [10, 60, 60], [100, 50, 50]])
    assert Budget(max_frames=100, max_positions=100, layout="packed").too_large(costs).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("weights", "temperature", "expected"),
    [((1, 1), 1, [900, 100]), ((1, 9), 1, [500, 500]), ((1, 1), 2, [750, 250]), ((1, 0.0001), 1, [999, 1])],
)
def test_the_share_of_a_corpus(weights: tuple[float, float], temperature: float, expected: list[int]) -> None:
    assert visit_counts([900, 100], weights, temperature) == expected


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0.01, 100)), min_size=1, max_size=6), st.floats(0.5, 10))
def test_an_epoch_of_a_mixture_has_as_many_rows_as_all_corpora(
    corpora: list[tuple[int, float]], temperature: float
) -> None:
    sizes, weights = zip(*corpora, strict=True)
    counts = visit_counts(sizes, weights, temperature)
    assert min(counts) >= 1
    assert sum(sizes) <= sum(counts) <= sum(sizes) + len(sizes)
