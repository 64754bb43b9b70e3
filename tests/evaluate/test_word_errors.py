import json
import random
from pathlib import Path

import pytest
from rapidfuzz.distance import Levenshtein

from evaluate.word_errors import Normaliser, count_errors, word_f1


@pytest.mark.parametrize(
    ("expected", "found", "errors", "words"),
    [("a b c", "a x c d", 2, 3), ("a b", "", 2, 2), ("", "a b", 2, 0), ("", "", 0, 0), ("a b", "a b", 0, 2)],
)
def test_substituted_deleted_and_inserted_words_are_errors(expected: str, found: str, errors: int, words: int) -> None:
    counted = count_errors(expected, found)
    assert (counted.errors, counted.words) == (errors, words)


def test_the_errors_are_the_edit_distance_of_the_words() -> None:
    generator = random.Random(0)
    for _ in range(100):
        texts = [[generator.choice("abc") for _ in range(generator.randrange(8))] for _ in range(2)]
        counted = count_errors(*map(" ".join, texts))
        assert counted.errors == Levenshtein.distance(*texts)
        assert counted.words == len(texts[0])


def test_case_punctuation_contractions_and_numbers_are_no_errors(tmp_path: Path) -> None:
    normalise = Normaliser(tmp_path)
    said = normalise("MISTER SMITH'S TWO DOGS CAN'T RUN", None)
    assert said == normalise("Mr. Smith is 2 dogs, cannot run.".replace("cannot", "can not"), "en")
    assert not normalise.has_spellings
    assert normalise("the colour", "en") == "the colour"


def test_spellings_come_from_the_folder_of_whisper(tmp_path: Path) -> None:
    (tmp_path / "normalizer.json").write_text(json.dumps({"colour": "color"}))
    assert Normaliser(tmp_path)("The Colour!", "en") == "the color"


def test_other_languages_keep_their_words_and_chinese_counts_letters(tmp_path: Path) -> None:
    normalise = Normaliser(tmp_path)
    assert normalise("L'été, c'est «beau»: deux!", "fr") == "l été c est beau deux"
    assert normalise("你好。世界", "zh").split() == list("你好世界")


@pytest.mark.parametrize(
    ("first", "second", "f1"), [("a b", "b a", 1), ("a a b", "a c", 0.4), ("a", "b", 0), ("", "", 1), ("", "a", 0)]
)
def test_the_f1_is_of_shared_words_each_as_often_as_it_stands(first: str, second: str, f1: float) -> None:
    assert word_f1(first, second) == pytest.approx(f1)
    assert word_f1(second, first) == pytest.approx(f1)
