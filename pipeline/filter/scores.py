"""Scores of the faults that a continuation may have. A higher score is worse.

The limits are parameters of the stage filter, which drops continuations. A word is a run of letters and digits, or one
Chinese character. Case and apostrophes are ignored.
"""

import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cache, lru_cache
from typing import Any

from pipeline.tables import languages

# A refusal pattern requires a verb of assistance, such as "assist" or "generate". So an apology alone does not match,
# and neither does a sentence about something that a person cannot do.
_SERVICE = (
    r"(?:assist|comply|fulfill?|provide\b(?! for)|generate|continue (?:the|this|that)"
    r"|help (?:you )?with (?:that|this|your))"
)
_SERVICE_ZH = r"(?:继续(?:这|该|写|完成|生成|对话)|提供|回答|协助|帮助您|满足|完成[这该您]|生成|处理[这该您])"
_MODEL_ZH = r"(?:AI|人工智能|大?型?语言模型|大模型|(?:智能|虚拟)助手|聊天机器人)(?!工程|研究|专家|专业|公司|行业)"
REFUSALS = (
    r"(?i:i'm sorry, but i)", r"I'm not sure what you",  # from the official data_process/clean_noise_examples.py
    r"(?i:\bi(?: am|'m) (?:unable|not able) to (?:help\b|continue\b|" + _SERVICE + "))",
    r"(?i:\bi (?:cannot|can't) " + _SERVICE + r"\b)",
    r"(?i:\bi(?: am|'m) sorry,? i (?:cannot|can't) (?:do|help with) (?:that|this)\b)",
    r"(?:抱歉|对不起|不好意思)[,，。]?\s*(?:但是?)?\s*作为(?:一[个名款])?(?:助手|" + _MODEL_ZH + ")",
    r"我[^，。！？]{0,3}(?:无法|不能|没有?办法)(?:[为给][您你])?" + _SERVICE_ZH,
)  # fmt: skip
MODEL_TALK = (
    r"(?i:\bas an? (?:ai|artificial intelligence|(?:large )?language (?:model|ai)|virtual assistant)\b)",
    r"(?i:\bi(?:'m| am) (?:just |not )?an? (?:ai|artificial intelligence|(?:large )?language model"
    r"|(?:helpful|virtual) assistant|chatbot)\b)",
    r"作为(?:一[个名款]助手|(?:一[个名款])?" + _MODEL_ZH + ")",
    r"我(?:只|只不过|不过|仅仅?)?是(?:一[个名款])?" + _MODEL_ZH,
)
SENTENCE_TALK = (
    r"(?i:\b(?:(?:the|this|your|original|revised|corrected|given) ){1,3}sentence\b)",
    r"(?i:\bemotion tone\b|\bgrammatical(?:ly)?\b|\b(?:revised|corrected|improved|rewritten) version\b)",
    r"(?:这|该|原|上述)(?:个|段|句)*(?:句子|话)(?:的|中|里|表达|描述|传达)",
)  # fmt: skip
MARKERS = r"<\|[a-z_]+\|>|\[/?INST\]|</?s>|###\s*(?:Instruction|Response|Input)"  # of chat templates, written as text

NGRAM = 3  # words
MIN_WORDS_FOR_LANGUAGE = 5  # fewer words do not show the language

_APOSTROPHE = re.compile("['’]")
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")


@lru_cache(maxsize=16)  # several scores of a row ask for the same texts, and many rows have the same prompt
def words(text: str) -> tuple[str, ...]:
    """Split a text into words in lower case."""
    return tuple(_WORD.findall(_APOSTROPHE.sub("", text.casefold())))


def refusal(continuation: str) -> float:
    """Return 1 if an answer declines, in English or Chinese, else 0."""
    return float(_matches(REFUSALS, continuation))


def model_talk(continuation: str) -> float:
    """Return 1 if an answer says that it comes from a model, in English or Chinese, else 0."""
    return float(_matches(MODEL_TALK, continuation))


def sentence_talk(continuation: str) -> float:
    """Return 1 if an answer comments on the sentence instead of continuing it, in English or Chinese, else 0."""
    return float(_matches(SENTENCE_TALK, continuation))


def echo(continuation: str, transcript: str) -> float:
    """Return the longest run of the transcript's words in an answer, as a share of the answer's words."""
    answer = words(continuation)
    return _longest_run(answer, words(transcript)) / len(answer) if answer else 0.0


def repetition(continuation: str) -> float:
    """Return the share of an answer's runs of three words that repeat an earlier one."""
    answer = words(continuation)
    runs = [answer[i : i + NGRAM] for i in range(len(answer) - NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def non_text(continuation: str) -> float:
    """Return the share of an answer's characters that are not letters, digits or spaces; it is below 0.1 in prose."""
    other = sum(map(_is_other, continuation))
    return other / len(continuation) if continuation else 0.0


def prompt_leak(continuation: str, prompt: str) -> float:
    """Return the length of the longest run of words that an answer shares with its prompt; 99 if it has a marker."""
    return 99.0 if re.search(MARKERS, continuation) else float(_longest_run(words(continuation), words(prompt)))


def other_language(continuation: str, language: str) -> float:
    """Return the probability of an answer's language if that is not `language` (ISO 639), else 0.

    An answer of fewer than MIN_WORDS_FOR_LANGUAGE words gets 0. So does a language that the identifier does not know.
    """
    if len(words(continuation)) < MIN_WORDS_FOR_LANGUAGE or not _knows(language):
        return 0.0
    found, probability = _identifier().classify(continuation)
    return 0.0 if languages.are_same(found, language) else float(probability)


@cache
def _is_other(character: str) -> bool:
    return unicodedata.category(character)[0] not in "LMNZ"


def _matches(patterns: Sequence[str], text: str) -> bool:
    plain = text.replace("’", "'")
    return any(re.search(pattern, plain) for pattern in patterns)


def _longest_run(a: Sequence[str], b: Sequence[str]) -> int:
    return SequenceMatcher(None, a, b, autojunk=False).find_longest_match().size


@cache
def _knows(language: str) -> bool:
    return any(languages.are_same(known, language) for known in _identifier().nb_classes)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
