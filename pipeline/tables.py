"""Parquet tables with a declared schema: read with a check, written whole or not at all."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stage import UserError


def read(path: Path, schema: pa.Schema, *, allow_empty: bool = False) -> pa.Table:
    """Read `path` and cast it to `schema`; extra columns are left out.

    Raises UserError when the file is missing, is not Parquet, lacks a column or has no row.
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
    """Read the names of the columns; raises UserError when the file is missing or is not Parquet."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; the stage that writes it has not run")
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        raise UserError(f"{path}: not a Parquet file, or one cut short") from None


def from_rows(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Make a table from rows, each with exactly the columns of `schema`."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def write(table: pa.Table, path: Path) -> None:
    """Write `table` so that `path` is either complete or untouched; equal tables give equal bytes."""
    with whole(path) as partial:
        pq.write_table(table, partial, compression="zstd")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary file to write beside `path`, which it replaces at the end and never in part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.errno is None:
            raise
        # pyarrow names no file where a disk is full
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
    finally:
        partial.unlink(missing_ok=True)
