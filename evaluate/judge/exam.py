"""The exam: pairs of answers of which one is better beyond doubt, and answers that are compared with themselves."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from evaluate.judge.answers import ask_for_choices, ask_for_marks
from evaluate.judge.replies import Asked
from evaluate.judge_tables import (
    COLD,
    EQUAL,
    EXAM,
    WARM,
)
from pipeline import params
from pipeline.params import Section

FILE = Path(__file__).with_name("exam.yaml")


class Swapped(Section):
    """A sentence that is said in two emotions, and an answer that fits each."""

    said: str
    topic: str
    fits: dict[str, str]


class Cold(Section):
    """A sentence with a warm and a cold answer."""

    said: str
    emotion: str
    topic: str
    warm: str
    cold: str


class Equal(Section):
    """An answer that is compared with itself."""

    said: str
    emotion: str
    answer: str


class ExamFile(Section):
    """The file exam.yaml."""

    swapped: list[Swapped]
    cold: list[Cold]
    equal: list[Equal]


@dataclass(frozen=True, slots=True)
class Item:
    """A clip that was never recorded, and two answers to it; they are equal if `cold` is `warm`."""

    id: str
    said: str
    emotion: str
    warm: str
    cold: str


def load() -> list[Item]:
    """Return the items of the exam: 40 pairs, then 10 equal answers."""
    content = params.check(str(FILE), "exam", params.load_yaml(FILE, yaml.SafeLoader), ExamFile)
    return [Item(f"{EXAM}/{number:02}", *item) for number, item in enumerate(_items(content), start=1)]


def _items(content: ExamFile) -> Iterator[tuple[str, str, str, str]]:
    for swapped in content.swapped:
        for emotion, fit in swapped.fits.items():
            (other,) = swapped.fits.keys() - {emotion}
            yield swapped.said, emotion, fit, swapped.fits[other]
    for item in content.cold:
        yield item.said, item.emotion, item.warm, item.cold
    for equal in content.equal:
        yield equal.said, equal.emotion, equal.answer, equal.answer


def ask_exam(items: list[Item], repeats: int) -> tuple[list[Asked], list[Asked]]:
    """Return the questions about the marks of both answers of each pair, and those about the better answer."""
    marks, pairs = list[Asked](), list[Asked]()
    for item in items:
        about = {"id": item.id, "corpus": EXAM, "speaker": item.id, "emotion": item.emotion, "text": item.said}
        if item.warm == item.cold:
            pairs += ask_for_choices({**about, "system": EQUAL, "answer": item.warm}, EQUAL, item.cold, repeats)
            continue
        warm = {**about, "system": WARM, "answer": item.warm}
        marks += ask_for_marks(warm, repeats)
        marks += ask_for_marks({**about, "system": COLD, "answer": item.cold}, repeats)
        pairs += ask_for_choices(warm, COLD, item.cold, repeats)
    return marks, pairs
