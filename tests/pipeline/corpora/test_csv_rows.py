from pathlib import Path

import pytest

from pipeline.corpora.csv_rows import rows
from pipeline.stage import UserError


def read(root: Path, *lines: str, name: str = "clips.csv") -> list[list[str]]:
    (root / name).write_text("".join(f"{line}\n" for line in lines))
    return [cells for _, cells in rows(root / name)]


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
def test_an_unpaired_quotation_mark_swallows_no_row(tmp_path: Path, delimiter: str) -> None:
    texts = ["Plain.", '"Is it dangerous?', "Lost one.", "Lost two.", 'he asked, shaking."', "Also plain."]
    if delimiter == ",":
        texts = [text.replace(",", "") for text in texts]
    lines = [delimiter.join((f"c{i}.mp3", text, "2")) for i, text in enumerate(texts)]
    assert read(tmp_path, delimiter.join(("path", "sentence", "votes")), *lines)[1:] == [
        [f"c{i}.mp3", text, "2"] for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize("first", [True, False])
def test_it_does_not_matter_on_which_side_of_the_text_the_file_name_is(tmp_path: Path, first: bool) -> None:
    cells = [["a.wav", '"Yes'], ["b.flac", "no"], ["c.wav", 'well"']]
    lines = [",".join(row if first else reversed(row)) for row in cells]
    assert len(read(tmp_path, "audio,text" if first else "text,audio", *lines)) == 4


def test_an_unpaired_quotation_mark_in_the_last_row_of_a_tsv_is_a_character(tmp_path: Path) -> None:
    assert read(tmp_path, "a\tb", 'x.wav\t"Oh', name="c.tsv")[1] == ["x.wav", '"Oh']


def test_a_quotation_mark_within_a_cell_is_a_character_where_the_line_is_a_row(tmp_path: Path) -> None:
    assert read(tmp_path, "a\tb", 'x.wav\t"Hello" she said', name="c.tsv")[1] == ["x.wav", '"Hello" she said']


def test_cells_of_csv_may_contain_delimiters_line_ends_and_doubled_quotation_marks(tmp_path: Path) -> None:
    lines = ['a.wav,"one, two"', 'b.wav,"one', "", 'two, ""three"""', '"c.wav",four']
    assert read(tmp_path, "audio,text", *lines)[1:] == [
        ["a.wav", "one, two"],
        ["b.wav", 'one\n\ntwo, "three"'],
        ["c.wav", "four"],
    ]


def test_a_long_text_before_its_file_name_may_have_line_ends(tmp_path: Path) -> None:
    assert read(tmp_path, "text,audio", '"one', 'two",a.wav', "three,b.wav")[1:] == [
        ["one\ntwo", "a.wav"],
        ["three", "b.wav"],
    ]


def test_a_cell_that_swallows_rows_stops_even_if_its_first_line_is_damaged(tmp_path: Path) -> None:
    lines = ['"Is it?\tb.wav,s', "no,c.wav,s", 'he asked, shaking.",d.wav,s']
    with pytest.raises(UserError, match=r"line 3: .+ a quotation mark that is closed in line 5, after other rows"):
        read(tmp_path, "text,audio,speaker", "yes,a.wav,s", *lines)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (
            ['a.wav,s,"Yes', 'b.wav,s,no, well"'],
            "line 2: .+a quotation mark that is closed in line 3, after other rows",
        ),
        (['a.wav,s,"Yes', 'b.wav,no"'], "line 2: .+a quotation mark that is closed in line 3, after other rows"),
        (['a.wav,s,"Yes" he, said'], "line 2: .+a quotation mark within a cell .+; expected it doubled"),
        (["a.wav,s,no", 'b.wav,s,"no'], "line 3: .+ because the quotation mark of line 3 is not closed"),
        (["a.wav,s"], "line 2: expected 3 cells, found 2, of which the first is a.wav"),
        (["a.wav,s,yes\rb.wav,s,no"], "line 2: expected lines that end in LF or CR LF, found a CR within the line"),
    ],
)
def test_a_row_that_could_be_read_in_two_ways_or_in_none_stops_with_its_line(
    tmp_path: Path, lines: list[str], found: str
) -> None:
    with pytest.raises(UserError, match=rf"clips\.csv: {found}"):
        read(tmp_path, "audio,speaker,text", *lines)


def test_many_quotation_marks_take_linear_time(tmp_path: Path) -> None:
    count = 20_000
    lines = (f'c{i}.wav\t"open' if i % 3 else f"c{i}.wav\tplain" for i in range(count))
    assert len(read(tmp_path, "audio\ttext", *lines, name="c.tsv")) == count + 1


def test_a_line_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.corpora.files.MAX_LINE_BYTES", 1 << 20)
    with pytest.raises(UserError, match=r"clips\.csv: line 2: found more than 1 MiB, expected one row"):
        read(tmp_path, "audio,text", "x" * (1 << 21))
