"""What the numbers say, in plain words, with no more certainty than their intervals give."""

from collections.abc import Mapping
from dataclasses import dataclass

Scores = Mapping[str, Mapping[str, float]]
"""system -> metric, of one protocol."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim, and the figures behind it."""

    claim: str
    grounds: str


def hearing_verdict(scores: Scores, percent: str) -> Verdict:
    """Say whether the continuations depend on what is said; `percent` names the interval, as in "95 %"."""
    before, after, hearing = scores["before"]["kl"], scores["after"]["kl"], scores["hearing"]
    if hearing["gap_low"] > 0:
        claim, verb = "The model hears something of what is said.", "are worse"
    elif hearing["gap_high"] < 0:
        claim, verb = "The model does better on the wrong clips: look for a mistake.", "are better"
    else:
        claim, verb = "This run is too small to learn words.", "are as good"
    grounds = (
        f"With another speaker's clip its continuations {verb} (difference {signed(hearing['gap'])} nats per token, "
        f"{percent} interval {signed(hearing['gap_low'])} to {signed(hearing['gap_high'])}). "
        f"Training {'lowered' if after < before else 'did not lower'} their divergence from the language model's own, "
        f"from {before:.3f} to {after:.3f}; the transcript itself gives 0."
    )
    return Verdict(claim, grounds)


def emotion_verdict(scores: Scores, percent: str, *, texts_are_neutral: bool) -> Verdict:
    """Say what the head, the answers and the transcript make of emotion, against chance."""
    chance, head, prompted = scores["chance"]["ua"], scores["head"], scores["prompted"]
    transcript, shuffled = scores["transcript_logprob"], scores["shuffled_head"]
    if head["ua_low"] > chance:
        claim = "The model hears emotion."
    elif head["ua_high"] < chance:
        claim = "The model gets emotion wrong more often than guessing would."
    else:
        claim = "The model does not hear emotion: guessing does as well."
    sentences = [
        f"Its emotion head recognises {_interval(head, percent)} of the test clips, averaged over the emotions "
        f"(chance {_percent(chance)}).",
        f"Picking the likeliest label gives {_percent(scores['logprob']['ua'])}; asking in words gives "
        f"{_percent(prompted['ua'])}, with {_percent(prompted['unparsable'])} of the answers naming no emotion.",
    ]
    if transcript["ua_low"] <= chance <= transcript["ua_high"]:
        reason = ", since every sentence is spoken in every emotion" if texts_are_neutral else ""
        sentences.append(f"The transcript alone gives {_percent(transcript['ua'])}, no more than chance{reason}.")
    else:
        sentences.append(f"The transcript alone gives {_interval(transcript, percent)}.")
    if shuffled["ua_low"] > chance:
        sentences.append(
            f"With another speaker's clip of another emotion the head still finds {_interval(shuffled, percent)}, "
            "above chance: a leak to look for."
        )
    return Verdict(claim, " ".join(sentences))


def describe_intervals(speakers: int) -> str:
    """Say what the intervals of figures over `speakers` voices are worth."""
    if speakers < 2:
        return "With a single speaker the intervals draw clips instead of voices and are too narrow."
    voices = f"Intervals draw the {speakers} test voices again, not the clips"
    return f"{voices}; so few voices make them rough." if speakers < 10 else f"{voices}."


def signed(value: float) -> str:
    """Write a difference with three digits and a true minus sign."""
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _interval(score: Mapping[str, float], percent: str) -> str:
    return f"{_percent(score['ua'])} ({percent} interval {_percent(score['ua_low'])} to {_percent(score['ua_high'])})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
