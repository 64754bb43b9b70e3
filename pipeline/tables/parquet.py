"""Parquet tables with a declared schema. Reading checks the schema. A table is written whole or not at all."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.stage import UserError

T = TypeVar("T")

ROWS_AT_ONCE = 1_000
_BUFFER_BYTES = 1 << 20  # of each column; without it, a whole row group is in memory


def read(path: Path, schema: pa.Schema, *, allow_empty: bool = False) -> pa.Table:
    """Read `path` and cast it to `schema`; extra columns are left out.

    Raises UserError if the file is missing, is not Parquet, lacks a column or has no row.
    """
    _check_columns(path, schema)
    try:
        table = pq.read_table(path, columns=schema.names).select(schema.names).cast(schema)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as the table expected here ({error})") from None
    if table.num_rows == 0 and not allow_empty:
        raise UserError(f"{path}: no rows; expected at least one")
    return table


def rows_by_id(
    path: Path, schema: pa.Schema, *, optional: pa.Schema | None = None, allow_empty: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table in the order of their ids, and of `optional` the columns that the table has.

    Only a chunk of rows is in memory if the table has this order, as the tables of all stages do. Raises UserError as
    `read` does, or if an id occurs twice.
    """
    found = _check_columns(path, schema)
    schema = pa.schema([*schema, *(field for field in optional or [] if field.name in found)])
    ids = read_columns(path, ["id"])["id"].combine_chunks()
    if pc.all(pc.less(ids[:-1], ids[1:]), min_count=0).as_py():
        chunks: Iterable[pa.RecordBatch] = _chunks(path, schema)
        if not len(ids) and not allow_empty:
            raise UserError(f"{path}: no rows; expected at least one")
    else:
        table = read(path, schema).sort_by("id")
        ids = table["id"].combine_chunks()
        for twice in ids[1:].filter(pc.equal(ids[:-1], ids[1:]))[:1].to_pylist():
            raise UserError(f"{path}: {twice}: found this id twice, expected it once")
        chunks = table.to_batches(max_chunksize=ROWS_AT_ONCE)
    for chunk in chunks:
        yield from pa.Table.from_batches([chunk]).select(schema.names).cast(schema).to_pylist()


def joined(
    rows: Iterable[Mapping[str, Any]], *others: Iterator[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], list[Mapping[str, Any] | None]]]:
    """Yield each row with the row of the same id in each of the others, or None; all are in the order of their ids."""
    heads = [next(other, None) for other in others]
    for row in rows:
        for i, other in enumerate(others):
            while (head := heads[i]) is not None and head["id"] < row["id"]:
                heads[i] = next(other, None)
        yield row, [head if head is not None and head["id"] == row["id"] else None for head in heads]


def chunked(rows: Iterable[T]) -> Iterator[list[T]]:
    """Yield the rows in lists of ROWS_AT_ONCE."""
    remaining = iter(rows)
    while chunk := list(islice(remaining, ROWS_AT_ONCE)):
        yield chunk


def columns(path: Path) -> list[str]:
    """Read the names of the columns; raises UserError if the file is missing or is not Parquet."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; the stage that writes it has not run")
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        raise UserError(f"{path}: not a Parquet file, or one cut short") from None


def num_rows(path: Path) -> int:
    """Return the number of rows; raises UserError if the file is missing or is not Parquet."""
    columns(path)
    return int(pq.read_metadata(path).num_rows)


def is_null(path: Path, column: str) -> bool:
    """Whether a column holds nothing but nulls; raises UserError if the file is damaged."""
    found = read_columns(path, [column])[column]
    return bool(found.null_count == len(found))


def read_columns(path: Path, names: list[str]) -> pa.Table:
    """Read columns as they are; raises UserError if the file is damaged."""
    with readable(path):
        return pq.read_table(path, columns=names)


def _check_columns(path: Path, schema: pa.Schema) -> list[str]:
    """Return the names of the columns; raises UserError if one of `schema` is missing."""
    found = columns(path)
    missing = [name for name in schema.names if name not in found]
    if missing:
        raise UserError(f"{path}: lacks the column {missing[0]}; found {', '.join(found)}")
    return found


def _chunks(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with readable(path), pq.ParquetFile(path, buffer_size=_BUFFER_BYTES) as file:
        yield from file.iter_batches(ROWS_AT_ONCE, columns=schema.names)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise UserError if pyarrow cannot read `path`: a damaged page is found only when it is read."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:  # such as no permission, which run_app reports
            raise
        raise UserError(f"{path}: not readable, the file is damaged ({str(error).strip()})") from None


def from_rows(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Make a table from rows, each with exactly the columns of `schema`."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def write(table: pa.Table, path: Path) -> None:
    """Write `table` so that `path` is either complete or untouched; equal tables give equal bytes."""
    with whole(path) as partial:
        pq.write_table(table, partial, compression="zstd")


class Stream:
    """A table that is written in chunks of rows; `commit` moves it to its path."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.partial = path, path.with_name(f".{path.name}.partial")
        self.schema = schema
        with _named(path):
            try:
                self.writer = pq.ParquetWriter(self.partial, schema, compression="zstd")
            except OSError:
                self.partial.unlink(missing_ok=True)
                raise

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; a column that a row lacks is null."""
        table = pa.Table.from_pylist(list(rows), schema=self.schema)
        if table.num_rows:
            with _named(self.path):
                self.writer.write_table(table)

    def commit(self) -> None:
        """Finish the table, and replace the file at its path."""
        with _named(self.path):
            self.writer.close()
            os.replace(self.partial, self.path)


@contextmanager
def stream(path: Path, schema: pa.Schema) -> Iterator[Stream]:
    """Open a table that is written in chunks; without `commit` nothing of it remains."""
    table = Stream(path, schema)
    try:
        yield table
    finally:
        with suppress(OSError):  # the disk is full, which was reported before
            table.writer.close()
        table.partial.unlink(missing_ok=True)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside `path`; when it is written completely, it replaces `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with _named(path):
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name `path` in the error of a write: pyarrow names no file if the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
