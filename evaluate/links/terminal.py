"""The figures of the links as a table for a terminal."""

from collections.abc import Sequence

from evaluate.links.clips import OTHER_WORDS, TRAINED_WORDS, WORDS
from evaluate.links.figures import Figure
from evaluate.links.path import Link
from evaluate.verdict.wording import counted
from pipeline.commands.text_tables import lay_out, lay_out_record

_COLUMNS = {TRAINED_WORDS: "trained words", OTHER_WORDS: "other words"}
CHOSEN = "*"
"""Marks the layer of a group that is best on the clips that chose the regularisation."""


def describe(figures: Sequence[Figure], corpus: str) -> str:
    """Lay out the clips of a corpus, and a line for each link."""
    by_words = {words: [one for one in figures if (one.corpus, one.words) == (corpus, words)] for words in WORDS}
    facts = {words: _size(of_words[0]) for words, of_words in by_words.items()}
    links = list(dict.fromkeys(one.place for of_words in by_words.values() for one in of_words))
    best = _best([one for of_words in by_words.values() for one in of_words])
    found = {words: {one.place: one for one in of_words} for words, of_words in by_words.items()}
    header = ["link", "layer", *(cell for words in WORDS for cell in (_COLUMNS[words], "control"))]
    rows = [
        [
            link.group,
            "" if link.layer is None else f"{link.layer} {CHOSEN * (link in best)}".strip(),
            *(cell for words in WORDS for cell in _cells(found[words].get(link))),
        ]
        for link in links
    ]
    return f"{lay_out_record(corpus, facts)}\n\n{lay_out([header, *rows], names=2)}"


def _size(figure: Figure) -> str:
    if not figure.clips:
        return "no test clips"
    assert figure.chance is not None
    return f"{counted(figure.clips, 'test clip')} of {counted(figure.speakers, 'speaker')}, chance {figure.chance:.3f}"


def _cells(figure: Figure | None) -> tuple[str, str]:
    if figure is None or figure.ua is None:
        return "", ""
    bounds = "" if figure.ua_low is None else f" ({figure.ua_low:.2f}\N{EN DASH}{figure.ua_high:.2f})"
    return f"{figure.ua:.2f}{bounds}", "" if figure.control is None else f"{figure.control:.2f}"


def _best(figures: Sequence[Figure]) -> set[Link]:
    """Return the best link of each group that has layers."""
    found: dict[str, Figure] = {}
    for figure in figures:
        if figure.layer is None or figure.choice_ua is None:
            continue
        if figure.link not in found or figure.choice_ua > (found[figure.link].choice_ua or 0):
            found[figure.link] = figure
    return {figure.place for figure in found.values()}
