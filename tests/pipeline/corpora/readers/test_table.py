import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpora import mapping
from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.readers.table import open_table
from pipeline.stage import UserError
from pipeline.tables.emotions import EMOTIONS
from pipeline.tables.quarantine import Fault

ABOUT = "language: de\nlicence: CC-BY-4.0\n"


def corpus(root: Path, mapping: str = "", table: str | None = "clips.csv") -> Corpus:
    (root / "mapping.yaml").write_text(ABOUT + mapping)
    return open_table(root, root / table if table else None, root / "mapping.yaml")


def clips(root: Path, mapping: str = "", table: str = "clips.csv") -> list[Clip]:
    return list(corpus(root, mapping, table).read(root))


def write_csv(root: Path, text: str) -> None:
    (root / "clips.csv").write_text(text)


def test_columns_named_as_fields_need_no_line(tmp_path: Path) -> None:
    write_csv(
        tmp_path,
        "id,audio,text,speaker,start_s,duration_s,language,gender,session,dialogue,turn,emotion,intensity,split,note\n"
        "u1,a/b.wav,Ja.,s1,1.5,2,fr,F,x,d,3,happy,strong,validation,n\n",
    )
    assert clips(tmp_path) == [
        Clip(
            utterance="u1",
            audio="a/b.wav",
            text="Ja.",
            speaker="s1",
            start_s=1.5,
            duration_s=2.0,
            language="fr",
            gender="female",
            session="x",
            dialogue="d",
            turn=3,
            emotion="happy",
            intensity="strong",
            split="dev",
        )
    ]


def test_a_mapping_names_columns_constants_labels_votes_and_attributes(tmp_path: Path) -> None:
    write_csv(tmp_path, "file,who,label,n_wut,n_freude,age,text\na b.wav,7,Wut,3,,41,unused\n")
    mapping = (
        "columns: {audio: file, speaker: who, emotion: label, text: }\nconstants: {gender: male, session: studio}\n"
        "labels: {Wut: angry, Freude: happy, unklar: }\nvotes: {Wut: n_wut, Freude: n_freude}\nattributes: [age]\n"
    )
    assert clips(tmp_path, mapping) == [
        Clip(
            utterance="a b",
            audio="a b.wav",
            text=None,
            speaker="7",
            gender="male",
            session="studio",
            emotion="Wut",
            votes={"Wut": 3.0},
            attributes={"age": "41"},
        )
    ]
    described = corpus(tmp_path, mapping)
    assert described.labels == {name: name for name in EMOTIONS} | {"Wut": "angry", "Freude": "happy", "unklar": None}
    assert (described.language, described.licence) == ("de", "CC-BY-4.0")


def test_a_table_without_emotions_has_no_labels(tmp_path: Path) -> None:
    write_csv(tmp_path, "audio,speaker\na.wav,1\n")
    assert corpus(tmp_path).labels == {}


