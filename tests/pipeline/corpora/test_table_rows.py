"""Tables that are broken stop with one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.corpora import table_rows
from pipeline.stage import UserError


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"audio":' + "[" * 200_000 + "]" * 200_000 + "}", "expected JSON, found too many brackets within another"),
        ('{"audio": "a.wav", "speaker": ' + "1" * 5000 + "}", "expected JSON, found Exceeds the limit"),
        ('{"emotion": "joy", "emotion": "sad"}', "expected JSON, found the key emotion twice"),
        ('{"audio": {"a": 1, "a": 2}}', "expected JSON, found the key a twice"),
    ],
)
def test_hostile_json_stops_with_its_line(tmp_path: Path, line: str, found: str) -> None:
    (tmp_path / "c.jsonl").write_text(f"{json.dumps({'audio': 'a.wav'})}\n{line}\n")
    with pytest.raises(UserError, match=rf"c\.jsonl: line 2: {found}"):
        list(table_rows.read(tmp_path / "c.jsonl"))


def damage(path: Path, column: str) -> None:
    """Overwrite the first page of a column; the end of the file stays whole."""
    content = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(0)
    found = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == column)
    start = min(offset for offset in (found.data_page_offset, found.dictionary_page_offset) if offset)
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)


def test_a_damaged_page_of_parquet_stops_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    pd.DataFrame({"audio": ["a.wav"] * 3, "text": ["hello"] * 3}).to_parquet(path)
    assert len(list(table_rows.read(path))) == 3
    damage(path, "text")
    with pytest.raises(UserError, match=r"c\.parquet: after row 0: not readable, the file is damaged"):
        list(table_rows.read(path))


def test_a_column_may_be_there_only_once_in_any_table(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("audio,audio\na.wav,b.wav\n")
    with pytest.raises(UserError, match=r"c\.csv: line 1: expected each column once, found audio twice"):
        table_rows.columns(tmp_path / "c.csv")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_rows_read_are_kept_or_quarantined_in_every_format(
    tmp_path: Path, suffix: str, speak: Callable[..., Path], take_in: Callable[..., Any]
) -> None:
    texts = ["Yes.", 'He said "no', "Oh, well", "[LAUGHTER]", "", "Grüße"]
    rows = pd.DataFrame({"audio": [f"{i}.wav" for i in range(6)], "speaker": "s", "text": texts})
    for i in range(5):
        speak(tmp_path / "c" / f"{i}.wav")
    path = tmp_path / "c" / f"c.{suffix}"
    if suffix == "parquet":
        rows.to_parquet(path)
    elif suffix == "jsonl":
        rows.to_json(path, orient="records", lines=True)
    else:
        rows.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    count = len(rows) if suffix == "parquet" else len(path.read_text().splitlines()) - (suffix != "jsonl")
    taken = take_in("table", tmp_path / "c", f"table: {path.name}\n")
    assert len(taken.kept) + len(taken.refused) == count == 6
    assert taken.column("text") == ["yes", "he said no", "oh well"]
    assert {key: reason for key, (reason, _) in taken.reasons.items()} == {
        "x/3": "no-transcript", "x/4": "no-transcript", "x/5": "no-file",
    }  # fmt: skip
