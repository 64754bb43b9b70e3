"""The plot of the links as an SVG file of its own, for light and dark browsers."""

from collections.abc import Sequence

import numpy as np

from evaluate.intervals import Floats
from evaluate.links.clips import WORDS
from evaluate.links.figures import Figure
from evaluate.links.path import groups_of
from evaluate.report.plots import LinkCurve, draw_links

_STYLE = (
    "<style>:root{color-scheme:light dark;color:#1a1d21;--blue:#1f83c4;--orange:#d55e00;--green:#00855f;--grey:#7b818a}"
    "@media(prefers-color-scheme:dark){:root{color:#e7e9ec;--blue:#4aa3de;--orange:#f0883e;--green:#2bbf92;"
    "--grey:#9aa1ab}}</style>"
)
"""The colours of the report (evaluate/report/style.css.jinja)."""


def draw_corpus(figures: Sequence[Figure], corpus: str) -> str:
    """Draw the figures of a corpus; words without clips are left out."""
    by_words = {words: [one for one in figures if (one.corpus, one.words) == (corpus, words)] for words in WORDS}
    by_words = {words: of_words for words, of_words in by_words.items() if of_words and of_words[0].clips}
    links = list(dict.fromkeys(one.place for of_words in by_words.values() for one in of_words))
    groups = [
        (name, [layer for number in numbers if (layer := links[number].layer) is not None])
        for name, numbers in groups_of(links).items()
    ]
    curves = {}
    for words, of_words in by_words.items():
        found = {one.place: one for one in of_words}
        curves[words] = LinkCurve(
            *(
                _values([getattr(found[link], name) if link in found else None for link in links])
                for name in ("ua", "ua_low", "ua_high", "control")
            )
        )
    chance = next(one.chance for of_words in by_words.values() for one in of_words if one.chance is not None)
    svg = draw_links(groups, curves, chance, corpus)
    end = svg.index(">") + 1
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg[:end]}{_STYLE}{svg[end:]}'


def _values(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values])
