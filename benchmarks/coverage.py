"""Measure how often 95 % intervals over speakers hold the true value: python -m benchmarks.coverage [--samples 4000]

Speakers are drawn from a made-up population again and again, the score and its interval are computed from their clips,
and the interval is compared with the score of 200,000 speakers of this population. Beside the interval that score uses,
the percentile bootstrap over speakers is measured.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import typer
from scipy import special

from benchmarks.results_file import recorded
from evaluate import confusions, intervals
from evaluate.intervals import Floats, Interval, Statistic
from pipeline.stage import run_stage, say

CONFIDENCE = 0.95
SPEAKERS = (4, 10, 24)
MOST_SPEAKERS = 200_000
CLIPS = (20, 120)  # of a speaker, drawn uniformly
RESAMPLES = 1_000

Draw = Callable[[np.random.Generator, int], Floats]
"""Draw so many speakers of a population and return the sums over their clips."""


@dataclass(frozen=True, slots=True)
class Case:
    """A population, a score, and the sizes of the speakers; score and sizes are computed from sums."""

    name: str
    draw: Draw
    statistic: Statistic
    sizes: Statistic


def draw_answers(num_classes: int, spread: float) -> Draw:
    """Return a population whose speakers differ in accuracy: `spread` is the standard deviation of its logit."""

    def draw(rng: np.random.Generator, count: int) -> Floats:
        shares = np.arange(2, num_classes + 2) / np.arange(2, num_classes + 2).sum()
        clips = rng.multinomial(rng.integers(*CLIPS, count, endpoint=True), shares)  # (speakers, K)
        of_class, of_speaker = np.linspace(-0.1, 1.3, num_classes), spread * rng.standard_normal((count, 1))
        of_both = 0.4 * rng.standard_normal((count, num_classes))
        right = rng.binomial(clips, special.expit(of_class + of_speaker + of_both))
        mistakes = 1 - np.eye(num_classes, num_classes + 1)  # the last column is an answer without a label
        wrong = rng.multinomial(clips - right, mistakes / mistakes.sum(axis=1, keepdims=True))
        return np.asarray(wrong + np.eye(num_classes, num_classes + 1) * right[..., None])

    return draw


def draw_divergences(rng: np.random.Generator, count: int) -> Floats:
    """Draw speakers whose mean KL and numbers of tokens differ: KL and tokens with a wrong clip and with the right one.

    A speaker's tokens are those of 20 to 120 clips of 10 to 60 tokens. Speakers of long clips have a lower KL. The sum
    over the tokens has the variance of independent tokens with a standard deviation of 1.
    """
    length = rng.uniform(10, 60, count)
    tokens = np.round(rng.integers(*CLIPS, count, endpoint=True) * length)
    right = 1.2 * np.exp(0.3 * rng.standard_normal(count)) - 0.005 * length
    wrong = right + 0.1 + 0.15 * rng.standard_normal(count)
    noise = rng.standard_normal((2, count)) / np.sqrt(tokens)
    return np.stack([(wrong + noise[0]) * tokens, tokens, (right + noise[1]) * tokens, tokens], axis=1)


def _clips(sums: Floats) -> Floats:
    return np.asarray(sums.sum(axis=(-2, -1)))


def _tokens(sums: Floats) -> Floats:
    return sums[..., 1]


CASES = [
    Case(f"{name}, {num_classes} classes, spread {spread:g}", draw_answers(num_classes, spread), statistic, _clips)
    for name, statistic in confusions.SCORES.items()
    for num_classes, spread in ([(4, 0.5), (4, 1.0), (6, 0.5), (6, 1.0)] if name == "ua" else [(6, 1.0)])
] + [
    Case("kl", draw_divergences, lambda sums: intervals.ratio(sums[..., 2:]), _tokens),
    Case("gap", draw_divergences, intervals.difference_of_ratios, _tokens),
]


def jackknife(sums: Floats, case: Case) -> Interval:
    """Return the interval that score uses."""
    return intervals.estimate(sums, case.statistic, case.sizes(sums)).interval(CONFIDENCE)


def bootstrap(sums: Floats, case: Case) -> Interval:
    """Return the percentile bootstrap interval over speakers."""
    count, tail = len(sums), (1 - CONFIDENCE) / 2
    weights = np.random.default_rng(1).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    resampled = np.tensordot(weights.astype(np.float64), sums, axes=1).astype(np.float64)
    low, high = np.quantile(case.statistic(resampled), [tail, 1 - tail])
    return Interval(float(low), float(high))


def coverage(
    case: Case, num_speakers: int, samples: int, method: Callable[[Floats, Case], Interval] = jackknife
) -> float:
    """Return the share of samples of so many speakers whose interval holds the score of the population."""
    truth = float(case.statistic(case.draw(np.random.default_rng(0), MOST_SPEAKERS).sum(axis=0)))
    drawn = case.draw(np.random.default_rng(num_speakers), samples * num_speakers)
    found = (method(sums, case) for sums in np.split(drawn, samples))
    return sum(interval.low <= truth <= interval.high for interval in found) / samples


def main(samples: Annotated[int, typer.Option(min=1, help="Samples of speakers for each figure.")] = 4_000) -> None:
    """Measure how often 95 % intervals over speakers hold the true value."""
    with recorded("coverage") as figures:
        figures["samples"] = samples
        for case in CASES:
            figures[case.name] = {}
            for num_speakers in SPEAKERS:
                shares = {
                    method.__name__: coverage(case, num_speakers, samples, method) for method in (jackknife, bootstrap)
                }
                figures[case.name][f"{num_speakers} speakers"] = shares
                listed = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
                say(f"{case.name}, {num_speakers} speakers: {listed}")


if __name__ == "__main__":
    run_stage(main)
