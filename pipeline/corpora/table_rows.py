"""The rows of a table in CSV, TSV, JSONL or Parquet, each with its place for error messages.

Rows are streamed. A broken table raises an error that names the broken line.
"""

import itertools
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpora import csv_rows
from pipeline.corpora.files import lines
from pipeline.stage import UserError


@dataclass(frozen=True, slots=True)
class Record:
    """A row of a table."""

    cells: Mapping[str, Any]
    """Column: value."""
    table: str
    """File or data set."""
    place: str
    """Place in the table, such as line 3."""

    def text(self, column: str) -> str | None:
        """Return a cell as text, None if it is empty; raises UserError if it is neither text nor a number."""
        value = self.cells.get(column)
        if isinstance(value, float):
            # if a value of a column is missing, pandas writes NaN for it and floats for whole numbers
            value = None if math.isnan(value) else int(value) if value.is_integer() else value
        if isinstance(value, bytes | dict | list):
            raise self.mistake(column, "text or a number", type(value).__name__)
        return None if value is None else str(value).strip() or None

    def number(self, column: str) -> float | None:
        """Return a cell as a number, None if it is empty; raises UserError if it is not a finite number."""
        text = self.text(column)
        try:
            number = None if text is None else float(text)
        except ValueError:
            number = math.nan
        if number is not None and not math.isfinite(number):
            raise self.mistake(column, "a number", text)
        return number

    def count(self, column: str) -> int | None:
        """Return a cell as a whole number from 0, None if it is empty; raises UserError if it is not one."""
        number = self.number(column)
        if number is not None and not (number.is_integer() and 0 <= number < 2**31):
            raise self.mistake(column, "a whole number", self.text(column))
        return None if number is None else int(number)

    def mistake(self, column: str, expected: str, found: object) -> UserError:
        """Return the error that says what is wrong with a cell."""
        return UserError(f"{self.table}: {self.place}: {column}: expected {expected}, found {found}")


def columns(path: Path, encoding: str = "utf-8") -> list[str]:
    """Return the names of a table's columns; for JSONL, the keys of all rows. Raises UserError if one is doubled."""
    kind = _kind(path)
    if kind == "csv":
        found = next((cells for _, cells in csv_rows.rows(path, encoding)), [])
    elif kind == "jsonl":
        found = list(dict.fromkeys(key for record in _jsonl(path, encoding) for key in record.cells))
    else:
        found = list(_parquet(path).schema_arrow.names)
    if doubled := [name for name, count in Counter(found).items() if count > 1 and name.strip()]:
        raise UserError(f"{path}: line 1: expected each column once, found {doubled[0]} twice")
    return found


def find_column(name: str, found: Sequence[str], table: str) -> str | None:
    """Return the column among `found` that is called `name`, if need be with capitals, or with spaces for _.

    Raises UserError if several columns have that name.
    """
    same = [column for column in found if column == name]
    same = same or [column for column in found if _plain(column) == _plain(name)]
    if len(same) > 1:
        raise UserError(f"{table}: expected one column with the name {name}, found {' and '.join(same)}")
    return same[0] if same else None


def read(path: Path, encoding: str = "utf-8") -> Iterator[Record]:
    """Yield the rows of a table; raises UserError at the first broken row."""
    kind = _kind(path)
    if kind == "csv":
        yield from _csv_records(path, encoding)
    elif kind == "jsonl":
        yield from _jsonl(path, encoding, _json_object)
    else:
        yield from _parquet_records(path)


def read_csv(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a published CSV file, each with its line, by the names that are asked for.

    A file that does not exist has no rows. Raises UserError if one of `columns` is missing; one of `optional` may be.
    """
    if not path.is_file():
        return
    rows = csv_rows.rows(path)
    _, header = next(rows, (1, []))
    names = {}
    for name in (*columns, *optional):
        column = find_column(name, header, f"{path}: line 1")
        if column is not None:
            names[name] = header.index(column)
        elif name in columns:
            raise UserError(f"{path}: line 1: lacks the column {name}; found {', '.join(header) or 'nothing'}")
    for line, cells in rows:
        yield line, {name: cells[i] for name, i in names.items()}


def _plain(name: str) -> str:
    """Return the name of a column without case, and with _ for spaces and hyphens."""
    return re.sub(r"[\s_-]+", "_", unicodedata.normalize("NFC", name).strip().casefold())


def _kind(path: Path) -> str:
    kinds = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
    if path.suffix.lower() not in kinds:
        raise UserError(f"{path}: expected a table in {', '.join(kinds)}")
    if not path.is_file():
        raise UserError(f"{path}: no such table")
    return kinds[path.suffix.lower()]


def _csv_records(path: Path, encoding: str) -> Iterator[Record]:
    rows = csv_rows.rows(path, encoding)
    _, header = next(rows, (1, []))
    nameless = [i for i, name in enumerate(header) if not name.strip()]
    for line, cells in rows:
        # pandas writes its index without a name; spreadsheets write empty columns at the right
        if len(nameless) > 1 and (lost := next((cells[i] for i in nameless if cells[i].strip()), None)):
            expected = f"no value in the {len(nameless)} columns without a name, or a name for each"
            raise UserError(f"{path}: line {line}: expected {expected}, found {lost}")
        yield Record(dict(zip(header, cells, strict=True)), str(path), f"line {line}")


def _jsonl(path: Path, encoding: str, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Iterator[Record]:
    for number, line in enumerate(lines(path, encoding), start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line, object_pairs_hook=hook)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {number}: expected JSON, found {error.msg} at {error.colno}") from None
        except RecursionError:
            raise UserError(f"{path}: line {number}: expected JSON, found too many brackets within another") from None
        except ValueError as error:  # a key that is there twice, or a number with thousands of digits
            raise UserError(f"{path}: line {number}: expected JSON, found {str(error).partition(';')[0]}") from None
        if not isinstance(cells, dict):
            raise UserError(f"{path}: line {number}: expected a JSON object, found {type(cells).__name__}")
        yield Record(cells, str(path), f"line {number}")


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    cells = dict(pairs)
    if len(cells) < len(pairs):
        doubled = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {doubled} twice")
    return cells


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError):
        raise UserError(f"{path}: not a Parquet file, or one cut short") from None


def _parquet_records(path: Path) -> Iterator[Record]:
    number = 0
    with _parquet(path) as file:
        rows = itertools.chain.from_iterable(batch.to_pylist() for batch in file.iter_batches())
        while cells := _next_row(path, rows, number):
            number += 1
            yield Record(cells, str(path), f"row {number}")


def _next_row(path: Path, rows: Iterator[dict[str, Any]], number: int) -> dict[str, Any] | None:
    try:
        return next(rows, None)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        found = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: after row {number}: not readable, the file is damaged ({found})") from None
