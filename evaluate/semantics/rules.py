"""Rules that say whether an answer complies with an instruction on its form; an empty answer never does."""

import json
import re
from collections.abc import Callable, Sequence

Rule = Callable[..., bool]
"""A rule takes an answer without white space at its ends, and the arguments of the instruction."""

_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")
_BULLET = re.compile(r"^\s*[*•-]\s+\S", re.MULTILINE)
_NUMBERED = re.compile(r"^\s*(\d+)[.)]\s+\S", re.MULTILINE)
_QUOTES = (('"', '"'), ("“", "”"))


def complies(rule: str, answer: str, arguments: dict[str, object]) -> bool:
    """Return whether an answer complies with the rule of this name."""
    answer = answer.strip()
    return bool(answer) and RULES[rule](answer, **arguments)


def all_capitals(answer: str) -> bool:
    """There are letters, and none of them is in lower case."""
    return answer.isupper()


def all_lower_case(answer: str) -> bool:
    """There are letters, and none of them is a capital."""
    return answer.islower()


def num_words(answer: str, least: int = 0, most: int | None = None) -> bool:
    """The number of words between white space is within the bounds."""
    count = len(answer.split())
    return least <= count and (most is None or count <= most)


def num_sentences(answer: str, count: int) -> bool:
    """There are as many sentences; a last one without a full stop counts."""
    ends = [match.end() for match in _SENTENCE_END.finditer(answer)]
    unended = not ends or bool(answer[ends[-1] :].strip())
    return len(ends) + unended == count


def num_paragraphs(answer: str, count: int, separator: str) -> bool:
    """The separator divides the answer into as many paragraphs, none of which is empty."""
    paragraphs = answer.split(separator)
    return len(paragraphs) == count and all(map(str.strip, paragraphs))


def starts_with(answer: str, phrase: str) -> bool:
    """The answer begins with the phrase, in capitals or not, and goes on."""
    return answer.lower().startswith(phrase.lower()) and len(answer) > len(phrase)


def ends_with(answer: str, phrase: str) -> bool:
    """The answer ends with the phrase, in capitals or not, and has more before it; quotation marks may follow."""
    answer = answer.rstrip('"”')
    return answer.lower().endswith(phrase.lower()) and len(answer) > len(phrase)


def json_object(answer: str, keys: Sequence[str]) -> bool:
    """The answer is a JSON object with exactly these keys; it may be in a fenced block."""
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*)\n```", answer, re.DOTALL)
    try:
        found = json.loads(fenced[1] if fenced else answer)
    except ValueError:
        return False
    return isinstance(found, dict) and found.keys() == set(keys)


def bullets(answer: str, count: int) -> bool:
    """There are as many lines that begin with a bullet."""
    return len(_BULLET.findall(answer)) == count


def numbered(answer: str, count: int) -> bool:
    """There are as many lines that begin with a number, from 1 on."""
    return _NUMBERED.findall(answer) == [str(number) for number in range(1, count + 1)]


def word_count(answer: str, word: str, least: int = 0, most: int | None = None) -> bool:
    """The word occurs as often as the bounds say, as a whole word, in capitals or not."""
    count = len(re.findall(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE))
    return least <= count and (most is None or count <= most)


def lacks(answer: str, character: str) -> bool:
    """The character does not occur, in capitals or not."""
    return character.lower() not in answer.lower()


def has_digits(answer: str, wanted: bool) -> bool:
    """There are digits, or none, as wanted."""
    return any(map(str.isdigit, answer)) == wanted


def quoted(answer: str) -> bool:
    """The whole answer is in double quotation marks, with none of them inside."""
    return any(
        len(answer) > 2
        and answer[0] == opening
        and answer[-1] == closing
        and not {opening, closing} & set(answer[1:-1])
        for opening, closing in _QUOTES
    )


def titled(answer: str) -> bool:
    """The first line is a title in double angle brackets, and an answer follows."""
    return re.match(r"<<[^<>\n]+>>\s*\n\s*\S", answer) is not None


def one_of(answer: str, options: Sequence[str]) -> bool:
    """The answer is one of the options and nothing else."""
    return answer in options


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        all_capitals, all_lower_case, num_words, num_sentences, num_paragraphs, starts_with, ends_with, json_object,
        bullets, numbered, word_count, lacks, has_digits, quoted, titled, one_of,
    )
}  # fmt: skip
