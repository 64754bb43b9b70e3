"""The rows of a table in CSV, TSV, JSONL or Parquet, each with its place for error messages.

Rows are streamed. A broken table raises an error that names the broken line.
"""

import csv
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stage import UserError

_DELIMITERS = ",;\t|"


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
    """Return the names of a table's columns; for JSONL, the keys of all rows."""
    kind = _kind(path)
    if kind == "csv":
        return next((cells for _, cells in _csv(path, encoding)), [])
    if kind == "jsonl":
        return list(dict.fromkeys(key for record in _jsonl(path, encoding) for key in record.cells))
    return list(_parquet(path).schema_arrow.names)


def read(path: Path, encoding: str = "utf-8") -> Iterator[Record]:
    """Yield the rows of a table; raises UserError at the first broken row."""
    kind = _kind(path)
    if kind == "csv":
        yield from _csv_records(path, encoding)
    elif kind == "jsonl":
        yield from _jsonl(path, encoding)
    else:
        yield from _parquet_records(path)


def lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Yield the lines of a text file with their ends; raises UserError at a line that is not in `encoding`."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if (number, encoding) == (1, "utf-8") else encoding)
            except UnicodeDecodeError as error:
                found = f"byte {line[error.start]:#04x}"
                raise UserError(f"{path}: line {number}: expected {encoding.upper()} text, found {found}") from None


def _kind(path: Path) -> str:
    kinds = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
    if path.suffix.lower() not in kinds:
        raise UserError(f"{path}: expected a table in {', '.join(kinds)}")
    if not path.is_file():
        raise UserError(f"{path}: no such table")
    return kinds[path.suffix.lower()]


def _csv(path: Path, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the header and the rows that are not blank, each with the number of its last line."""
    text = lines(path, encoding)
    header = next(text, "")
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.reader(itertools.chain([header], text), delimiter=delimiter, strict=True)
    try:
        yield from ((reader.line_num, cells) for cells in reader if cells)
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: expected CSV, found {error}") from None


def _csv_records(path: Path, encoding: str) -> Iterator[Record]:
    rows = _csv(path, encoding)
    _, header = next(rows, (1, []))
    if doubled := [name for name, count in Counter(header).items() if count > 1]:
        raise UserError(f"{path}: line 1: expected each column once, found {doubled[0]} twice")
    for line, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{path}: line {line}: expected {len(header)} cells, found {len(cells)}")
        yield Record(dict(zip(header, cells, strict=True)), str(path), f"line {line}")


def _jsonl(path: Path, encoding: str) -> Iterator[Record]:
    for number, line in enumerate(lines(path, encoding), start=1):
        try:
            cells = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {number}: expected JSON, found {error.msg} at {error.colno}") from None
        if cells is None:
            continue
        if not isinstance(cells, dict):
            raise UserError(f"{path}: line {number}: expected a JSON object, found {type(cells).__name__}")
        yield Record(cells, str(path), f"line {number}")


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError):
        raise UserError(f"{path}: not a Parquet file, or one cut short") from None


def _parquet_records(path: Path) -> Iterator[Record]:
    with _parquet(path) as file:
        rows = itertools.chain.from_iterable(batch.to_pylist() for batch in file.iter_batches())
        for number, cells in enumerate(rows, start=1):
            yield Record(cells, str(path), f"row {number}")
