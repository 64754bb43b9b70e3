"""What a comparison shows, and how a finding says it.

A claim that A is better than B rests on the paired comparison of both on the same clips (evaluate/claims.py). It is
- shown, if p is small and A is better;
- contradicted, if p is small and B is better;
- not shown, if p is not small;
- undecided, if so few speakers cannot give a small p, whatever the scores are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evaluate.claims import CHANCE, CLAIMS
from evaluate.metrics import Metrics
from evaluate.paired import smallest_p
from evaluate.verdict.wording import Score, Scores, bounds, counted, p_value

SHOWN, CONTRADICTED, NOT_SHOWN, UNDECIDED = "shown", "contradicted", "not shown", "undecided"

OTHERS = {
    CHANCE: "chance",
    "transcript": "the transcript",
    "silence": "silence of the same length",
    "stage1": "the model before stage 2",
    "told_head": "the cascade (the stage-1 model with the clip, told the emotion that the head hears)",
    "heard_told_head": "the usual cascade (Whisper's transcript, told the emotion that the head hears)",
    "voice": "the model after stage 2",
    "prompted_even": "the embeddings of all emotions mixed evenly",
    "shuffled_prompted_head": "another speaker's clip of another emotion",
    "transcript_logprob": "the transcript",
    "silence_logprob": "silence of the same length",
    "heard_logprob": "Whisper's transcript",
}
"""What a system is compared with, in words."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found on one corpus."""

    corpus: str
    state: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Reading:
    """How the numbers are read: the metrics, the level of the tests, and the coverage of intervals as in "95 %"."""

    metrics: Metrics
    alpha: float
    percent: str

    def tests(self, prefix: str) -> Iterator[tuple[str, Scores]]:
        """Yield corpus and scores of the tests with a prefix."""
        for name, scores in self.metrics.items():
            if name.startswith(prefix):
                yield name.removeprefix(prefix), scores

    def comparisons(self, test: str, system: str, others: Sequence[str]) -> dict[str, Score]:
        """Return the comparisons of a system with others, those that score has."""
        of_test = self.metrics.get(CLAIMS + test, {})
        return {other: of_test[f"{system}_minus_{other}"] for other in others if f"{system}_minus_{other}" in of_test}

    def state(self, comparison: Score) -> str:
        """Return what a comparison shows."""
        if comparison["smallest_p"] > self.alpha:
            return UNDECIDED
        if comparison["p"] > self.alpha:
            return NOT_SHOWN
        return SHOWN if comparison["difference"] > 0 else CONTRADICTED

    def state_of_interval(self, score: Score, name: str, speakers: float, *, lower_is_better: bool = False) -> str:
        """Return what the interval of a difference shows: contradicted, if it is on the wrong side of 0."""
        low, high = bounds(score, name)
        if smallest_p(int(speakers)) > self.alpha:
            return UNDECIDED
        if low <= 0 <= high:
            return NOT_SHOWN
        return SHOWN if (low > 0) != lower_is_better else CONTRADICTED

    def too_few(self, speakers: float) -> str:
        """Say that so few speakers cannot decide; nothing if they can."""
        least = smallest_p(int(speakers))
        if least <= self.alpha:
            return ""
        who = counted(speakers, "speaker")
        return f" This could not be decided with {who}: the exact test cannot give a p below {least:.3g}."

    def better_than_all(self, comparisons: Mapping[str, Score], *, more: bool = True) -> str:
        """Return whether a system is better than all others; `more` is a further condition of showing it.

        It is contradicted only by chance, because a strong baseline does not make the system wrong.
        """
        states = {other: self.state(comparison) for other, comparison in comparisons.items()}
        if not states or UNDECIDED in states.values():
            return UNDECIDED
        if states.get(CHANCE) == CONTRADICTED:
            return CONTRADICTED
        return SHOWN if more and set(states.values()) == {SHOWN} else NOT_SHOWN

    def reasons(self, comparisons: Mapping[str, Score]) -> str:
        """Return the outcome of each comparison in a sentence."""
        if not comparisons:
            return "metrics.json has no paired comparisons; run the stage score again."
        first = next(iter(comparisons.values()))
        if first["smallest_p"] > self.alpha:
            return self.too_few(first["speakers"]).strip()
        words = {
            SHOWN: "It is better than", NOT_SHOWN: "It is not clearly different from", CONTRADICTED: "It is worse than",
        }  # fmt: skip
        sentences = []
        for state, begin in words.items():
            named = [
                f"{OTHERS[other]} ({p_value(one['p'])})"
                for other, one in comparisons.items()
                if self.state(one) == state
            ]
            if named:
                sentences.append(f"{begin} {_listed(named)}.")
        return " ".join(sentences)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
