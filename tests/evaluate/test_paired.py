"""Tests of the difference between two systems, by speaker."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from evaluate import confusions, intervals, paired
from evaluate.intervals import Floats


def with_ones(values: Floats) -> Floats:
    return np.stack([values, np.ones_like(values)], axis=1)


def swap_test(a: Floats, b: Floats) -> paired.SwapTest:
    return paired.swap_test(with_ones(a), with_ones(b), intervals.ratio)


@pytest.mark.parametrize("num_speakers", [1, 2, 5, 9])
def test_for_means_it_is_the_exact_sign_flip_test(num_speakers: int) -> None:
    rng = np.random.default_rng(num_speakers)
    a, b = rng.normal(0, 1, num_speakers), rng.normal(0.7, 1, num_speakers)
    flipped = [abs(np.dot(signs, b - a)) for signs in product([1, -1], repeat=num_speakers)]
    expected = np.mean([value >= abs((b - a).sum()) - 1e-12 for value in flipped])
    assert swap_test(a, b).p == pytest.approx(expected)


def test_it_is_the_permutation_test_of_scipy() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(0, 1, 8), rng.normal(0.8, 1, 8)
    expected = stats.permutation_test(
        (a, b), lambda a, b: (b - a).mean(), permutation_type="samples", n_resamples=np.inf
    )
    assert swap_test(a, b).p == pytest.approx(expected.pvalue)


def test_for_accuracies_the_answers_of_a_speaker_are_swapped_as_a_whole() -> None:
    rng = np.random.default_rng(6)
    a, b = (rng.integers(0, 9, (6, 3, 4)).astype(float) for _ in range(2))
    score = confusions.unweighted_accuracy
    differences = []
    for swaps in product([False, True], repeat=6):
        is_swapped = np.array(swaps)[:, None, None]
        changed = score(np.where(is_swapped, a, b).sum(axis=0)) - score(np.where(is_swapped, b, a).sum(axis=0))
        differences.append(abs(float(changed)))
    expected = np.mean([difference >= differences[0] - 1e-12 for difference in differences])
    assert 0.05 < expected < 1
    assert paired.swap_test(a, b, score).p == pytest.approx(expected)


@pytest.mark.parametrize(("num_speakers", "least"), [(1, 1), (2, 0.5), (4, 0.125), (6, 0.03125), (16, 2 / 65536)])
def test_speakers_that_all_prefer_one_system_give_the_smallest_p(num_speakers: int, least: float) -> None:
    a = np.random.default_rng(0).normal(0, 1, num_speakers)
    test = swap_test(a, a + 1 + 0.1 * np.arange(num_speakers))
    assert test.p == test.smallest_p == paired.smallest_p(num_speakers) == least


def test_above_sixteen_speakers_p_is_drawn_and_counts_the_answers_as_they_are() -> None:
    a = np.random.default_rng(0).normal(0, 1, 30)
    test = swap_test(a, a + 1)
    assert test.p == test.smallest_p == 1 / 100_001


def test_drawn_and_exact_p_values_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, 12), rng.normal(0.5, 1, 12)
    exact = swap_test(a, b).p
    monkeypatch.setattr(paired, "MOST_EXACT", 11)
    drawn = swap_test(a, b).p
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact / paired.NUM_DRAWS))


@pytest.mark.parametrize("num_speakers", [12, 40])
def test_chunks_change_no_p_value(num_speakers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, num_speakers), rng.normal(0.5, 1, num_speakers)
    whole = swap_test(a, b)
    monkeypatch.setattr(paired, "CHUNK_CELLS", 70_003)
    assert swap_test(a, b).p == pytest.approx(whole.p, rel=0 if num_speakers < 17 else 0.2)


def test_many_speakers_are_swapped_in_groups_and_decide_as_the_t_test_does() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(0, 1, 3_000)
    b = a + rng.normal(0.05, 1, 3_000)
    test = swap_test(a, b)
    assert test.p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=0.2)
    assert 0.001 < test.p < 0.05


def test_equal_systems_have_p_one() -> None:
    a = np.random.default_rng(0).normal(0, 1, 7)
    assert swap_test(a, a).p == 1


def test_p_values_of_exchangeable_systems_are_uniform() -> None:
    rng = np.random.default_rng(0)
    p_values = np.array([swap_test(*rng.normal(0, 1, (2, 8))).p for _ in range(600)])
    for level in (0.05, 0.25, 0.5):
        assert (p_values <= level).mean() == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / 600))


@pytest.mark.parametrize("margin", [0.01, 0.3, 1.0])
def test_equivalence_is_that_of_two_one_sided_t_tests(margin: float) -> None:
    differences = np.random.default_rng(5).normal(0.1, 0.4, 10)
    found = intervals.estimate(with_ones(differences), intervals.ratio, np.ones(10))
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    assert paired.equivalence_p(found, margin) == pytest.approx(max(above, below))


def test_equivalence_of_one_speaker_or_of_a_constant_difference() -> None:
    assert paired.equivalence_p(intervals.Estimate(0.0, np.inf, 0), 0.1) == 1
    assert paired.equivalence_p(intervals.Estimate(0.05, 0.0, 3), 0.1) == 0
    assert paired.equivalence_p(intervals.Estimate(-0.1, 0.0, 3), 0.1) == 1
