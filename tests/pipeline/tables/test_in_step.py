"""Tables that are read in step, by their ids."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.stage import UserError
from pipeline.tables import parquet

SCHEMA = pa.schema([("id", pa.string()), ("n", pa.int32())])


def write(path: Path, ids: list[str]) -> Path:
    parquet.write(pa.table({"id": ids, "n": range(len(ids))}).cast(SCHEMA), path)
    return path


@pytest.mark.parametrize("ids", [[f"{i:05}" for i in range(2_500)], [f"{i:05}" for i in reversed(range(2_500))]])
def test_rows_come_in_the_order_of_their_ids_whatever_the_file_has(ids: list[str], tmp_path: Path) -> None:
    rows = list(parquet.rows_by_id(write(tmp_path / "a.parquet", ids), SCHEMA))
    assert [row["id"] for row in rows] == sorted(ids)
    assert all(ids[row["n"]] == row["id"] for row in rows)


@pytest.mark.parametrize("ids", [["a", "b", "b"], ["b", "a", "b"]])
def test_an_id_that_occurs_twice_is_named(ids: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.parquet: b: found this id twice, expected it once"):
        list(parquet.rows_by_id(write(tmp_path / "a.parquet", ids), SCHEMA))


def test_a_column_that_a_table_may_have_is_read_where_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", ["a"])
    more = pa.schema([("m", pa.int32())])
    assert list(parquet.rows_by_id(path, SCHEMA, optional=more)) == [{"id": "a", "n": 0}]
    ids = pa.schema([("id", pa.string())])
    assert list(parquet.rows_by_id(path, ids, optional=SCHEMA)) == [{"id": "a", "n": 0}]


def test_a_table_without_rows_is_told_where_it_needs_some(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [])
    assert list(parquet.rows_by_id(path, SCHEMA, allow_empty=True)) == []
    with pytest.raises(UserError, match="no rows; expected at least one"):
        list(parquet.rows_by_id(path, SCHEMA))


def test_rows_are_joined_with_those_of_the_same_id() -> None:
    rows, one, other = ([{"id": key} for key in keys] for keys in ("bdf", "abcf", "de"))
    found = [
        (row["id"], [match and match["id"] for match in matches])
        for row, matches in parquet.joined(rows, iter(one), iter(other))
    ]
    assert found == [("b", ["b", None]), ("d", [None, "d"]), ("f", ["f", None])]
