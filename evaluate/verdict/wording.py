"""Numbers and their uncertainty in words."""

import math
from collections.abc import Mapping

Score = Mapping[str, float]
"""metric -> value, of one system on one test."""
Scores = Mapping[str, Score]
"""system -> metric -> value, of one test (a task on a corpus)."""

SPACE = "\N{NO-BREAK SPACE}"


def bounds(score: Score, name: str) -> tuple[float, float]:
    """Return the interval of a metric; without an interval, nothing is excluded."""
    return score.get(f"{name}_low", -math.inf), score.get(f"{name}_high", math.inf)


def signed(value: float, digits: int = 3) -> str:
    """Write a difference with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def share(value: float, digits: int = 1) -> str:
    """Write a share in percent, without the sign."""
    return signed(100 * value, digits)


def percent_of(value: float) -> str:
    """Write a share in percent, with the sign."""
    return f"{share(value, 0)}{SPACE}%"


def with_interval(score: Score, name: str, percent: str) -> str:
    """Write a share and its interval; `percent` is the coverage, as in "95 %"."""
    low, high = bounds(score, name)
    if not math.isfinite(low):
        return f"{percent_of(score[name])} (no interval)"
    return f"{percent_of(score[name])} ({percent} interval {percent_of(low)} to {percent_of(high)})"


def points(score: Score, name: str, percent: str) -> str:
    """Write a difference of shares and its interval, in points."""
    low, high = bounds(score, name)
    interval = "no interval" if low == -high else f"{percent} interval {share(low)} to {share(high)}"
    return f"a difference of {share(score[name])} points ({interval})"


def p_value(p: float) -> str:
    """Write a p value; below 0.001, only that."""
    return f"p{SPACE}<{SPACE}0.001" if p < 0.001 else f"p{SPACE}{p:.3f}"


def counted(number: float, noun: str) -> str:
    """Write a number with its noun, in the singular for 1."""
    return f"{number:,.0f} {noun}{'s' * (number != 1)}"


def size_of(score: Score) -> str:
    """Write the number of clips and speakers of a score."""
    return f"{counted(score['n'], 'test clip')} of {counted(score['speakers'], 'speaker')}"


def describe_intervals(speakers: int) -> str:
    """State how far to trust intervals over `speakers` test speakers."""
    if speakers < 2:
        return "There is only a single speaker, so the intervals are over clips and too narrow for other speakers."
    unit = f"The intervals are over the {speakers} test speakers, not the clips (jackknife and t distribution)"
    return f"{unit}; with so few speakers, they are wide and rough." if speakers < 10 else f"{unit}."


def describe_speakers(test: set[str], train: set[str]) -> str:
    """State how many of the test speakers are also in the training rows of either stage."""
    if shared := len(test & train):
        who = f"{shared} of {len(test)} test speakers also speak" if len(test) > 1 else "The test speaker also speaks"
        return f"{who} in the training rows, so these scores do not show how well new voices are understood."
    return "None of the test speakers speaks in the training rows."
