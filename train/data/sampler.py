"""Plan which rows each step of training reads.

A batch is what one device computes at a time. Its cost is limited by a budget of encoder frames and LLM positions. A
step is the batches between two updates of the weights; they are divided over the devices.

The plan of an epoch is a pure function of the rows' costs in this epoch, the budget, the batches of a step, the seed
and the epoch. It depends neither on the number of devices nor on the number of workers. So a run continues at any step
and on any number of devices, and reads no row of the steps before.

The rows of an epoch are shuffled and cut into windows. Within a window, rows are sorted by cost, and go into batches:

- in the packed layout, each row goes into the batch that is emptiest after it (the longest-processing-time rule, with
  two costs), so the batches of a step cost nearly the same;
- in the padded layout, rows of similar cost share a batch, so there is little padding.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Literal

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

Layout = Literal["padded", "packed"]
Batch = list[int]
"""Row numbers."""

WINDOW_ROWS = 4096
GROUP_BATCHES = 4  # of all frames 0.96 and of all positions 0.91 are real then (benchmarks.batches)
FILL = 0.99  # share of the budget that packed batches use at first; if there is no room for a row, they use less
_SHUFFLE, _PASSES = 0, 1  # first number of a draw's key, so that no two kinds of draws are equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The largest cost of a batch."""

    max_frames: int
    """Encoder frames (50 per second)."""
    max_positions: int
    """LLM positions: those of the student, and those of the teacher if it runs."""
    layout: Layout
    """padded: each row counts as long as the longest of its batch; packed: rows stand in one sequence."""

    @property
    def capacity(self) -> int:
        """The budget in the unit of `loads`."""
        return self.max_frames * self.max_positions

    def loads(self, costs: Int[np.ndarray, "n 3"]) -> Int[np.ndarray, "n 2"]:
        """Return the costs in frames and in positions, in a unit in which both have the same capacity.

        `costs` has the columns frames, student positions, teacher positions.
        """
        return np.stack([costs[:, 0] * self.max_positions, (costs[:, 1] + costs[:, 2]) * self.max_frames], axis=1)

    def cost(self, costs: Int[np.ndarray, "n 3"]) -> tuple[int, int]:
        """Return the encoder frames and LLM positions of a batch of rows."""
        whole = len(costs) * costs.max(0) if self.layout == "padded" else costs.sum(0)
        return int(whole[0]), int(whole[1] + whole[2])

    def too_large(self, costs: Int[np.ndarray, "n 3"]) -> NDArray[np.int64]:
        """Return the numbers of the rows that are over the budget alone."""
        return np.flatnonzero((self.loads(costs) > self.capacity).any(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Plans the epochs of a run."""

    costs: Int[np.ndarray, "n 3"]
    """Encoder frames, student positions and teacher positions of each row; no row is over the budget."""
    budget: Budget
    batches_per_step: int
    seed: int
    mixture: "Mixture | None" = None
    """None: each row once in an epoch."""
    costs_in: Callable[[int], Int[np.ndarray, "n 3"]] | None = None
    """Returns the costs of the rows in an epoch, where augmentation changes them; None: `costs` in each epoch."""
    _planned: dict[int, list[list[Batch]]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The epoch that was planned last: a run of one epoch counts its steps before it takes them."""

    def plan(self, epoch: int) -> list[list[Batch]]:
        """Return the steps of an epoch, each as its batches; a step has at least one batch, and no batch is empty.

        The caller must not change them.
        """
        if epoch not in self._planned:
            self._planned.clear()
            self._planned[epoch] = self._plan(epoch)
        return self._planned[epoch]

    def _plan(self, epoch: int) -> list[list[Batch]]:
        generator = _generator(self.seed, _SHUFFLE, epoch)
        rows = np.arange(len(self.costs)) if self.mixture is None else self.mixture.rows(self.seed, epoch)
        order = generator.permutation(rows)
        costs = self.costs if self.costs_in is None else self.costs_in(epoch)
        loads, capacity = self.budget.loads(costs), self.budget.capacity
        if self.budget.layout == "packed":
            return _packed_steps(loads, capacity, order, self.batches_per_step, generator)
        batches: list[Batch] = []
        for window in np.array_split(order, max(1, round(len(order) / WINDOW_ROWS))):
            batches += _shuffled(_padded_batches(costs, self.budget, window), generator)
        starts = range(0, len(batches), self.batches_per_step)
        return [batches[start : start + self.batches_per_step] for start in starts]

    def steps(self, first: int = 0) -> Iterator[tuple[int, list[Batch]]]:
        """Yield the steps from `first` on, each with its epoch; never ends."""
        for epoch in count():
            planned = self.plan(epoch)
            yield from ((epoch, step) for step in planned[first:])
            first = max(0, first - len(planned))

    def num_batches(self, epochs: float, max_steps: int | None = None) -> list[int]:
        """Return the number of batches of each step in so many epochs, at least one step and at most `max_steps`."""
        counts: list[int] = []
        for epoch in range(math.ceil(epochs)):
            planned = self.plan(epoch)
            share = min(1.0, epochs - epoch)
            counts += [len(step) for step in planned[: max(not counts, round(share * len(planned)))]]
            if max_steps is not None and len(counts) >= max_steps:
                break
        return counts[:max_steps]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Corpora that are visited more or less often than once an epoch.

    Each corpus repeats its own passes, and each pass has its own order. An epoch continues each corpus where the epoch
    before has stopped. So the visits of two rows of a corpus differ by at most one, at any time.
    """

    corpora: Mapping[str, NDArray[np.int64]]
    """The row numbers of each corpus."""
    visits: Mapping[str, int]
    """The number of rows of each corpus in an epoch."""

    def rows(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the rows of an epoch."""
        chosen = []
        for number, (name, corpus) in enumerate(self.corpora.items()):
            length = self.visits[name]
            first, last = epoch * length, (epoch + 1) * length
            passes = range(first // len(corpus), -(-last // len(corpus)))
            orders = [_generator(seed, _PASSES, number, turn).permutation(corpus) for turn in passes]
            start = first - len(corpus) * passes.start
            chosen.append(np.concatenate([*orders, corpus[:0]])[start : start + length])
        return np.concatenate(chosen)

    def describe(self) -> str:
        """Say how long an epoch is, and how often it reads the rows of each corpus."""
        corpora = (
            f"{name} {count:,} ({count / len(self.corpora[name]):.2f} times each)"
            for name, count in self.visits.items()
        )
        return f"an epoch reads {sum(self.visits.values()):,} rows: {', '.join(corpora)}"


def visit_counts(sizes: Sequence[int], weights: Sequence[float], temperature: float) -> list[int]:
    """Return the number of rows of each corpus in an epoch, which has as many rows as all corpora together.

    The share of a corpus is proportional to its weight times its size to the power of 1 / `temperature`. A temperature
    of 1 keeps the sizes. A higher one brings the corpora closer together. Every corpus gets at least one row.
    """
    shares = np.asarray(weights) * np.asarray(sizes, float) ** (1 / temperature)
    exact = shares / shares.sum() * sum(sizes)
    counts = np.maximum(1, np.floor(exact)).astype(int)
    for number in np.argsort(counts - exact, kind="stable")[: max(0, sum(sizes) - counts.sum())]:
        counts[number] += 1  # the largest remainders are rounded up
    return counts.tolist()  # type: ignore[no-any-return]


def of_rank(step: Sequence[Batch], rank: int, num_ranks: int) -> tuple[list[Batch], int]:
    """Return the batches of one device in a step, and how many of them are spare.

    All devices must have the same number of batches. Where the batches do not divide, a device gets a spare batch at
    the end: a batch of this step that another device has, too. Spare batches must not count.
    """
    own = list(step[rank::num_ranks])
    num_spare = math.ceil(len(step) / num_ranks) - len(own)
    return own + [step[0]] * num_spare, num_spare


def real_share(costs: Int[np.ndarray, "n 3"], step: Sequence[Batch], num_batches: int, budget: Budget) -> list[float]:
    """Return the share of computed encoder frames and of computed LLM positions that belong to rows.

    A step computes `num_batches` times its largest batch: all devices wait for the slowest, and all shapes are equal.
    """
    alone = costs[[row for batch in step for row in batch]].sum(0)
    computed = np.array([budget.cost(costs[batch]) for batch in step]).max(0) * num_batches
    return [float(alone[0] / computed[0]), float((alone[1] + alone[2]) / computed[1])]


def _packed_steps(
    loads: Int[np.ndarray, "n 2"],
    capacity: int,
    order: NDArray[np.int64],
    per_step: int,
    generator: np.random.Generator,
) -> list[list[Batch]]:
    whole = math.ceil(float(loads[order].sum(0).max()) / (FILL * capacity))
    halves = int((loads[order] > capacity / 2).sum(0).max())  # no two of these rows share a batch
    num_steps = max(1, math.ceil(max(whole, halves) / per_step))
    state = generator.bit_generator.state
    while True:
        generator.bit_generator.state = state
        steps = _try_packed(loads, capacity, order, num_steps, per_step, generator)
        if steps is not None:
            return steps
        num_steps += math.ceil((1 - FILL) * num_steps)


def _try_packed(
    loads: Int[np.ndarray, "n 2"],
    capacity: int,
    order: NDArray[np.int64],
    num_steps: int,
    per_step: int,
    generator: np.random.Generator,
) -> list[list[Batch]] | None:
    """Return the steps; None if there is not enough room in them.

    A window takes the rows for which there was no room before. So it stops as soon as the rows that are left cannot
    fit. Otherwise every window would take more of them, and time would grow with the square.
    """
    so_far = loads[order].cumsum(0)
    cumulative = so_far[:, so_far[-1].argmax()]
    num_windows = min(num_steps, max(1, round(len(order) / WINDOW_ROWS)))
    ends = np.arange(num_windows + 1) * num_steps // num_windows  # in steps
    cuts = np.searchsorted(cumulative, cumulative[-1] * ends / num_steps, side="right")
    cuts[0], cuts[-1] = 0, len(order)
    steps: list[list[Batch]] = []
    left: Batch = []
    for (first, last), (start, stop) in zip(pairwise(ends), pairwise(cuts), strict=True):
        rows = np.concatenate([np.array(left, np.int64), order[start:stop]])
        batches, left = _spread(loads, capacity, rows, int(last - first) * per_step)
        batches = _shuffled(batches, generator)
        steps += [[b for b in batches[i : i + per_step] if b] for i in range(0, len(batches), per_step)]
        still = so_far[-1] - so_far[stop - 1] + loads[left].sum(0) if stop else so_far[-1]
        if (still > int(num_steps - last) * per_step * capacity).any():
            return None
    return [step for step in steps if step]


def _spread(
    loads: Int[np.ndarray, "n 2"], capacity: int, rows: NDArray[np.int64], num_batches: int
) -> tuple[list[Batch], Batch]:
    """Spread rows over batches of nearly equal load; also return the rows for which there is no room."""
    of_row = loads[rows]
    batches: list[Batch] = [[] for _ in range(num_batches)]
    total = np.zeros((2, num_batches), np.int64)
    left = []
    for place in np.argsort(-of_row.max(1), kind="stable"):
        after = (total + of_row[place][:, None]).max(0)
        batch = int(after.argmin())
        if after[batch] > capacity:
            left.append(int(rows[place]))
        else:
            total[:, batch] += of_row[place]
            batches[batch].append(int(rows[place]))
    return batches, left


def _padded_batches(costs: Int[np.ndarray, "n 3"], budget: Budget, rows: NDArray[np.int64]) -> list[Batch]:
    """Cut rows, sorted by length, into as few batches as possible, and these as evenly as possible."""
    rows = _by_length(costs, budget, rows)
    of_row = costs[rows].tolist()

    def cut(share: float) -> list[int]:
        """Return the ends of the batches if each may use this share of the budget."""
        frames, positions = share * budget.max_frames, share * budget.max_positions
        ends, start, longest = [], 0, (0, 0, 0)
        for place, row in enumerate(of_row):
            longest = (max(longest[0], row[0]), max(longest[1], row[1]), max(longest[2], row[2]))
            size = place - start + 1
            if size > 1 and (size * longest[0] > frames or size * (longest[1] + longest[2]) > positions):
                ends.append(place)
                start, longest = place, tuple(row)
        return [*ends, len(of_row)]

    ends, low, high = cut(1.0), 0.0, 1.0
    for _ in range(8):
        middle = (low + high) / 2
        if len(tried := cut(middle)) == len(ends):
            ends, high = tried, middle
        else:
            low = middle
    return [rows[start:stop].tolist() for start, stop in pairwise([0, *ends])]


def _by_length(costs: Int[np.ndarray, "n 3"], budget: Budget, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort rows so that neighbours have similar frames and similar positions.

    Rows are sorted by frames and cut into groups of a few batches. Each group is sorted by positions, in falling and
    rising order in turn.
    """
    frames, positions = budget.loads(costs[rows]).T
    by_frames = np.argsort(-frames, kind="stable")
    num_groups = max(1, round(max(frames.sum(), positions.sum()) / budget.capacity / GROUP_BATCHES))
    cumulative = frames[by_frames].cumsum()
    cuts = np.searchsorted(cumulative, cumulative[-1] * np.arange(1, num_groups) / num_groups)
    groups = np.split(by_frames, cuts)
    in_turn = [g[np.argsort((-1) ** i * positions[g], kind="stable")] for i, g in enumerate(groups, 1)]
    order: NDArray[np.int64] = np.concatenate(in_turn)
    return rows[order]


def _shuffled(batches: list[Batch], generator: np.random.Generator) -> list[Batch]:
    return [batches[i] for i in generator.permutation(len(batches))]


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(list(key)))
