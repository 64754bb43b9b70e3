"""Check that packed rows have a stored teacher: every response position has the same number of stored tokens."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stage import UserError
from pipeline.tables import packed

_ROWS_AT_ONCE = 1_000
_HOW = "generate with store_logprobs above 0 and pack again, or set fit.semantic.teacher to exact"


def check(rows: packed.Rows, folder: Path) -> int:
    """Return the number of tokens stored at each position.

    Raises UserError that names the first row with missing tokens.
    """
    if "top_ids" not in rows.names:
        raise UserError(f"{folder}: the packed data has no stored teacher; {_HOW}")
    num_top: int | None = None
    columns = pa.table({name: rows.column(name) for name in ("id", "response_ids", "top_ids")})
    for batch in columns.to_batches(_ROWS_AT_ONCE):
        _check_positions(batch, folder)
        row_of = pc.list_parent_indices(batch["top_ids"])
        counts = pc.list_value_length(pc.list_flatten(batch["top_ids"]))
        num_top = num_top or counts[0].as_py()
        for i in pc.indices_nonzero(pc.not_equal(counts, num_top))[:1].to_pylist():
            key = batch["id"][row_of[i].as_py()]
            expected = f"expected {num_top} likeliest tokens at each position, found {counts[i]}"
            raise UserError(f"{folder}: {key}: {expected}; {_HOW}")
    assert num_top is not None
    return num_top


def _check_positions(rows: pa.RecordBatch, folder: Path) -> None:
    positions = pc.list_value_length(rows["response_ids"])
    stored = pc.list_value_length(rows["top_ids"])
    for i in pc.indices_nonzero(pc.fill_null(pc.not_equal(positions, stored), True))[:1].to_pylist():
        found = stored[i] if stored[i].is_valid else "none"
        expected = f"expected stored teacher tokens at all {positions[i]} response positions, found them at {found}"
        raise UserError(f"{folder}: {rows['id'][i]}: {expected}; {_HOW}")
