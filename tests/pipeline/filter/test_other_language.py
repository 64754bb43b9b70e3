import pytest

from pipeline.filter.scores import other_language

ENGLISH = "That's wonderful, I'm so happy for you and I hope it lasts."
CHINESE = "今天真的很开心，下次再一起去吧。"


@pytest.mark.parametrize(
    ("answer", "language"),
    [(ENGLISH, "en"), (ENGLISH, "eng"), (ENGLISH, "en-US"), (CHINESE, "zh"), (CHINESE, "cmn"), (CHINESE, "yue")],
)
def test_an_answer_in_its_language_scores_0_whatever_the_code(answer: str, language: str) -> None:
    assert other_language(answer, language) == 0


@pytest.mark.parametrize(
    ("answer", "language"), [(ENGLISH, "deu"), (ENGLISH, "cmn"), (CHINESE, "eng"), (CHINESE, "ja")]
)
def test_an_answer_in_another_language_scores_high(answer: str, language: str) -> None:
    assert other_language(answer, language) > 0.9


def test_a_language_that_the_identifier_does_not_know_is_not_held_against_an_answer() -> None:
    assert other_language(ENGLISH, "cnh") == 0
