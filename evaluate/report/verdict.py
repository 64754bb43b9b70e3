"""State the results in plain words, with no more certainty than the intervals allow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from evaluate.predictions import WRONG_CLIP

Scores = Mapping[str, Mapping[str, float]]
"""system -> metric -> value, of one task on one corpus."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim, and the scores that support it."""

    claim: str
    grounds: str


def hearing_verdict(scores: Scores, percent: str) -> Verdict:
    """State whether the continuations depend on what is said; `percent` is the coverage of intervals, as in "95 %"."""
    before, after, hearing = scores["before"]["kl"], scores["after"]["kl"], scores.get("hearing")
    measure = (
        "The KL divergence measures how far its continuations of speech are from the language model's continuations of "
        "the transcript."
    )
    if after < before:
        training = f"lowered the KL divergence from {before:.3f} to {after:.3f} nats per token"
    else:
        training = f"did not lower the KL divergence: it was {before:.3f} nats per token before and {after:.3f} after"
    outcome = f"With the right clip, training {training}. With the transcript itself, the KL divergence is 0."
    if hearing is None:
        claim = "This run cannot show whether the model hears words."
        return Verdict(claim, f"{measure} {outcome} No clip of another speaker with other words is in the test split.")
    low, high = bounds(hearing, "gap")
    size = _size(scores["shuffled"])
    if low > 0:
        claim, change = "The model hears something of what is said.", "is higher than"
    elif high < 0:
        claim, change = "The model does better on the wrong clips: look for a mistake.", "is lower than"
    else:
        claim = f"No difference was seen between the right clip and a wrong one, on {size}."
        change = "is not clearly different from that"
    interval = f"{percent} interval {signed(low)} to {signed(high)}" if math.isfinite(low) else "no interval"
    difference = f"difference {signed(hearing['gap'])} nats per token, {interval}"
    control = f"With another speaker's clip, the KL divergence {change} with the right clip ({difference})."
    return Verdict(claim, f"{measure} {control} {outcome}")


def emotion_verdict(scores: Scores, percent: str, *, texts_are_neutral: bool) -> Verdict:
    """State how well the head, the answers and the transcript recognise emotion, compared with chance.

    The head is a classifier of its own. So it is the likeliest label that decides whether the language model hears
    emotion: its accuracy must be above chance, and above that of the transcript if the transcript is above chance.
    """
    chance, head, written = scores["chance"]["ua"], scores["head"], scores["prompted"]
    transcript = scores["transcript_logprob"]
    words_tell = bounds(transcript, "ua")[0] > chance
    limit = bounds(transcript, "ua")[1] if words_tell else chance
    sentences = [
        f"The unweighted accuracy of the likeliest label is {_interval(scores['logprob'], percent)}; chance is "
        f"{_percent(chance)}. The accuracy of the written answer is {_interval(written, percent)}; "
        f"{_percent(written['unparsable'])} of the written answers name no emotion.",
        f"The accuracy of the emotion head, a classifier beside the language model, is {_interval(head, percent)}.",
        _transcript_sentence(transcript, chance, percent, texts_are_neutral=texts_are_neutral),
    ]
    shuffled = scores.get(f"{WRONG_CLIP}_head")
    if shuffled is None:
        sentences.append("No clip of another speaker and emotion is in the test split, so this control is missing.")
    elif bounds(shuffled, "ua")[0] > chance:
        sentences.append(
            "When each clip is replaced by one of another speaker and emotion, the head should score at most chance on "
            f"the emotion of the original clip. It scores {_interval(shuffled, percent)}, above chance. This suggests "
            "a data leak."
        )
    return Verdict(_emotion_claim(scores, chance, limit), " ".join(sentences))


def _emotion_claim(scores: Scores, chance: float, limit: float) -> str:
    head, answers = bounds(scores["head"], "ua"), bounds(scores["logprob"], "ua")
    if answers[0] > limit:
        return "The language model hears emotion."
    if answers[1] < chance:
        return "The language model gets emotion wrong more often than guessing would."
    if limit > chance and answers[0] > chance:
        return "The language model recognises emotion, but no better than it does from the transcript."
    size = _size(scores["head"])
    if head[0] > limit:
        return f"Only the emotion head hears emotion: in the language model, no difference was seen, on {size}."
    return f"No difference from guessing was seen, on {size}."


def _transcript_sentence(
    transcript: Mapping[str, float], chance: float, percent: str, *, texts_are_neutral: bool
) -> str:
    accuracy = _interval(transcript, percent)
    sentence = f"With only the transcript, the accuracy of the likeliest label is {accuracy}"
    low, high = bounds(transcript, "ua")
    if not low <= chance <= high:
        return f"{sentence}."
    reason = ", since every sentence is spoken in every emotion" if texts_are_neutral else ""
    return f"{sentence}, which is not clearly different from chance{reason}."


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


def bounds(score: Mapping[str, float], name: str) -> tuple[float, float]:
    """Return the interval of a metric; without an interval, nothing is excluded."""
    return score.get(f"{name}_low", -math.inf), score.get(f"{name}_high", math.inf)


def signed(value: float) -> str:
    """Write a difference with three decimals and a true minus sign."""
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _size(score: Mapping[str, float]) -> str:
    clips, speakers = int(score["n"]), int(score["speakers"])
    return f"{clips:,} test clip{'s' * (clips != 1)} of {speakers:,} speaker{'s' * (speakers != 1)}"


def _interval(score: Mapping[str, float], percent: str) -> str:
    low, high = bounds(score, "ua")
    if not math.isfinite(low):
        return f"{_percent(score['ua'])} (no interval)"
    return f"{_percent(score['ua'])} ({percent} interval {_percent(low)} to {_percent(high)})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
