"""The sentence names the link where the accuracy falls for good, and only if the figures show it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from evaluate.links.clips import OTHER_WORDS, TRAINED_WORDS
from evaluate.links.figures import Figure
from evaluate.links.path import HEAD, LABEL, LAST, SPEECH
from evaluate.links.statement import find_fall, state

PATH = (("encoder", 0), ("encoder", 1), ("adapter output", None), (SPEECH, 1), (SPEECH, 2), (LAST, 1), (LAST, 2))


def figures(ua: Sequence[float], half: float = 0.05, speakers: int = 8) -> list[Figure]:
    """Make up the figures of probes; on dev they are what they are on test."""
    return [
        Figure(
            corpus="acted", words=TRAINED_WORDS, link=link, layer=layer, ua=value, ua_low=value - half,
            ua_high=value + half, chance=0.25, control=0.25, choice_ua=value, strength=0.01, clips=80,
            speakers=speakers,
        )
        for (link, layer), value in zip(PATH, ua, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ua", "link", "best"),
    [
        ((0.5, 0.6, 0.6, 0.6, 0.3, 0.3, 0.3), "speech positions, layer 2", "encoder, layer 1"),
        ((0.5, 0.8, 0.5, 0.5, 0.5, 0.3, 0.5), "adapter output", "encoder, layer 1"),
        ((0.3, 0.4, 0.4, 0.6, 0.7, 0.4, 0.3), "last position, layer 1", "speech positions, layer 2"),
    ],
)
def test_the_first_link_of_a_lasting_fall_is_named(ua: Sequence[float], link: str, best: str) -> None:
    fall = find_fall(figures(ua))
    assert fall is not None
    assert [each.place.name for each in fall] == [link, best]
    (said, of_others) = state([*figures(ua), *others()], 0.95)
    assert said.startswith(f"acted: For words of the training, the accuracy falls at: {link}. It is ")
    assert f"at: {best}. No later link reaches that again (chance 25\N{NO-BREAK SPACE}%; 80 test cl" in said
    assert of_others == "acted: For other words than those of the training, nothing is shown: there are no test clips."


def others() -> list[Figure]:
    return [Figure(corpus="acted", words=OTHER_WORDS, link=link, layer=layer) for link, layer in PATH]


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (figures((0.5, 0.6, 0.6, 0.6, 0.55, 0.55, 0.52)), "no interval stays below that of the best link before it"),
        (figures((0.5, 0.7, 0.7, 0.7, 0.7, 0.3, 0.7)), "no interval stays below that of the best link before it"),
        (figures((0.6, 0.7, 0.7, 0.6, 0.3, 0.3, 0.3), speakers=5), "fewer than 6 speakers cannot show one"),
        (figures((0.28, 0.28, 0.28, 0.28, 0.1, 0.1, 0.1)), "no probe is above chance (25"),
    ],
)
def test_what_is_not_shown_is_not_said(found: list[Figure], why: str) -> None:
    said = state([*found, *others()], 0.95)[0]
    assert "no fall is shown" in said
    assert why in said


def test_the_best_link_is_chosen_without_test_clips() -> None:
    found = figures((0.5, 0.9, 0.6, 0.6, 0.58, 0.58, 0.58))
    assert find_fall(found) is not None
    lucky = [replace(one, choice_ua=0.3) if one.ua == 0.9 else one for one in found]
    assert find_fall(lucky) is None


def test_the_head_neither_makes_up_for_a_fall_nor_is_one() -> None:
    found = figures((0.5, 0.6, 0.6, 0.6, 0.3, 0.3, 0.3))
    answers = [
        replace(found[0], link=name, layer=None, choice_ua=None, ua_low=low, ua_high=low + 0.1)
        for name, low in ((HEAD, 0.7), (LABEL, 0.2))
    ]
    fall = find_fall([*found, *answers])
    assert fall is not None
    assert fall[0].place.name == "speech positions, layer 2"
    recovered = [replace(one, ua_low=0.55, ua_high=0.65) if one.link == LABEL else one for one in answers]
    assert find_fall([*found, *recovered]) is None
    only_answers = find_fall([*figures((0.6,) * 7), *answers])
    assert only_answers is not None
    assert only_answers[0].place.name == LABEL
