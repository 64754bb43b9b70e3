"""Transcripts: what is spoken in them, and a common spelling for the LLM and the evaluation."""

import ast
import html
import re
import unicodedata
from collections.abc import Sequence
from functools import cache

# the last two are quotes in Windows-1252 that was decoded as Latin-1
_APOSTROPHES = str.maketrans("\u2018\u2019\u02bc\u0060\u00b4\x91\x92", "'" * 7)
_NO_WORD = re.compile(r"[^\w']|_")
# an apostrophe beside a letter is kept ("it's", "'tis", "dogs'"), any other is removed
_LONE_APOSTROPHE = re.compile(r"(?<!\w)'+(?!\w)")

_SOUNDS = (
    r"(?:laugh|chuckl|giggl|snicker|sigh|cough|sneez|sniff|sob|gasp|groan|moan|scream|breath|inhal|exhal|yawn|hiccup"
    r"|stutter|smack|lipsmack)(?:e?s|e?d|e|ter|b?ing|bed)?|cry(?:ing)?|cries|throat|lips?|noises?|music|silence|pause"
    r"|applause|garbage|inaudible|unintelligible|indistinct|crosstalk"
    r"|笑声?|大笑|哭声?|咳嗽声?|叹气|音乐|噪音|掌声"
)
_MARKUP = re.compile(
    r"</?[^\W\d_][^<>]*>"  # <SIL>, <COMMA>, <br>, </i>
    r"|\[[^\[\]]*\]"  # [LAUGHTER]
    r"|\{[^{}]*\}"  # {breath}
    r"|(?<![\w+])\+\+[^+]+\+\+"  # ++GARBAGE++, but not C++
    # in other signs, which also enclose spoken words, only the names of sounds: (laughs), (clears throat), *sighs*
    rf"|\((?:\w+ )?(?:{_SOUNDS})\)|\*(?:\w+ )?(?:{_SOUNDS})\*",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]+\d*);", re.IGNORECASE)
# Python's spelling of bytes, as in CMU-MOSEI
_BYTES = re.compile(r"b(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\")", re.DOTALL)
_BYTES_START = ("b'", 'b"')
_WIDE_SIGNS = re.compile(r"[<\[{(*&\uff1c\uff3b\uff5b\uff08\uff0a\uff06]|\+\+|\uff0b\uff0b")  # also full-width ones
_DEPTH = 3  # tags within tags, and entities that were escaped again


def spoken(text: str, tags: Sequence[str] = ()) -> str:
    """Return a published transcript without its markup; `tags` are pieces that are removed in addition.

    >>> spoken("[LAUGHTER] you &amp; me <SIL> xxx", tags=["xxx"]).split()
    ['you', '&', 'me']
    """
    if not tags and _is_plain(text):
        return text
    if tags:
        text = _named(tuple(tags)).sub(" ", text)
    text = _decoded(text.strip())
    for _ in range(_DEPTH):
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    text = _composed(text)
    for _ in range(_DEPTH):
        text = _MARKUP.sub(" ", text)
    return text


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


def _is_plain(text: str) -> bool:
    """Return whether a text has no sign of markup, as most texts; for ASCII, `in` is faster than a pattern."""
    if text.startswith(_BYTES_START):
        return False
    if not text.isascii():
        return _WIDE_SIGNS.search(text) is None
    return not ("<" in text or "[" in text or "{" in text or "(" in text or "*" in text or "&" in text or "++" in text)


def _composed(text: str) -> str:
    # NFKC would split an acute accent used as an apostrophe, so apostrophes are replaced first
    return text.replace("`", "'") if text.isascii() else unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))


def _decoded(text: str) -> str:
    """Return the text of a bytes literal of Python; any other text stays as it is."""
    if not text.startswith(_BYTES_START) or not (literal := _BYTES.fullmatch(text)):
        return text
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # it has other characters than ASCII
        return literal[1] or literal[2] or ""
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        return str(value, "latin-1")


@cache
def _named(tags: tuple[str, ...]) -> re.Pattern[str]:
    """Compile tags to a pattern that finds them as whole words, the longest first."""
    words = (re.escape(tag) for tag in sorted(tags, key=len, reverse=True))
    whole = (re.sub(r"^(?=\w)", r"(?<!\\w)", re.sub(r"(?<=\w)$", r"(?!\\w)", word)) for word in words)
    return re.compile("|".join(whole), re.IGNORECASE)
