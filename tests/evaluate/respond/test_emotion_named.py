"""Reading an emotion out of an answer in words."""

import pytest

from evaluate.respond import emotion_named
from pipeline.tables.emotions import EMOTIONS

CLASSES = ("neutral", "sad", "angry", "happy", "surprise")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The emotion tone of the speech provided is neutral.", "neutral"),
        ("ANGRY!", "angry"),
        ("The speaker conveys sadness and some anger.", "sad"),
        ("They sound surprised.", "surprise"),
        ("It is full of happiness", "happy"),
        ("The options are neutral, sad, angry, happy, or surprise.", "neutral"),
        ("Happy or sad? Happy.", "happy"),
        ("I cannot tell.", None),
        ("", None),
    ],
)
def test_the_first_label_word_is_the_answer(answer: str, expected: str | None) -> None:
    assert emotion_named.label(answer, CLASSES) == expected


def test_a_label_inside_a_longer_word_is_no_label() -> None:
    assert emotion_named.label("An unhappy, saddled, neutralised speaker", CLASSES) is None


def test_an_emotion_outside_the_classes_is_no_label() -> None:
    assert emotion_named.label("The speaker is afraid, and angry", CLASSES) == "angry"
    assert emotion_named.label("The speaker is afraid", CLASSES) is None


def test_negation_is_not_understood() -> None:
    assert emotion_named.label("not sad but happy", CLASSES) == "sad"


def test_every_variant_names_one_unified_emotion() -> None:
    assert set(emotion_named.VARIANTS) <= set(EMOTIONS)
    words = [word for variants in emotion_named.VARIANTS.values() for word in variants]
    assert len(words) == len(set(words))
    for emotion, variants in emotion_named.VARIANTS.items():
        for word in variants:
            assert emotion_named.label(f"Clearly {word.upper()}.", EMOTIONS) == emotion
