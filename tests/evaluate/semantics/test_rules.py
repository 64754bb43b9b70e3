"""Each rule accepts what complies, and refuses what nearly does."""

from typing import Any

import pytest

from evaluate.semantics.rules import RULES, complies

CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("all_capitals", {}, ["BEES MAKE HONEY.", "A 1"], ["Bees make honey.", "BEES MAKE HONEy", "12"]),
    ("all_lower_case", {}, ["bees make honey."], ["Bees make honey.", "12"]),
    ("num_words", {"most": 3}, ["one two three", "one"], ["one two three four"]),
    ("num_words", {"least": 3}, ["one two three", "a b c d"], ["one two"]),
    (
        "num_sentences",
        {"count": 2},
        ["One is here. Two is there.", "Is it? Yes", 'He said "no." She left!', "It costs 3.50 now. Fine."],
        ["One is here.", "One. Two. Three.", "One", "One. Two. and"],
    ),
    ("num_paragraphs", {"count": 2, "separator": "***"}, ["a\n***\nb"], ["a b", "a\n***", "a***b***c", "***b"]),
    ("starts_with", {"phrase": "The answer is"}, ["the answer is two"], ["The answer is", "So the answer is two"]),
    (
        "ends_with",
        {"phrase": "I hope this helps."},
        ["Water it. I hope this helps.", '"Yes. I hope this helps."'],
        ["I hope this helps.", "I hope this helps. Bye."],
    ),
    (
        "json_object",
        {"keys": ["a", "b"]},
        ['{"b": 1, "a": [2]}', '```json\n{"a": 1, "b": 2}\n```', '```\n{"a": 1,\n "b": 2}\n```'],
        ['{"a": 1}', '{"a": 1, "b": 2, "c": 3}', '["a", "b"]', 'Here: {"a": 1, "b": 2}', "{'a': 1, 'b': 2}"],
    ),
    ("bullets", {"count": 2}, ["Take:\n- a\n- b", "* a\n• b"], ["- a", "- a\n- b\n- c", "a - b\n-c - d"]),
    (
        "numbered",
        {"count": 2},
        ["1. a\n2. b", "So:\n1) a\n2) b"],
        ["1. a", "1. a\n3. b", "1. a\n2. b\n3. c", "2. a\n1. b"],
    ),
    ("word_count", {"word": "water", "least": 2}, ["Water is water."], ["water", "water waterfall"]),
    ("word_count", {"word": "the", "most": 0}, ["There is then a bather"], ["In THE sea"]),
    ("lacks", {"character": ","}, ["a; b."], ["a, b"]),
    ("has_digits", {"wanted": True}, ["It has 8."], ["It has eight."]),
    ("has_digits", {"wanted": False}, ["It has eight."], ["It has 8."]),
    ("quoted", {}, ['"Be well."', "“Be well.”"], ['"Be" or "well"', "'Be well.'", '"Be well', '""', '“Be well."']),
    (
        "titled",
        {},
        ["<<A dog>>\nIt ran.", "<<A>> \n\n It"],
        ["<<A dog>>", "<<A dog>> It ran.", "A <<dog>>\nIt", "<<>>\nIt"],
    ),
    ("one_of", {"options": ["Yes", "No"]}, ["Yes", " No\n"], ["Yes.", "yes", "Yes No"]),
]


@pytest.mark.parametrize(("rule", "arguments", "good", "bad"), CASES)
def test_a_rule_accepts_what_complies_and_nothing_else(
    rule: str, arguments: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    assert [answer for answer in good if not complies(rule, answer, arguments)] == []
    assert [answer for answer in bad if complies(rule, answer, arguments)] == []


def test_every_rule_has_a_case_and_refuses_an_empty_answer() -> None:
    assert {rule for rule, *_ in CASES} == set(RULES)
    assert not any(complies(rule, answer, arguments) for rule, arguments, *_ in CASES for answer in ("", " \n"))
