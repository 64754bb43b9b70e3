"""Checks of tables: each raises UserError that names the first wrong row."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stage import UserError

WRONG_CLIP = "shuffled"
"""The beginning of the names of systems and conditions with another speaker's clip; some rows have no such clip."""


def first(table: pa.Table, is_wrong: pa.ChunkedArray) -> list[dict[str, Any]]:
    """Return the first wrong row, if there is one."""
    rows: list[dict[str, Any]] = table.take(pc.indices_nonzero(is_wrong)[:1]).to_pylist()
    return rows


def check_once(path: Path, table: pa.Table, keys: list[str]) -> None:
    """Raise UserError if two rows have the same keys; the ids are among them."""
    counts = table.group_by(keys).aggregate([([], "count_all")])
    for row in first(counts, pc.greater(counts["count_all"], 1)):
        found = ", ".join(f"{name} {row[name]}" for name in keys if name != "id")
        raise UserError(f"{path}: {row['id']}: found {found} {row['count_all']} times, expected it once")


def check_labels(path: Path, table: pa.Table, column: str, allowed: Collection[str | None]) -> None:
    """Check that a column has no other values than those allowed; None stands for no value."""
    is_allowed = pc.is_in(table[column], value_set=pa.array(allowed, pa.string()))
    for row in first(table, pc.invert(is_allowed)):
        expected = ", ".join(name for name in allowed if name is not None)
        raise UserError(f"{path}: {row['id']}: {column}: found {row[column]}, expected one of {expected}")


def check_one_of_each(path: Path, table: pa.Table, column: str, count: int) -> None:
    """Check that each list of a column has one value for each of `count` classes."""
    for row in first(table, pc.not_equal(pc.fill_null(pc.list_value_length(table[column]), -1), count)):
        raise UserError(f"{path}: {row['id']}: {column}: found {row[column]}, expected {count} values")


def check_finite(path: Path, table: pa.Table) -> None:
    """Check that all values in the lists of the column `scores` are finite; a row may have no list."""
    scores = table["scores"].combine_chunks()
    is_finite = pc.fill_null(pc.is_finite(pc.list_flatten(scores)), False)
    of_row = pc.list_parent_indices(scores).filter(pc.invert(is_finite))
    for row in table.take(of_row[:1]).to_pylist():
        raise UserError(f"{path}: {row['id']}: scores: found {row['scores']}, expected finite numbers")


def check_paired(
    path: Path, table: pa.Table, column: str, required: Sequence[str], optional: Sequence[str] = ()
) -> None:
    """Check that every id has each required value of a column once, and each optional one that any id has.

    Those of a wrong clip may all be lacking for an id.
    """
    expected = [*required, *optional]
    names = pc.fill_null(pc.index_in(table[column], value_set=pa.array(expected, pa.string())), -1).to_numpy()
    ids = table["id"].combine_chunks().dictionary_encode(null_encoding="encode")
    numbers = ids.indices.to_numpy()
    is_twice = np.ones(len(table), bool)
    is_twice[np.unique(numbers * np.int64(1 + len(expected)) + names, return_index=True)[1]] = False
    for row in first(table, pa.array((names < 0) | is_twice)):
        if row[column] not in expected:
            raise UserError(
                f"{path}: {row['id']}: {column}: found {row[column]}, expected one of {', '.join(expected)}"
            )
        raise UserError(f"{path}: {row['id']}: {column} {row[column]} found twice, expected once")
    has = np.zeros((len(ids.dictionary), len(expected)), bool)
    has[numbers, names] = True
    is_wrong_clip = np.array([name.startswith(WRONG_CLIP) for name in expected])
    with_wrong_clip = has[:, is_wrong_clip].any(axis=1)
    for name, having, is_wrong in zip(expected, has.T, is_wrong_clip.tolist(), strict=True):
        missing = np.flatnonzero(with_wrong_clip & ~having if is_wrong else ~having)
        if len(missing) and (having.any() or name in required):
            lacking = min(ids.dictionary.take(pa.array(missing)).to_pylist())
            raise UserError(f"{path}: {lacking}: found no {column} {name}, expected every {column} for every id")
