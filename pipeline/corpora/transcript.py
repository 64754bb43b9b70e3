"""Normalised transcripts: the LLM and the evaluation get all corpora in the same spelling."""

import re
import unicodedata

# the last two are quotes in Windows-1252 that was decoded as Latin-1
_APOSTROPHES = str.maketrans("\u2018\u2019\u02bc\u0060\u00b4\x91\x92", "'" * 7)
_NO_WORD = re.compile(r"[^\w']|_")
# an apostrophe beside a letter is kept ("it's", "'tis", "dogs'"), any other is removed
_LONE_APOSTROPHE = re.compile(r"(?<!\w)'+(?!\w)")


def normalise(text: str) -> str:
    """Lower-case `text` and remove its punctuation, except apostrophes.

    >>> normalise("It's ELEVEN o\u2019clock -- well-known, isn't it?")
    "it's eleven o'clock well known isn't it"
    """
    text = _composed(text).lower()
    return " ".join(_LONE_APOSTROPHE.sub(" ", _NO_WORD.sub(" ", text)).split())


def has_words(text: str) -> bool:
    """Return whether `text` has words, so that normalising it leaves some text."""
    return any(map(str.isalnum, _composed(text)))


def _composed(text: str) -> str:
    # NFKC would split an acute accent used as an apostrophe, so apostrophes are replaced first
    return text.replace("`", "'") if text.isascii() else unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))
