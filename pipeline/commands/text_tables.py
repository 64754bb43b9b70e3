"""Tables as plain text for a terminal of 80 columns.

Numbers are aligned to the right, long names lose their middle, and long text is wrapped. Columns that do not fit go to
a second block, which repeats the names of the rows.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest

WIDTH = 80  # characters
TIE = "\N{NO-BREAK SPACE}"
"""A space at which no line is broken."""

_GAP = "  "
_NAME_WIDTH = 24  # leaves two thirds of a line for the numbers
_TEXT_WIDTH = 24  # narrower text is hard to read
_NUMBER = re.compile(r"[-+]?\d[\d.,]*%?")

Column = Sequence[str]


def lay_out(rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """Align rows in columns; the first row is the header, and the first `names` columns name the rows."""
    columns = list(zip(*rows, strict=True))
    head: list[Column] = [[shorten(cell, _NAME_WIDTH) for cell in column] for column in columns[:names]]
    blocks = [[*head]]
    for column in columns[names:]:
        is_text = not _is_number(column)
        if _width(column) > _room(blocks[-1]) and not (is_text and _room(blocks[-1]) >= _TEXT_WIDTH):
            blocks.append([*head])
        room = _room(blocks[-1])
        blocks[-1].append(["\n".join(_wrap(cell, room)) for cell in column])
    return "\n\n".join(_render(block) for block in blocks)


def lay_out_record(name: str, facts: Mapping[str, str]) -> str:
    """Lay out a name, and below it the facts about it."""
    margin = max(map(len, facts), default=0) + 2 * len(_GAP)
    lines = _wrap(name, WIDTH)
    for key, value in facts.items():
        first, *rest = _wrap(value, WIDTH - margin) or [""]
        lines += [f"{_GAP}{key}".ljust(margin) + first, *(" " * margin + line for line in rest)]
    return "\n".join(line.rstrip() for line in lines)


def shorten(text: str, width: int) -> str:
    """Leave out the middle of a text that is longer than `width`, because names differ at their ends."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def signed(value: float, digits: int = 0) -> str:
    """Format a difference with its sign; a difference that rounds to 0 has no sign."""
    text = f"{value:+,.{digits}f}"
    return text if re.search(r"[1-9]", text) else text[1:]


def _render(columns: Sequence[Column]) -> str:
    widths = [_width(column) for column in columns]
    numeric = [_is_number(column) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        for cells in zip_longest(*(cell.split("\n") for cell in row), fillvalue=""):
            aligned = zip(cells, widths, numeric, strict=True)
            padded = (cell.rjust(width) if number else cell.ljust(width) for cell, width, number in aligned)
            lines.append(_GAP.join(padded).rstrip())
    return "\n".join(lines)


def _room(block: Sequence[Column]) -> int:
    return WIDTH - sum(_width(column) + len(_GAP) for column in block)


def _width(column: Column) -> int:
    return max(len(line) for cell in column for line in cell.split("\n"))


def _is_number(column: Column) -> bool:
    cells = [cell for cell in column[1:] if cell]
    return bool(cells) and all(map(_NUMBER.fullmatch, cells))


def _wrap(text: str, width: int) -> list[str]:
    return [line.replace(TIE, " ") for line in textwrap.wrap(text, width, break_on_hyphens=False)]
