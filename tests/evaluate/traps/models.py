"""Models whose strengths and weaknesses are known: a good one, and traps that an evaluation must not take for one.

A model here says what it believes after what it is given. `stand_in.py` puts it behind the interface of real models.
"""

from dataclasses import astuple, dataclass

import numpy as np

from evaluate.intervals import Floats
from tests.builders import CLASSES
from tests.evaluate.traps.corpus import NUM_SENTENCES, NUM_SPEAKERS, SHORTEST, WORDS

GAIN = 3.0
"""Nats by which an emotion that is heard is likelier than others; the noise has a standard deviation of 1."""

NUM_KNOWN = NUM_SPEAKERS // 2


@dataclass(frozen=True, slots=True)
class Given:
    """What a model is given in place of the content of a prompt: numbers from 1; 0 is nothing to hear."""

    speaker: int = 0
    text: int = 0
    emotion: int = 0
    num_embeddings: int = 0
    """Speech embeddings; 0 for a transcript."""
    told: int = 0
    """The emotion that the prompt names."""


def likely(number: int, gain: float = GAIN) -> Floats:
    """Return logits of the classes in which class `number` (from 1) is likely; for 0, all are alike."""
    logits = np.zeros(len(CLASSES))
    if number:
        logits[number - 1] = gain
    return logits


def by_words(given: Given) -> Floats:
    """Return what the words tell of the emotion."""
    tells = WORDS[given.text - 1].tells if given.text else None
    return likely(0 if tells is None else tells + 1)


def noise(given: Given, purpose: int) -> Floats:
    """Return noise that is the same for the same clip; silence and transcripts have none."""
    if not given.emotion:
        return np.zeros(len(CLASSES))
    return np.random.default_rng([purpose, *astuple(given)]).normal(size=len(CLASSES))


class Good:
    """Hears words and emotion; the words may tell the emotion, too."""

    def voice(self, given: Given) -> Floats:
        """Return what stage 2 hears of the emotion in the voice."""
        return likely(given.emotion) + noise(given, 1)

    def head(self, given: Given) -> Floats:
        """Return the logits of the emotion head, which hears less than the LLM."""
        return likely(given.emotion, GAIN * 2 / 3) + noise(given, 2)

    def emotions(self, given: Given) -> Floats:
        """Return the logits of the emotions, as the LLM believes them after a clip or a transcript."""
        return self.voice(given) + by_words(given)

    def text(self, given: Given) -> int:
        """Return the number of the words that stage 1 hears."""
        return given.text

    def written(self, given: Given) -> str:
        """Return the answer to the question for the emotion."""
        return CLASSES[int(self.emotions(given).argmax())]

    def answers(self, given: Given, text: int, num_tokens: Floats) -> Floats:
        """Return the log-probabilities of the LLM's continuations of a text, one for each emotion."""
        logits = self.emotions(given)
        scores: Floats = logits - np.logaddexp.reduce(logits) - num_tokens / 10
        return scores


class Stage1(Good):
    """Hears words, and an emotion only if the prompt names it."""

    def __init__(self, words: Good) -> None:
        self.text = words.text  # type: ignore[method-assign]

    def voice(self, given: Given) -> Floats:
        return likely(given.told) + noise(given, 3)


class AlwaysNeutral(Good):
    """Says neutral, whatever it hears."""

    def head(self, given: Given) -> Floats:
        return likely(1)

    def emotions(self, given: Given) -> Floats:
        return likely(1)


class InvalidAnswers(Good):
    """Writes answers that name no emotion; all else is good."""

    def written(self, given: Given) -> str:
        return "I am only a language model."


class MemorisedTest(Good):
    """Was trained on the test rows' continuations: for a text with one, it prefers this one after any clip.

    A model that has memorised the test clips themselves cannot be told from one that hears: every control gives it a
    clip that it knows. The stage leaks looks for such clips.
    """

    def voice(self, given: Given) -> Floats:
        return noise(given, 1)

    def head(self, given: Given) -> Floats:
        return noise(given, 2)

    def answers(self, given: Given, text: int, num_tokens: Floats) -> Floats:
        place = text - 1 - NUM_SENTENCES  # in felt; the sentences of acted have all emotions
        right = place % len(CLASSES) + 1 if place >= 0 else 0
        return likely(right, 2 * GAIN) + noise(given, 1) - num_tokens / 10


class KnownSpeakers(Good):
    """Understands the speakers of its training, which are the first half of the test speakers, and no others."""

    def voice(self, given: Given) -> Floats:
        return super().voice(given) if self._knows(given) else noise(given, 1)

    def head(self, given: Given) -> Floats:
        return super().head(given) if self._knows(given) else noise(given, 2)

    def _knows(self, given: Given) -> bool:
        return (given.speaker - 1) % NUM_SPEAKERS < NUM_KNOWN


class NoWords(Good):
    """Hears emotion, but no words."""

    def text(self, given: Given) -> int:
        return 0

    def emotions(self, given: Given) -> Floats:
        return self.voice(given) if given.num_embeddings else by_words(given)


class NoEmotion(Good):
    """Hears words, but no emotion: stage 2 has learnt nothing."""

    def voice(self, given: Given) -> Floats:
        return noise(given, 1)

    def head(self, given: Given) -> Floats:
        return noise(given, 2)


class TranscriptOnly(Good):
    """Answers from the words alone; so does its emotion head."""

    def emotions(self, given: Given) -> Floats:
        return by_words(given)

    def head(self, given: Given) -> Floats:
        return by_words(given)


class LengthOnly(Good):
    """Tells the emotion by the length of the clip alone."""

    def voice(self, given: Given) -> Floats:
        return likely(given.num_embeddings - SHORTEST + 1 if given.num_embeddings else 0) + noise(given, 1)

    def head(self, given: Given) -> Floats:
        return self.voice(given)


class ShortestAnswer(Good):
    """Prefers short answers, whatever it hears."""

    def answers(self, given: Given, text: int, num_tokens: Floats) -> Floats:
        return -10 * num_tokens


class HeadOnly(Good):
    """Its emotion head hears the emotion, but the LLM does not."""

    def voice(self, given: Given) -> Floats:
        return noise(given, 1)


class OtherOrder(Good):
    """Hears the emotion, but its classes are in another order than those of the evaluation."""

    def voice(self, given: Given) -> Floats:
        return np.roll(super().voice(given), 1)

    def head(self, given: Given) -> Floats:
        return np.roll(super().head(given), 1)
