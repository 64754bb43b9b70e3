"""95 % intervals over few speakers hold the true score in about 95 % of all samples of speakers."""

import pytest

from benchmarks.coverage import CASES, SPEAKERS, Case, bootstrap, coverage

SAMPLES = 1_000  # the standard error of a coverage is 0.007


@pytest.mark.parametrize("num_speakers", SPEAKERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_interval_holds_the_score_of_the_population(case: Case, num_speakers: int) -> None:
    share = coverage(case, num_speakers, SAMPLES)
    print(f"{case.name}, {num_speakers} speakers: {share:.3f}")
    assert 0.92 <= share <= 0.98


def test_the_percentile_bootstrap_over_four_speakers_is_far_too_narrow() -> None:
    assert coverage(CASES[0], 4, 300, bootstrap) < 0.88
