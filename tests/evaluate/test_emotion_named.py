"""Reading an emotion out of an answer in words."""

import pytest

from evaluate import emotion_named
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


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("_happy_", "happy"),
        ("__Surprise__", "surprise"),
        ("**Happy**", "happy"),
        ("emotion_tone: sad_", "sad"),
        ("情感是happy。", "happy"),
        ("说话者听起来很angry", "angry"),
        ("これはneutralです", "neutral"),
        ("\uff28\uff21\uff30\uff30\uff39", "happy"),  # full width
        ("\uff53\uff41\uff44\uff01", "sad"),
        ("他很高兴。", "happy"),
        ("說話者聽起來很憤怒、也有點悲傷", "angry"),
        ("语气是中性。", "neutral"),
        ("她并不高兴、而是难过", "sad"),
        ("他不开心", None),
        ("unhappy", None),
        ("화자는 happy합니다", "happy"),
        ("épisadé", None),
        ("surprise2", None),
    ],
)
def test_marks_full_width_letters_and_chinese_around_a_label_do_not_hide_it(answer: str, expected: str | None) -> None:
    assert emotion_named.label(answer, CLASSES) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<think>The speaker may be sad or angry.</think>\n\nhappy", "happy"),
        ("They may be sad.\n</think>\nhappy", "happy"),
        ("<thinking>sad</thinking>happy", "happy"),
        ("[THINK]sad[/THINK]Happy.", "happy"),
        ("<think>sad</think><think>angry</think> neutral", "neutral"),
        ("<think>I hear sadness, so the answer", None),
        ("happy <think>or sad", "happy"),
        ("I think they are sad", "sad"),
    ],
)
def test_thoughts_before_the_answer_name_no_emotion(answer: str, expected: str | None) -> None:
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
