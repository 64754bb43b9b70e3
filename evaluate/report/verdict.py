"""State the results in plain words, with no more certainty than the intervals allow."""

from collections.abc import Mapping
from dataclasses import dataclass

Scores = Mapping[str, Mapping[str, float]]
"""system -> metric -> value, of one task on one corpus."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim, and the scores that support it."""

    claim: str
    grounds: str


def hearing_verdict(scores: Scores, percent: str) -> Verdict:
    """State whether the continuations depend on what is said; `percent` is the coverage of intervals, as in "95 %"."""
    before, after, hearing = scores["before"]["kl"], scores["after"]["kl"], scores["hearing"]
    if hearing["gap_low"] > 0:
        claim, change = "The model hears something of what is said.", "is higher than"
    elif hearing["gap_high"] < 0:
        claim, change = "The model does better on the wrong clips: look for a mistake.", "is lower than"
    else:
        claim, change = "This run does not show that the model hears words.", "is not clearly different from that"
    if after < before:
        training = f"lowered the KL divergence from {before:.3f} to {after:.3f} nats per token"
    else:
        training = f"did not lower the KL divergence: it was {before:.3f} nats per token before and {after:.3f} after"
    grounds = (
        "The KL divergence measures how far its continuations of speech are from the language model's continuations of "
        f"the transcript. With another speaker's clip, the KL divergence {change} with the right clip "
        f"(difference {signed(hearing['gap'])} nats per token, {percent} interval {signed(hearing['gap_low'])} to "
        f"{signed(hearing['gap_high'])}). With the right clip, training {training}. With the transcript itself, the "
        "KL divergence is 0."
    )
    return Verdict(claim, grounds)


def emotion_verdict(scores: Scores, percent: str, *, texts_are_neutral: bool) -> Verdict:
    """State how well the head, the answers and the transcript recognise emotion, compared with chance."""
    chance, head, prompted = scores["chance"]["ua"], scores["head"], scores["prompted"]
    transcript, shuffled = scores["transcript_logprob"], scores["shuffled_head"]
    if head["ua_low"] > chance:
        claim = "The model hears emotion."
    elif head["ua_high"] < chance:
        claim = "The model gets emotion wrong more often than guessing would."
    else:
        claim = "This run does not show that the model hears emotion: guessing may do as well."
    sentences = [
        f"The unweighted accuracy of its emotion head on the test clips is {_interval(head, percent)}; chance is "
        f"{_percent(chance)}.",
        f"The accuracy of the likeliest label is {_interval(scores['logprob'], percent)}. The accuracy of the written "
        f"answer is {_interval(prompted, percent)}; {_percent(prompted['unparsable'])} of the written answers name no "
        "emotion.",
    ]
    accuracy = _interval(transcript, percent)
    only_transcript = f"With only the transcript, the accuracy of the likeliest label is {accuracy}"
    if transcript["ua_low"] <= chance <= transcript["ua_high"]:
        reason = ", since every sentence is spoken in every emotion" if texts_are_neutral else ""
        sentences.append(f"{only_transcript}, which is not clearly different from chance{reason}.")
    else:
        sentences.append(f"{only_transcript}.")
    if shuffled["ua_low"] > chance:
        sentences.append(
            "When each clip is replaced by one of another speaker and emotion, the head should score at most chance on "
            f"the emotion of the original clip. It scores {_interval(shuffled, percent)}, above chance. This suggests "
            "a data leak."
        )
    return Verdict(claim, " ".join(sentences))


def describe_intervals(speakers: int) -> str:
    """State how far to trust intervals over `speakers` test speakers."""
    if speakers < 2:
        return "There is only a single speaker, so the bootstrap resamples clips and the intervals are too narrow."
    unit = f"The bootstrap resamples the {speakers} test speakers, not the clips"
    return f"{unit}; with so few speakers, the intervals are rough." if speakers < 10 else f"{unit}."


def signed(value: float) -> str:
    """Write a difference with three decimals and a true minus sign."""
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _interval(score: Mapping[str, float], percent: str) -> str:
    return f"{_percent(score['ua'])} ({percent} interval {_percent(score['ua_low'])} to {_percent(score['ua_high'])})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
