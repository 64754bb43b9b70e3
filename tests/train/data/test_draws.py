"""The random numbers of augmentation: uniform, independent, and the same everywhere."""

import time

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from train.data.draws import hash_id, hash_ids, uniform

IDS = [f"corpus/{i}" for i in range(100_000)]
HASHES = hash_ids(pa.chunked_array([IDS]))


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def test_the_numbers_are_uniform() -> None:
    for seed, epoch in ((0, 0), (1, 0), (1, 1), (-3, 99)):
        numbers = uniform(HASHES, seed, epoch, "speed")
        assert 0 <= numbers.min() < numbers.max() < 1
        counts = np.histogram(numbers, bins=100, range=(0, 1))[0]
        chi_squared = float((np.square(counts - 1000.0) / 1000).sum())
        assert 50 < chi_squared < 160  # of 99 degrees of freedom: outside once in about 100,000


def test_neighbours_epochs_seeds_and_names_are_independent() -> None:
    numbers = uniform(HASHES, 1, 0, "speed")
    others = [uniform(HASHES, 1, 1, "speed"), uniform(HASHES, 2, 0, "speed"), uniform(HASHES, 1, 0, "gain")]
    others.append(np.roll(numbers, 1))
    assert max(abs(correlation(numbers, other)) for other in others) < 0.02  # six standard deviations


def test_one_id_draws_what_it_draws_among_all_and_in_any_order() -> None:
    numbers = uniform(HASHES, 1, 5, "speed")
    assert [uniform(hash_id(key), 1, 5, "speed")[0] for key in IDS[:50]] == numbers[:50].tolist()
    assert (uniform(HASHES[::-1], 1, 5, "speed") == numbers[::-1]).all()


def test_the_numbers_stay_those_of_today() -> None:
    found = [float(uniform(hash_id("corpus/0"), 1, epoch, "speed")[0]) for epoch in (0, 1)]
    assert found == [0.9922582116127084, 0.25747649934552264]


def test_a_million_rows_take_seconds() -> None:
    ids = pa.chunked_array([[f"corpus/{i}" for i in range(1_000_000)]])
    started = time.monotonic()
    uniform(hash_ids(ids), 1, 0, "speed")
    assert time.monotonic() - started < 10
