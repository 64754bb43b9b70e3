from pathlib import Path

import pytest

from pipeline.corpora.corpus import Clip
from pipeline.corpora.readers.commonvoice import read
from pipeline.stage import UserError

COLUMNS = (
    "client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender",
    "accents", "variant", "locale", "segment",
)  # fmt: skip
RELEASE = "cv-corpus-13.0-2023-03-09"


def row(number: int, sentence: str = "Yes.", gender: str = "", locale: str = "en") -> str:
    cells = (f"speaker-{number}", f"common_voice_en_{number}.mp3", sentence, "2", "0", "", gender, "", "", locale, "")
    return "\t".join(cells)


def write(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["\t".join(COLUMNS), *rows]) + "\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / RELEASE / "en"
    write(folder / "train.tsv", row(1), row(2))
    write(folder / "dev.tsv", row(3))
    write(folder / "test.tsv", row(4))
    write(folder / "validated.tsv", *(row(number) for number in range(1, 7)))
    write(folder / "invalidated.tsv", row(9))
    return folder


def test_the_official_splits_are_read_and_nothing_else(folder: Path) -> None:
    assert [(clip.utterance, clip.split) for clip in read(folder)] == [
        ("common_voice_en_1", "train"),
        ("common_voice_en_2", "train"),
        ("common_voice_en_3", "dev"),
        ("common_voice_en_4", "test"),
    ]


def test_a_clip_has_what_its_row_tells(tmp_path: Path) -> None:
    cells = ("c7", "common_voice_de_7.mp3", "Ja.", "3", "1", "fourties", "female", "Bayern", "", "de", "")
    write(tmp_path / "test.tsv", "\t".join(cells))
    assert list(read(tmp_path)) == [
        Clip(
            utterance="common_voice_de_7",
            audio="clips/common_voice_de_7.mp3",
            text="Ja.",
            speaker="c7",
            language="de",
            gender="female",
            split="test",
            attributes={"age": "fourties", "accents": "Bayern", "up_votes": "3", "down_votes": "1"},
        )
    ]


def test_the_root_may_be_the_language_the_release_or_above(folder: Path) -> None:
    write(folder.parent / "sv-SE" / "train.tsv", row(8, locale="sv-SE"))
    assert next(read(folder)).audio == "clips/common_voice_en_1.mp3"
    of_release = list(read(folder.parent))
    assert [clip.language for clip in of_release] == ["en"] * 4 + ["sv"]
    assert of_release[-1].audio == "sv-SE/clips/common_voice_en_8.mp3"
    assert [clip.audio for clip in read(folder.parents[1])] == [f"{RELEASE}/{clip.audio}" for clip in of_release]


@pytest.mark.parametrize(
    ("published", "gender"),
    [
        ("female", "female"),
        ("female_feminine", "female"),
        ("male", "male"),
        ("male_masculine", "male"),
        ("other", None),
        ("non-binary", None),
        ("", None),
    ],
)
def test_gender_is_what_was_published(tmp_path: Path, published: str, gender: str | None) -> None:
    write(tmp_path / "test.tsv", row(1, gender=published))
    assert [clip.gender for clip in read(tmp_path)] == [gender]


def test_quotes_are_letters_of_a_sentence_and_other_separators_too(tmp_path: Path) -> None:
    sentences = ['"Unpaired, he said.', '"Paired."', 'A "word" in it', "a\u2028line\x0bin a line"]
    write(tmp_path / "train.tsv", *(row(number, sentence) for number, sentence in enumerate(sentences)))
    assert [clip.text for clip in read(tmp_path)] == sentences


def test_lines_may_end_as_on_windows(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", row(1), row(2))
    expected = list(read(tmp_path))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert list(read(tmp_path)) == expected


def test_a_sentence_that_is_missing_is_an_empty_text(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", row(1, sentence=""))
    assert [clip.text for clip in read(tmp_path)] == [""]


def test_early_releases_tell_neither_locale_nor_suffix(tmp_path: Path) -> None:
    path = tmp_path / "cy" / "train.tsv"
    path.parent.mkdir()
    path.write_text("client_id\tpath\tsentence\taccent\nc1\tabc123\tYdy.\tgogledd\n")
    (clip,) = read(tmp_path)
    assert (clip.audio, clip.language, clip.attributes) == ("cy/clips/abc123.mp3", "cy", {"accent": "gogledd"})


def test_a_table_without_a_column_is_told_with_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text("client_id\tsentence\nc1\tYes.\n")
    with pytest.raises(UserError, match=r"dev\.tsv: line 1: lacks the column path; found client_id, sentence"):
        list(read(tmp_path))


def test_a_table_cut_short_is_told_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", row(1), row(2))
    path.write_text(path.read_text().rpartition("\t0\t")[0])
    with pytest.raises(UserError, match=r"train\.tsv: line 3: expected 11 cells, found 4"):
        list(read(tmp_path))


def test_a_table_that_is_not_utf_8_is_told_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", row(1), row(2, "caf\u00e9"))
    path.write_bytes(path.read_text().encode("latin-1"))
    with pytest.raises(UserError, match=r"train\.tsv: line 3: expected UTF-8 text, found byte 0xe9"):
        list(read(tmp_path))


def test_other_folders_yield_nothing(tmp_path: Path) -> None:
    assert list(read(tmp_path)) == []
