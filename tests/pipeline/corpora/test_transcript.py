import pytest

from pipeline.corpora.transcript import has_words, normalise


@pytest.mark.parametrize(
    ("published", "normalised"),
    [
        ("HE COULD WAIT NO LONGER", "he could wait no longer"),
        ("It's eleven o'clock.", "it's eleven o'clock"),
        ("It\u2019s  a\tfa\u00e7ade\u2014really?", "it's a façade really"),
        ("'TIS THE DOGS' ' BONE", "'tis the dogs' bone"),
        ("well-known snake_case, 3rd", "well known snake case 3rd"),
        ("O\u00b4CLOCK", "o'clock"),
        ("...", ""),
    ],
)
def test_transcripts_are_lower_case_without_punctuation_but_apostrophes(published: str, normalised: str) -> None:
    assert normalise(published) == normalised


def test_normalising_twice_changes_nothing() -> None:
    once = normalise("\ufb01ve 'o' \u017fIX \u2014 It\u2019s")
    assert normalise(once) == once


@pytest.mark.parametrize("text", ["", " - ", "'", "\u02bc", "_", "a", "\u2100", "\u00bd", "\u4f60", "...7", "\u0301"])
def test_a_text_has_words_where_its_normalised_form_is_not_empty(text: str) -> None:
    assert has_words(text) == bool(normalise(text))
