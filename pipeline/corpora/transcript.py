"""Normalised transcripts: the one spelling in which the LLM and the evaluation meet every corpus."""

import re
import unicodedata

# the last two are what becomes of quotes in Windows-1252 that was taken for Latin-1
_APOSTROPHES = str.maketrans("\u2018\u2019\u02bc\u0060\u00b4\x91\x92", "'" * 7)
_NO_WORD = re.compile(r"[^\w']|_")
# an apostrophe stays beside a letter ("it's", "'tis", "dogs'"), a lone one goes
_LONE_APOSTROPHE = re.compile(r"(?<!\w)'+(?!\w)")


def normalise(text: str) -> str:
    """Lower-case `text` and drop its punctuation but for apostrophes.

    >>> normalise("It's ELEVEN o\u2019clock -- well-known, isn't it?")
    "it's eleven o'clock well known isn't it"
    """
    text = _composed(text).lower()
    return " ".join(_LONE_APOSTROPHE.sub(" ", _NO_WORD.sub(" ", text)).split())


def has_words(text: str) -> bool:
    """Tell whether anything is left of `text` when it is normalised, without doing so."""
    return any(map(str.isalnum, _composed(text)))


def _composed(text: str) -> str:
    # NFKC would split an acute accent that serves as an apostrophe, so those go first
    return text.replace("`", "'") if text.isascii() else unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))
