import errno
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.stage import UserError
from pipeline.tables import parquet

SCHEMA = pa.schema([("id", pa.string()), ("count", pa.int32())])
TABLE = parquet.from_rows([{"id": "a", "count": 1}], SCHEMA)


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    parquet.write(TABLE, tmp_path / "new" / "a.parquet")
    parquet.write(TABLE, tmp_path / "b.parquet")
    assert (tmp_path / "new" / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_table_comes_back_in_the_declared_types_without_other_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"other": [0.5], "count": [1], "id": ["a"]}), tmp_path / "a.parquet")
    assert parquet.read(tmp_path / "a.parquet", SCHEMA).equals(TABLE)


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("earlier")

    def fail() -> None:
        with parquet.whole(path) as partial:
            partial.write_text("half")
            raise OSError(errno.ENOSPC, "Error writing bytes to file")

    with pytest.raises(OSError, match="No space left") as raised:
        fail()
    assert raised.value.filename == str(path)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_such_table_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("hello")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "narrow.parquet")
    pq.write_table(pa.table({"id": ["a"], "count": ["many"]}), tmp_path / "typed.parquet")
    parquet.write(TABLE.slice(0, 0), tmp_path / "empty.parquet")
    messages = {
        "missing.parquet": "no such file; the stage that writes it has not run",
        "text.parquet": "not a Parquet file, or one cut short",
        "narrow.parquet": "lacks the column count; found id",
        "typed.parquet": "not readable as the table expected here",
        "empty.parquet": "no rows; expected at least one",
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=f"{name}: {message}"):
            parquet.read(tmp_path / name, SCHEMA)
    assert parquet.read(tmp_path / "empty.parquet", SCHEMA, allow_empty=True).num_rows == 0
