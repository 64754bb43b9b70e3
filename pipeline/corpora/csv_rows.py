"""Rows of CSV and TSV files, each with the number of its first line.

Quotation marks are read as in CSV (RFC 4180). But in many files, above all with tabs, they are characters of the text
and may be unpaired. CSV would then put all rows up to the next quotation mark into one cell, and their clips would be
missing without a message. So a cell may contain line ends only if its lines are not rows themselves, and if
it contains no name of an audio file.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from pipeline.corpora.files import AUDIO_SUFFIXES, lines
from pipeline.stage import UserError

_DELIMITERS = ",;\t|"
_FILE_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}(?=\"?$)")
_AUDIO_NAME = re.compile(rf"({'|'.join(map(re.escape, AUDIO_SUFFIXES))})\"?([{_DELIMITERS}\r\n]|$)", re.IGNORECASE)
_MANY_CELLS = 5  # a line of text seldom has that many delimiters
_OPEN = "unexpected end of data"  # csv's message at the end of the file if a quotation mark is not closed

Line = tuple[int, str]


def rows(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, list[str]]]:
    """Yield the header and the rows that are not blank, each with the number of its first line.

    Raises UserError at a row that has not as many cells as the header, and at a broken row.
    """
    numbered = enumerate(lines(path, encoding), start=1)
    first = next(numbered, (1, ""))
    delimiter = max(_DELIMITERS, key=first[1].count)
    yield from _Table(path, delimiter, chain([first], numbered)).rows()


@dataclass(slots=True)
class _Table:
    path: Path
    delimiter: str
    numbered: Iterator[Line]
    returned: deque[Line] = field(default_factory=deque)
    """Lines that were read ahead, and that are rows."""
    width: int = 0
    """Cells of the header; 0 before it is read."""

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        while line := self._next_line():
            number, text = line[0], line[1].rstrip("\r\n")
            if "\r" in text:
                raise self._mistake(number, "lines that end in LF or CR LF", "a CR within the line")
            if not text:
                continue
            cells = self._quoted(line) if '"' in text else text.split(self.delimiter)
            if self.width and len(cells) != self.width:
                raise self._mistake(
                    number, f"{self.width} cells", f"{len(cells)}, of which the first is {cells[0]:.60}"
                )
            self.width = self.width or len(cells)
            yield number, cells

    def _next_line(self) -> Line | None:
        return self.returned.popleft() if self.returned else next(self.numbered, None)

    def _quoted(self, line: Line) -> list[str]:
        """Return the cells of a row with quotation marks; lines of a longer cell are read, too."""
        block = [line]

        def read_on() -> Iterator[str]:
            yield line[1]
            while following := self._next_line():
                block.append(following)
                yield following[1]

        found, cells = "", None
        try:
            cells = next(csv.reader(read_on(), delimiter=self.delimiter, strict=True))
        except csv.Error as error:
            found = str(error)
        if cells is not None and len(block) == 1 and len(cells) == (self.width or len(cells)):
            return cells
        plain = [text.rstrip("\r\n").split(self.delimiter) for _, text in block if text.strip("\r\n")]
        num_rows = sum(self._is_row(each, plain[0]) for each in plain)
        if num_rows == len(plain) and self._are_characters(plain, found):
            self.returned.extendleft(reversed(block[1:]))
            return plain[0]
        if cells is None or num_rows > 1 or any("\n" in cell and _AUDIO_NAME.search(cell) for cell in cells):
            raise self._broken_quotes(line[0], block[-1][0], found)
        return cells

    def _is_row(self, cells: list[str], first: list[str]) -> bool:
        """Return whether a line seems to be a row by itself: its file names are in the same columns as in the first."""
        files = _columns_of_files(first)
        return bool(files & _columns_of_files(cells)) if files else len(cells) >= self.width

    def _are_characters(self, plain: list[list[str]], found: str) -> bool:
        """Return whether the lines are rows in which quotation marks are characters of the text."""
        if any(len(cells) != (self.width or len(cells)) for cells in plain):
            return False
        if self.delimiter == "\t":  # which text does not contain
            return True
        is_sure = bool(_columns_of_files(plain[0])) or self.width >= _MANY_CELLS
        return found != _OPEN if len(plain) == 1 else is_sure

    def _broken_quotes(self, first: int, last: int, found: str) -> UserError:
        if found == _OPEN:
            found += f", because the quotation mark of line {first} is not closed"
        elif found.startswith("field"):  # too large
            found += f", from line {first} on"
        elif found:
            found = f"a quotation mark within a cell ({found}); expected it doubled, in a cell in quotation marks"
        else:
            found = f"a quotation mark that is closed in line {last}, after other rows; expected it doubled"
        return self._mistake(first, "CSV", found)

    def _mistake(self, line: int, expected: str, found: str) -> UserError:
        return UserError(f"{self.path}: line {line}: expected {expected}, found {found}")


def _columns_of_files(cells: list[str]) -> set[int]:
    return {i for i, cell in enumerate(cells) if _FILE_SUFFIX.search(cell)}
