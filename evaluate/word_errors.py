"""Count the words that two texts share or do not share, after Whisper's normalisation.

The normalisation is that of the Whisper paper (arXiv 2212.04356, appendix C): English text gets lower case, spelt-out
contractions, digits for numbers and one spelling. Other text gets lower case and loses its punctuation. In languages
without spaces, each letter counts as a word, so the word error rate is a character error rate.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jiwer
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

SPELLINGS_FILE = "normalizer.json"
WITHOUT_SPACES = ("zh", "ja", "th", "lo", "my", "yue")


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Substituted, deleted and inserted words, and the words of the reference."""

    errors: int
    words: int


class Normaliser:
    """Whisper's normalisation of a text in a language; null counts as English."""

    def __init__(self, whisper: Path) -> None:
        """Read the table of British and American spellings from a Whisper's folder; without it, spellings differ."""
        spellings = whisper / SPELLINGS_FILE
        self.has_spellings = spellings.is_file()
        self._english = EnglishTextNormalizer(json.loads(spellings.read_text()) if self.has_spellings else {})
        self._other = BasicTextNormalizer()
        self._letters = BasicTextNormalizer(split_letters=True)

    def __call__(self, text: str, language: str | None) -> str:
        """Return the normalised text, with spaces between its words."""
        if language in (None, "en"):
            return str(self._english(text)).strip()
        normalise = self._letters if language in WITHOUT_SPACES else self._other
        return str(normalise(text)).strip()


def count_errors(expected: str, found: str) -> WordErrors:
    """Count the word errors of a normalised text."""
    output = jiwer.process_words(expected, found)
    errors = output.substitutions + output.deletions + output.insertions
    return WordErrors(errors, output.hits + output.substitutions + output.deletions)


def word_f1(first: str, second: str) -> float:
    """Return the F1 of the words that two normalised texts share, in any order; 1 if both are empty.

    The measure is that of SQuAD (arXiv 1606.05250).
    """
    words = Counter(first.split()), Counter(second.split())
    total = words[0].total() + words[1].total()
    return 2 * (words[0] & words[1]).total() / total if total else 1.0