def test_a_constant_holds_where_a_column_is_empty(tmp_path: Path) -> None:
    write_csv(tmp_path, "audio,speaker,sex\na.wav,1,f\nb.wav,2,\n")
    mapping = "columns: {gender: sex}\nconstants: {gender: male}\n"
    assert [clip.gender for clip in clips(tmp_path, mapping)] == ["female", "male"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_may_have_any_usual_delimiter_and_line_end(tmp_path: Path, delimiter: str, end: str) -> None:
    rows = [["audio", "speaker", "text"], ["a.wav", "1", '"He said ""no"", twice"'], ["b.wav", "2", "Yes"]]
    content = end.join(delimiter.join(row) for row in rows) + end
    (tmp_path / "clips.tsv").write_bytes(b"\xef\xbb\xbf" + content.encode())
    read = clips(tmp_path, table="clips.tsv")
    assert [(clip.audio, clip.text) for clip in read] == [("a.wav", 'He said "no", twice'), ("b.wav", "Yes")]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_other_encodings_are_named_in_the_mapping(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "clips.csv").write_bytes("audio,speaker,text\na.wav,1,Gr\u00fc\u00dfe\n".encode(encoding))
    with pytest.raises(UserError, match=r"clips\.csv: line 2: expected UTF-8 text, found byte 0xfc"):
        clips(tmp_path)
    assert clips(tmp_path, f"encoding: {encoding}\n")[0].text == "Gr\u00fc\u00dfe"


def test_jsonl_and_parquet_give_the_same_clips(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"audio": "a.wav", "speaker": 3, "text": "Ja", "emotion": 1, "turn": 0, "start_s": 0.5, "id": "x"},
        {"audio": "b.wav", "speaker": 4, "text": None, "emotion": 0, "turn": None, "start_s": math.nan, "id": "y"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "clips.parquet")
    (tmp_path / "clips.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows).replace("NaN", "null") + "\n")
    mapping = "labels: {1: happy, 0: neutral}\n"
    first, second = clips(tmp_path, mapping, "clips.parquet")
    assert (first.speaker, first.text, first.emotion, first.turn, first.start_s) == ("3", "Ja", "1", 0, 0.5)
    assert (second.text, second.turn, second.start_s) == ("", None, 0.0)
    assert clips(tmp_path, mapping, "clips.jsonl") == [first, second]


def test_whole_numbers_that_pandas_made_floats_are_whole_again(tmp_path: Path) -> None:
    table = pa.table({"audio": ["a.wav", "b.wav"], "speaker": pa.array([12.0, math.nan], pa.float64())})
    pq.write_table(table, tmp_path / "clips.parquet")
    assert [clip.speaker for clip in clips(tmp_path, table="clips.parquet")] == ["12", "unknown"]


def test_columns_of_jsonl_are_those_of_any_row(tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").write_text('{"audio": "a.wav", "speaker": "1"}\n{"audio": "b.wav", "age": 3}\n')
    read = clips(tmp_path, "attributes: [age]\n", "clips.jsonl")
    assert [clip.attributes for clip in read] == [None, {"age": "3"}]


def test_a_row_without_audio_is_a_fault(tmp_path: Path) -> None:
    write_csv(tmp_path, "audio,speaker,text\n,1,Ja\nb.wav,1,\n")
    first, second = clips(tmp_path)
    assert (first.utterance, first.fault) == ("line-2", Fault("no-file", "the table names no file"))
    assert (second.utterance, second.fault, second.text) == ("b", None, "")


def test_two_rows_with_one_id_are_two_clips(tmp_path: Path) -> None:
    write_csv(tmp_path, "id,audio,speaker\nx,a.wav,1\nx,b.wav,1\n")
    assert [clip.utterance for clip in clips(tmp_path)] == ["x", "x"]


def test_rows_without_a_speaker_share_one(tmp_path: Path) -> None:
    write_csv(tmp_path, "audio,speaker\na.wav,\nb.wav,\nc.wav,3\n")
    assert [clip.speaker for clip in clips(tmp_path)] == ["unknown", "unknown", "3"]


def test_the_mapping_names_the_table_where_the_command_line_does_not(tmp_path: Path) -> None:
    write_csv(tmp_path, "audio,speaker\na.wav,1\n")
    assert len(list(corpus(tmp_path, "table: clips.csv\n", table=None).read(tmp_path))) == 1
    with pytest.raises(UserError, match=r"mapping\.yaml: table: missing; expected the table's name here, or --table"):
        corpus(tmp_path, table=None)


def test_the_example_in_the_documentation_is_a_valid_mapping(tmp_path: Path) -> None:
    lines = str(mapping.__doc__).splitlines()
    example = "\n".join(line[4:].partition("    ")[0] for line in lines if line.startswith("    "))
    (tmp_path / "mapping.yaml").write_text(example)
    read = mapping.read_mapping(tmp_path / "mapping.yaml")
    assert read.model_fields_set == set(mapping.TableMapping.model_fields) - {"votes_face", "votes_both"}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("columns: {adio: file}", r"columns\.adio: expected 'id', 'audio', .+, found 'adio'"),
        ("columns: [file]", r"columns: expected a valid dictionary, found \['file'\]"),
        ("labels: {Wut: anger}", r"labels\.Wut: expected neutral, happy, .+ or nothing, found 'anger'"),
        ("votes: {Wut: n_wut}", r"expected a line under labels for each label under votes, found none for Wut"),
        ("speeker: who", r"speeker: unknown key, expected one of language, licence, columns"),
        ("encoding: utf-16", r"encoding: expected 'utf-8', 'latin-1' or 'cp1252', found 'utf-16'"),
        ("a: 1\nlabels: 2", r"labels: expected a valid dictionary, found '2'; a: unknown key"),
        ("columns: {audio", r"mapping\.yaml: not valid YAML"),
    ],
)
def test_each_mistake_in_the_mapping_is_told(tmp_path: Path, mapping: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        corpus(tmp_path, mapping)


def test_what_a_mapping_needs_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    with pytest.raises(UserError, match=r"mapping\.yaml: no such mapping; expected YAML that names the columns"):
        open_table(tmp_path, None, path)
    path.write_text("licence: \n")
    with pytest.raises(UserError, match=r"language: missing; licence: expected String should have at least 1 char"):
        open_table(tmp_path, None, path)
    path.write_text("")
    with pytest.raises(UserError, match=r"mapping\.yaml: found nothing; expected the keys language and licence"):
        open_table(tmp_path, None, path)


def test_norwegian_is_no_boolean(tmp_path: Path) -> None:
    write_csv(tmp_path, "audio,speaker\na.wav,1\n")
    (tmp_path / "mapping.yaml").write_text("language: no\nlicence: CC0-1.0\n")
    assert open_table(tmp_path, tmp_path / "clips.csv", tmp_path / "mapping.yaml").language == "no"


@pytest.mark.parametrize(
    ("table", "mapping", "message"),
    [
        (
            "file,speaker\n",
            "columns: {audio: path}",
            r"clips\.csv: line 1: lacks the column path that .+mapping\.yaml names; found the columns file, speaker",
        ),
        (
            "file,speaker\n",
            "",
            r"csv: line 1: lacks the column audio; found the columns file, speaker, expected its actual name .+yaml",
        ),
        ("audio\n", "", r"lacks the column speaker; found the columns audio"),
        ("audio,speaker,start_s\n", "", r"lacks the column id; found the columns audio, speaker, start_s"),
        ("audio,speaker,n\n", "votes: {sad: n}", r"lacks the column emotion; found the columns audio, speaker, n"),
        ("audio,speaker\n", "attributes: [age]", r"lacks the column age that"),
        ("", "", r"lacks the column audio; found the columns none"),
        ("audio,speaker\na.wav\n", "", r"clips\.csv: line 2: expected 2 cells, found 1"),
        ("audio,speaker\na.wav,1,2\n", "", r"clips\.csv: line 2: expected 2 cells, found 3"),
        ('audio,speaker\na.wav,1\n"b.wav,2\n', "", r"clips\.csv: line 3: expected CSV, found unexpected end of data"),
        ("audio,speaker,turn\na.wav,1,first\n", "", r"clips\.csv: line 2: turn: expected a number, found first"),
        ("audio,speaker,turn\na.wav,1,1.5\n", "", r"line 2: turn: expected a whole number, found 1\.5"),
        ("audio,speaker,turn\na.wav,1,99999999999\n", "", r"line 2: turn: expected a whole number, found 9+"),
        ("id,audio,speaker,start_s\na,a.wav,1,inf\n", "", r"line 2: start_s: expected a number, found inf"),
        ("audio,speaker,duration_s\na.wav,1,nan\n", "", r"line 2: duration_s: expected a number, found nan"),
        (
            "audio,speaker,language\na.wav,1,english\n",
            "",
            r"line 2: language: expected an ISO 639 code .+ found english",
        ),
        (
            "audio,speaker,audio\na.wav,1,b.wav\n",
            "",
            r"clips\.csv: line 1: expected each column once, found audio twice",
        ),
        ("audio,speaker,emotion,n\na.wav,1,sad,x\n", "votes: {sad: n}", r"line 2: n: expected a number, found x"),
        ("audio,speaker,split\na.wav,1,holdout\n", "", r"line 2: split: expected one of train, dev, .+, found holdout"),
    ],
)
def test_a_table_that_does_not_fit_stops_with_its_line(tmp_path: Path, table: str, mapping: str, message: str) -> None:
    write_csv(tmp_path, table)
    with pytest.raises(UserError, match=message):
        clips(tmp_path, mapping)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"audio": "b.wav", "spea', r"clips\.jsonl: line 2: expected JSON, found .+ at 20"),
        ('["b.wav"]', r"clips\.jsonl: line 2: expected a JSON object, found list"),
    ],
)
def test_a_broken_line_of_jsonl_is_told(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "clips.jsonl").write_text('{"audio": "a.wav", "speaker": "1"}\n' + line)
    with pytest.raises(UserError, match=message):
        clips(tmp_path, table="clips.jsonl")


def test_a_cell_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").write_text('{"audio": {"bytes": "", "path": ""}, "speaker": "1"}\n')
    with pytest.raises(UserError, match=r"line 1: audio: expected text or a number, found dict"):
        clips(tmp_path, table="clips.jsonl")


def test_a_table_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"clips\.csv: no such table"):
        clips(tmp_path)
    (tmp_path / "clips.parquet").write_text("PAR1")
    with pytest.raises(UserError, match=r"clips\.parquet: not a Parquet file, or one cut short"):
        clips(tmp_path, table="clips.parquet")
    with pytest.raises(UserError, match=r"clips\.xlsx: expected a table in \.csv, \.tsv, \.jsonl, \.parquet"):
        clips(tmp_path, table="clips.xlsx")
