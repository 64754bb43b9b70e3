"""Did the audio matter? The accuracy of each system, by what it is given; the same systems in every corpus."""

from collections.abc import Iterator
from dataclasses import dataclass

from evaluate.metrics import EMOTION, Metrics
from evaluate.own_answers import NEW_WORDS, OWN_ANSWERS, SEEN_WORDS
from evaluate.verdict.systems import OWN_ROWS, RECOGNITION_ROWS
from evaluate.verdict.wording import Score, Scores

WORDS = {OWN_ANSWERS: "all words", SEEN_WORDS: "words seen in training", NEW_WORDS: "new words"}


@dataclass(frozen=True, slots=True)
class Row:
    """A system: what it is given, how it is read, and its score."""

    system: str
    given: str
    read_by: str
    score: Score


@dataclass(frozen=True, slots=True)
class Group:
    """Systems that are asked the same, on the same clips."""

    question: str
    chance: float
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Overview:
    """All systems on one corpus."""

    corpus: str
    groups: list[Group]


def overviews(metrics: Metrics) -> list[Overview]:
    """Return the systems of every corpus with own answers or emotion recognition."""
    corpora = dict.fromkeys(
        name.removeprefix(prefix) for name in metrics for prefix in (EMOTION, OWN_ANSWERS) if name.startswith(prefix)
    )
    return [Overview(corpus, list(_groups(metrics, corpus))) for corpus in corpora]


def _groups(metrics: Metrics, corpus: str) -> Iterator[Group]:
    for prefix in (NEW_WORDS, SEEN_WORDS):
        if scores := metrics.get(prefix + corpus):
            question = f"Own answers, {WORDS[prefix]}: is the right one likeliest?"
            yield Group(question, scores["chance"]["ua"], rows_of(scores, OWN_ROWS))
    if scores := metrics.get(EMOTION + corpus):
        yield Group("Recognition: is the emotion named?", scores["chance"]["ua"], rows_of(scores, RECOGNITION_ROWS))


def rows_of(scores: Scores, systems: dict[str, tuple[str, str]]) -> list[Row]:
    """Return the rows of the systems that have scores."""
    return [Row(name, *said, scores[name]) for name, said in systems.items() if name in scores]
