"""A table's columns, genders, splits, languages and labels are used, or the message says what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpora import registry
from pipeline.corpora.corpus import Clip
from pipeline.stage import UserError

MAPPING = "language: en\nlicence: CC0-1.0\ntable: clips.csv\n"


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Clip]]:
    def run(table: str, mapping: str = "") -> list[Clip]:
        (tmp_path / "clips.csv").write_text(table)
        (tmp_path / "mapping.yaml").write_text(MAPPING + mapping)
        return list(registry.open_corpus("table", tmp_path).read(tmp_path))

    return run


def test_header_cells_may_have_spaces_and_capitals(read: Callable[..., list[Clip]]) -> None:
    (clip,) = read("Audio, SPEAKER ,Text,Gender,Emotion,Start s,ID\na.wav,x,Ja,f,sad,1.5,u\n")
    assert clip == Clip(
        utterance="u", audio="a.wav", speaker="x", text="Ja", gender="female", emotion="sad", start_s=1.5
    )


def test_names_in_the_mapping_may_differ_in_case_as_well(read: Callable[..., list[Clip]]) -> None:
    mapping = "columns: {audio: file, speaker: who}\nattributes: [age]\nlabels: {Wut: angry}\nvotes: {Wut: n wut}\n"
    (clip,) = read("File,Who,AGE,N_Wut,emotion\na.wav,x,41,3,Wut\n", mapping)
    assert (clip.audio, clip.speaker, clip.attributes, clip.votes) == ("a.wav", "x", {"age": "41"}, {"Wut": 3.0})


def test_two_columns_with_one_name_are_told_and_an_exact_name_is_preferred(read: Callable[..., list[Clip]]) -> None:
    with pytest.raises(
        UserError, match=r"clips\.csv: line 1: expected one column with the name text, found Text and TEXT"
    ):
        read("audio,speaker,Text,TEXT\na.wav,x,1,2\n")
    assert read("audio,speaker,Text,text\na.wav,x,1,2\n")[0].text == "2"


@pytest.mark.parametrize(
    ("published", "gender"), [("female_feminine", "female"), ("weiblich", "female"), ("Male", "male"), ("other", None)]
)
def test_genders_are_known_by_their_names(read: Callable[..., list[Clip]], published: str, gender: str | None) -> None:
    assert read(f"audio,speaker,gender\na.wav,x,{published}\n")[0].gender == gender


def test_other_genders_are_named_in_the_mapping(read: Callable[..., list[Clip]]) -> None:
    table = "audio,speaker,gender\na.wav,x,1\nb.wav,y,9\n"
    with pytest.raises(UserError, match=r"line 2: gender: expected female, .+ under genders in the mapping, found 1"):
        read(table)
    assert [clip.gender for clip in read(table, "genders: {1: female, 9: }\n")] == ["female", None]


def test_other_splits_are_named_in_the_mapping(read: Callable[..., list[Clip]]) -> None:
    table = "audio,speaker,split\na.wav,x,train.100\nb.wav,y,evaluation\nc.wav,z,rest\n"
    with pytest.raises(
        UserError, match=r"line 3: split: expected one of train, .+ under splits in the mapping, found eval"
    ):
        read(table)
    clips = read(table, "splits: {evaluation: test, rest: }\n")
    assert [clip.split for clip in clips] == ["train", "test", None]


def test_a_language_may_have_a_region(read: Callable[..., list[Clip]]) -> None:
    table = "audio,speaker,language\na.wav,x,en-US\nb.wav,y,cmn\nc.wav,z,german\n"
    with pytest.raises(UserError, match=r"line 4: language: expected an ISO 639 code .+, found german \(clip c\.wav\)"):
        read(table)


def test_the_language_of_a_mapping_is_a_code(tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text("language: German\nlicence: CC0-1.0\n")
    with pytest.raises(UserError, match="language: expected an ISO 639 code such as en, found 'German'"):
        registry.open_corpus("table", tmp_path)


@pytest.mark.parametrize(
    ("mapping", "found"),
    [
        ("labels: {joy: happy, joy: sad}\n", "line 4: joy: found this key 2 times, expected it once"),
        ("labels: {joy: happy}\nlabels: {fun: happy}\n", "line 5: labels: found this key 2 times, expected it once"),
        ("columns:\n  audio: a\n  audio: b\n", "line 6: audio: found this key 2 times"),
    ],
)
def test_a_key_that_is_given_twice_is_told_with_its_line(
    read: Callable[..., list[Clip]], mapping: str, found: str
) -> None:
    with pytest.raises(UserError, match=rf"mapping\.yaml: {found}"):
        read("audio,speaker\na.wav,x\n", mapping)


@pytest.mark.parametrize(
    ("content", "found"),
    [("", "found nothing"), ("- a\n", "found a list"), ("hello\n", "found a word"), ("[" * 3000, "not valid YAML")],
)
def test_a_mapping_without_keys_says_which_ones_are_needed(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / "mapping.yaml").write_text(content)
    with pytest.raises(UserError, match=rf"mapping\.yaml: {found}"):
        registry.open_corpus("table", tmp_path)


def test_a_table_without_rows_says_what_is_missing(read: Callable[..., list[Clip]]) -> None:
    with pytest.raises(UserError, match=r"clips\.csv: found no rows; expected one for each clip"):
        read("audio,speaker,text\n")


def test_columns_without_a_name_may_be_empty(read: Callable[..., list[Clip]]) -> None:
    assert len(read("audio,speaker,,\na.wav,x,,\n")) == 1
    assert len(read(",audio,speaker\n0,a.wav,x\n")) == 1
    with pytest.raises(UserError, match=r"line 3: expected no value in the 2 columns without a name, .+ found oh"):
        read("audio,speaker,,\na.wav,x,,\nb.wav,x,,oh\n")


def test_a_mistake_names_the_row_by_its_id(read: Callable[..., list[Clip]]) -> None:
    with pytest.raises(UserError, match=r"line 2: turn: expected a number, found x \(clip u7\)"):
        read("id,audio,speaker,turn\nu7,a.wav,x,x\n")


def test_languages_compare_in_the_manifest(
    tmp_path: Path, speak: Callable[..., Path], take_in: Callable[..., Any]
) -> None:
    for name in "abc":
        speak(tmp_path / "c" / f"{name}.wav")
    (tmp_path / "c" / "c.csv").write_text("audio,speaker,language\na.wav,x,eng\nb.wav,x,zh-TW\nc.wav,x,\n")
    (tmp_path / "c" / "mapping.yaml").write_text("language: deu\nlicence: CC0-1.0\ntable: c.csv\n")
    assert take_in("table", tmp_path / "c").column("language") == ["en", "zh", "de"]
