import pytest

from pipeline.tables.languages import are_same, canonical


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("en", "en"), ("eng", "en"), ("en-US", "en"), ("en_US", "en"), ("EN", "en"), ("ger", "de"), ("deu", "de"),
        ("zh", "zh"), ("zho", "zh"), ("chi", "zh"), ("cmn", "zh"), ("zh-Hans-CN", "zh"), ("yue", "yue"), ("arb", "ar"),
        ("nb", "nb"), ("no", "no"), ("iw", "he"), ("in", "id"), ("cnh", "cnh"), ("sv-SE", "sv"),
    ],
)  # fmt: skip
def test_a_language_has_one_code(tag: str, code: str) -> None:
    assert canonical(tag) == code


@pytest.mark.parametrize("tag", ["", "english", "xx", "xxx", "e", "12", "en1", "-en"])
def test_what_names_no_language_has_none(tag: str) -> None:
    assert canonical(tag) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [("en", "eng"), ("cmn", "zh"), ("yue", "cmn"), ("nb", "no"), ("arz", "ar"), ("x", "x"), ("fil", "tl")],
)
def test_codes_of_one_language_are_the_same(first: str, second: str) -> None:
    assert are_same(first, second)
    assert are_same(second, first)


@pytest.mark.parametrize(("first", "second"), [("en", "de"), ("id", "ms"), ("hr", "sr"), ("zh", "ja"), ("x", "y")])
def test_other_languages_are_not(first: str, second: str) -> None:
    assert not are_same(first, second)
