"""In words: at which link the accuracy falls for good.

A link falls if its interval lies below that of the best link before it, and so do the intervals of all later links that
lead to the answer. The best link before it is the one with the highest accuracy on the clips that chose the
regularisation, not on test clips: the best of many test figures would be too high by chance. A fall that a later link
makes up for is none: the last position cannot hold the emotion before a layer has brought it there.
"""

import math
from collections.abc import Sequence

from evaluate.links.clips import OTHER_WORDS, WORDS
from evaluate.links.figures import Figure
from evaluate.links.path import leads_to_answer
from evaluate.paired import smallest_p
from evaluate.verdict.wording import counted, percent_of, with_interval


def state(figures: Sequence[Figure], confidence: float) -> list[str]:
    """Return a sentence for each corpus and each of WORDS, on the figures of all links in their order."""
    corpora = dict.fromkeys(figure.corpus for figure in figures)
    return [
        _state([one for one in figures if (one.corpus, one.words) == (corpus, words)], corpus, words, confidence)
        for corpus in corpora
        for words in WORDS
    ]


def find_fall(figures: Sequence[Figure]) -> tuple[Figure, Figure] | None:
    """Return the first figure that falls for good, and the best figure before it; None if none does."""
    path = [figure for figure in figures if leads_to_answer(figure.place) and figure.clips]
    for number in range(1, len(path)):
        before = [figure for figure in path[:number] if figure.choice_ua is not None]
        best = max(before, key=lambda figure: figure.choice_ua or 0)
        if all(_high(later) < _low(best) for later in path[number:]):
            return path[number], best
    return None


def _state(figures: Sequence[Figure], corpus: str, words: str, confidence: float) -> str:
    of_words = "For other words than those of the training" if words == OTHER_WORDS else "For words of the training"
    where = f"{corpus}: {of_words}"
    first = figures[0]
    if not first.clips:
        return f"{where}, nothing is shown: there are no test clips."
    size = f"{counted(first.clips, 'test clip')} of {counted(first.speakers, 'speaker')}"
    if smallest_p(first.speakers) > 1 - confidence:
        needed = next(n for n in range(2, 100) if smallest_p(n) <= 1 - confidence)
        return f"{where}, no fall is shown: {size}, and fewer than {needed} speakers cannot show one."
    assert first.chance is not None
    if all(_low(figure) <= first.chance for figure in figures if figure.choice_ua is not None):
        return f"{where}, no fall is shown: no probe is above chance ({percent_of(first.chance)}; {size})."
    fall = find_fall(figures)
    if fall is None:
        return f"{where}, no fall is shown: no interval stays below that of the best link before it ({size})."
    link, best = fall
    coverage = percent_of(confidence)
    return (
        f"{where}, the accuracy falls at: {link.place.name}. It is {_said(link, coverage)}, after "
        f"{_said(best, coverage)} at: {best.place.name}. No later link reaches that again "
        f"(chance {percent_of(first.chance)}; {size})."
    )


def _said(figure: Figure, coverage: str) -> str:
    scores = {name: getattr(figure, name) for name in ("ua", "ua_low", "ua_high")}
    return with_interval(scores, "ua", coverage)


def _low(figure: Figure) -> float:
    return -math.inf if figure.ua_low is None else figure.ua_low


def _high(figure: Figure) -> float:
    return math.inf if figure.ua_high is None else figure.ua_high
