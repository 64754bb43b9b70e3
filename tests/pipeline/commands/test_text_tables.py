import pytest

from pipeline.commands.text_tables import TIE, WIDTH, lay_out, lay_out_record, shorten, signed


def test_numbers_stand_to_the_right_and_words_to_the_left() -> None:
    assert lay_out([["corpus", "rows", "share"], ["a", "1,200", "7.5%"], ["acting", "-3", ""]]) == (
        "corpus   rows  share\n"
        "a       1,200   7.5%\n"
        "acting     -3"
    )  # fmt: skip


def test_a_table_without_rows_is_its_header() -> None:
    assert lay_out([["corpus", "rows"]]) == "corpus  rows"


def test_a_wide_table_goes_on_in_a_block_that_names_the_rows_again() -> None:
    labels = [f"emotion{i:02}" for i in range(13)]
    text = lay_out([["corpus", "split", *labels], ["acting", "train", *map(str, range(13))]], names=2)
    blocks = [[line.split() for line in block.splitlines()] for block in text.split("\n\n")]
    assert len(blocks) == 3
    assert all(header[:2] == ["corpus", "split"] and row[:2] == ["acting", "train"] for header, row in blocks)
    assert [label for header, _ in blocks for label in header[2:]] == labels
    assert [number for _, row in blocks for number in row[2:]] == [str(i) for i in range(13)]
    assert max(map(len, text.splitlines())) <= WIDTH


def test_long_text_is_wrapped_in_its_column() -> None:
    text = lay_out([["reason", "meaning"], ["silent", "word " * 30], ["clipped", "loud"]])
    first, *more = text.splitlines()[1:-1]
    assert first.startswith("silent   word")
    assert more
    assert all(line.startswith(" " * 9 + "word") for line in more)
    assert max(map(len, text.splitlines())) <= WIDTH


def test_tied_words_stay_on_one_line() -> None:
    text = lay_out([["corpus", "reasons"], ["acting", ", ".join(f"silent{TIE}{i}" for i in range(1000, 1020))]])
    assert TIE not in text
    assert len(text.splitlines()) > 2
    assert all(line.split()[-1].strip(",").isdigit() for line in text.splitlines()[1:])


def test_a_long_name_loses_its_middle() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abcde…hijk"
    name = "a-corpus-" + "with-a-long-name-" * 5 + "2"
    line = lay_out([["corpus", "rows"], [name, "1"]]).splitlines()[1]
    assert line.startswith("a-corpus-")
    assert line.endswith("2     1")
    assert len(line) < 40


def test_a_record_stands_under_its_name() -> None:
    assert lay_out_record("acting/1", {"text": "kids are " * 12, "split": "train"}) == (
        "acting/1\n"
        "  text   kids are kids are kids are kids are kids are kids are kids are kids are\n"
        "         kids are kids are kids are kids are\n"
        "  split  train"
    )  # fmt: skip
    assert lay_out_record("acting/1", {}) == "acting/1"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(3, 0, "+3"), (-1200, 0, "-1,200"), (0, 0, "0"), (0.254, 2, "+0.25"), (-0.001, 2, "0.00")],
)
def test_a_difference_carries_its_sign(value: float, digits: int, text: str) -> None:
    assert signed(value, digits) == text
