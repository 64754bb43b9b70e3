"""Compare two tables of one kind: rows and hours by group, and the rows that were added, removed or changed.

Rows are paired by id. Rows that share an id are paired in their order. Columns are read one at a time, so that two
manifests of millions of rows fit in memory.
"""

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import typer
from numpy.typing import NDArray

from pipeline.commands import revisions
from pipeline.commands.options import Json, print_found
from pipeline.commands.text_tables import lay_out, shorten, signed
from pipeline.stage import UserError
from pipeline.tables import emotions, manifest, parquet

NONE = "none"

_GROUPS = ("corpus", "emotion", "split", "reason", "finish_reason")
_ORDER = (*manifest.SPLITS, *emotions.EMOTIONS)  # other values follow, sorted by name
_ID_WIDTH = 40  # characters


@dataclass(frozen=True, slots=True)
class Totals:
    """Rows and hours of a group in A and in B; hours are None if one table has no durations."""

    rows: tuple[int, int]
    hours: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Rows:
    """A number of rows, and the ids of the first of them."""

    rows: int
    ids: list[str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences between table A and table B."""

    a: str
    b: str
    by: dict[str, dict[str, Totals]]
    """Totals by column, then by value; the value NONE stands for rows without a value."""
    added: Rows
    removed: Rows
    changed: Rows
    unchanged: int
    columns: dict[str, Rows]
    """Column: rows in which it changed."""
    only_in_a: list[str]
    """Columns that B lacks; rows do not count as changed because of them."""
    only_in_b: list[str]


def compare(a: Path, b: Path, num_ids: int) -> Comparison:
    """Compare two tables, with up to `num_ids` ids for each change; raises UserError if a table has no ids."""
    pairs = _ids(a).merge(_ids(b), on=["id", "copy"], how="outer", suffixes=("_a", "_b"), indicator="side")
    both = pairs[pairs["side"] == "both"]
    columns_a, columns_b = parquet.columns(a), parquet.columns(b)
    common = [name for name in columns_a if name in columns_b and name != "id"]
    differs = {name: _differs(_read(a, name, both["row_a"]), _read(b, name, both["row_b"])) for name in common}
    any_differs = np.logical_or.reduce(list(differs.values()), axis=0) if common else np.zeros(len(both), bool)
    return Comparison(
        a=str(a),
        b=str(b),
        by=_by_group(a, b),
        added=_rows(pairs["id"][pairs["side"] == "right_only"], num_ids),
        removed=_rows(pairs["id"][pairs["side"] == "left_only"], num_ids),
        changed=_rows(both["id"][any_differs], num_ids),
        unchanged=int((~any_differs).sum()),
        columns={name: _rows(both["id"][where], num_ids) for name, where in differs.items() if where.any()},
        only_in_a=[name for name in columns_a if name not in columns_b],
        only_in_b=[name for name in columns_b if name not in columns_a],
    )


def describe(comparison: Comparison) -> str:
    """Lay out a comparison as plain text."""
    blocks = [f"A  {comparison.a}\nB  {comparison.b}"]
    blocks += [_describe_groups(column, totals) for column, totals in comparison.by.items()]
    kinds = {"added": comparison.added, "removed": comparison.removed, "changed": comparison.changed}
    blocks.append(_describe_rows("rows", {**kinds, "unchanged": Rows(comparison.unchanged, [])}))
    if comparison.columns:
        blocks.append(_describe_rows("changed column", comparison.columns))
    own = (("A", comparison.only_in_a), ("B", comparison.only_in_b))
    if any(names for _, names in own):
        blocks.append(lay_out([["only in", "columns"], *([side, ", ".join(names)] for side, names in own if names)]))
    return "\n\n".join(blocks)


def _ids(path: Path) -> pd.DataFrame:
    """Return the id and position of each row, and the number of earlier rows with the same id."""
    ids = parquet.read(path, pa.schema([("id", pa.string())]), allow_empty=True)["id"].to_pandas()
    return pd.DataFrame({"id": ids, "copy": ids.groupby(ids).cumcount(), "row": np.arange(len(ids))})


def _read(path: Path, name: str, rows: "pd.Series[Any]") -> pa.ChunkedArray:
    return parquet.read_columns(path, [name])[name].take(pa.array(rows, pa.int64()))


def _differs(a: pa.ChunkedArray, b: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return for each pair of values whether they differ; two nulls are equal."""
    if a.type != b.type or pa.types.is_nested(a.type):  # Arrow cannot compare these
        pairs = zip(a.to_pylist(), b.to_pylist(), strict=True)
        return np.fromiter((x != y for x, y in pairs), bool, len(a))
    one_null = pc.xor(pc.is_null(a), pc.is_null(b))
    different: NDArray[np.bool_] = pc.coalesce(pc.not_equal(a, b), one_null).to_numpy()
    return different


def _rows(ids: "pd.Series[str]", num_ids: int) -> Rows:
    return Rows(len(ids), ids.head(num_ids).tolist())


def _by_group(a: Path, b: Path) -> dict[str, dict[str, Totals]]:
    """Count rows and hours by each group column that both tables have and that has values."""
    names_a, names_b = parquet.columns(a), parquet.columns(b)
    timed = "duration_s" in names_a and "duration_s" in names_b
    found = {}
    for column in _GROUPS:
        if column in names_a and column in names_b:
            of_a, of_b = _count(a, column, timed), _count(b, column, timed)
            if {*of_a, *of_b} - {NONE}:
                values = sorted({*of_a, *of_b}, key=_position)
                found[column] = {value: _pair(of_a.get(value), of_b.get(value), timed) for value in values}
    return found


def _position(value: str) -> tuple[bool, int, str]:
    return value == NONE, _ORDER.index(value) if value in _ORDER else len(_ORDER), value


def _count(path: Path, column: str, timed: bool) -> dict[str, tuple[int, float]]:
    """Return the rows and seconds of each value."""
    table = parquet.read_columns(path, [column, "duration_s"] if timed else [column])
    sums = [("duration_s", "sum")] if timed else []
    counts = table.group_by(column).aggregate([([], "count_all"), *sums]).to_pylist()
    return {row[column] or NONE: (row["count_all"], row.get("duration_s_sum") or 0.0) for row in counts}


def _pair(a: tuple[int, float] | None, b: tuple[int, float] | None, timed: bool) -> Totals:
    (rows_a, seconds_a), (rows_b, seconds_b) = a or (0, 0.0), b or (0, 0.0)
    return Totals((rows_a, rows_b), (seconds_a / 3600, seconds_b / 3600) if timed else None)


def _describe_groups(column: str, groups: Mapping[str, Totals]) -> str:
    timed = all(group.hours for group in groups.values())
    header = [column.replace("_", " "), "rows A", "rows B", "change"]
    rows = [[*header, "hours A", "hours B", "change"] if timed else header]
    for value, group in [*groups.items(), *([("all", _sum(groups.values()))] if len(groups) > 1 else [])]:
        rows.append([value, *_cells(group.rows, 0), *(_cells(group.hours, 2) if group.hours else [])])
    return lay_out(rows)


def _sum(groups: Collection[Totals]) -> Totals:
    rows = [group.rows for group in groups]
    hours = [group.hours for group in groups if group.hours]
    return Totals(
        (sum(a for a, _ in rows), sum(b for _, b in rows)),
        (sum(a for a, _ in hours), sum(b for _, b in hours)) if hours else None,
    )


def _cells(pair: tuple[float, float], digits: int) -> list[str]:
    a, b = pair
    return [f"{a:,.{digits}f}", f"{b:,.{digits}f}", signed(b - a, digits)]


def _describe_rows(title: str, kinds: Mapping[str, Rows]) -> str:
    rows = [[kind, f"{rows.rows:,}", _list_ids(rows)] for kind, rows in kinds.items()]
    return lay_out([[title, "count", "first ids"], *rows])


def _list_ids(rows: Rows) -> str:
    ids: Sequence[str] = [shorten(key, _ID_WIDTH) for key in rows.ids]
    more: Iterable[str] = ["…"] if rows.rows > len(ids) > 0 else []
    return ", ".join([*ids, *more])


def main(
    a: Annotated[str, typer.Argument(metavar="A", help="A table, or a git revision with --file.")],
    b: Annotated[
        str | None,
        typer.Argument(
            metavar="B",
            help="Another table or git revision. If B is left out, --file compares revision A with the file on disk.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="The output of the graph to compare at two git revisions.")] = None,
    number: Annotated[int, typer.Option("-n", help="Number of ids to print for each change.", min=0)] = 3,
    as_json: Json = False,
) -> None:
    """Compare two tables, or a table at two git revisions.

    Prints rows and hours by corpus, emotion, split and reason, and the rows that were added, removed or changed.

    \b
    python -m pipeline diff old.parquet new.parquet
    python -m pipeline diff HEAD~1 HEAD --file manifests/emotion.parquet

    \b
    JSON: a; b; by {column: {value: {rows: [a, b], hours: [a, b]}}}, hours null
    without durations; added, removed, changed: rows and the first ids;
    unchanged; columns {changed column: rows and the first ids};
    only_in_a, only_in_b: columns.
    """
    if file is None:
        if b is None:
            raise typer.BadParameter("found one table, expected two, or one git revision and --file", param_hint="B")
        found = compare(_table(a), _table(b), number)
    else:
        with tempfile.TemporaryDirectory() as folder:
            before = revisions.fetch(file, a, Path(folder, "a"))
            after = file if b is None else revisions.fetch(file, b, Path(folder, "b"))
            found = compare(before, after, number)
        found = replace(found, a=f"{file} at {a}", b=str(file) if b is None else f"{file} at {b}")
    print_found(found, describe(found), as_json)


def _table(path: str) -> Path:
    if not Path(path).exists():
        raise UserError(f"{path}: no such file; to compare a table at two git revisions, name it with --file")
    return Path(path)
