"""Parquet tables with a declared schema. Reading checks the schema. A table is written whole or not at all."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stage import UserError


def read(path: Path, schema: pa.Schema, *, allow_empty: bool = False) -> pa.Table:
    """Read `path` and cast it to `schema`; extra columns are left out.

    Raises UserError if the file is missing, is not Parquet, lacks a column or has no row.
    """
    found = columns(path)
    missing = [name for name in schema.names if name not in found]
    if missing:
        raise UserError(f"{path}: lacks the column {missing[0]}; found {', '.join(found)}")
    try:
        table = pq.read_table(path, columns=schema.names).select(schema.names).cast(schema)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as the table expected here ({error})") from None
    if table.num_rows == 0 and not allow_empty:
        raise UserError(f"{path}: no rows; expected at least one")
    return table


def columns(path: Path) -> list[str]:
    """Read the names of the columns; raises UserError if the file is missing or is not Parquet."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; the stage that writes it has not run")
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        raise UserError(f"{path}: not a Parquet file, or one cut short") from None


def read_columns(path: Path, names: list[str]) -> pa.Table:
    """Read columns as they are; raises UserError if the file is damaged."""
    with readable(path):
        return pq.read_table(path, columns=names)


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
