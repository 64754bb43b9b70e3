"""Select utterances of a manifest by a pandas expression, by id, or by the reason why filter dropped them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.commands import sample
from pipeline.generate.run import READ
from pipeline.params import Alignment
from pipeline.stage import UserError
from pipeline.tables import continuations, parquet


@dataclass(frozen=True, slots=True)
class Found:
    """An utterance, and the manifest that contains it."""

    kind: Alignment
    utterance: dict[str, str | None]


def find(key: str, kinds: Sequence[Alignment]) -> Found:
    """Return the utterance with an id; raises UserError if no manifest contains it, or if both do."""
    files = {kind: manifest_of(kind) for kind in kinds}
    found = [
        Found(kind, row)
        for kind, file in files.items()
        if file.exists()
        for row in _only(parquet.read(file, READ), [key]).to_pylist()
    ]
    if len(found) > 1:
        raise UserError(f"{key}: found in {' and '.join(map(str, files.values()))}; say which with --kind")
    if not found:
        raise UserError(f"{key}: no such utterance in {' or '.join(map(str, files.values()))}")
    return found[0]


def manifest_of(kind: Alignment) -> Path:
    """Return the path of an alignment's manifest in the graph."""
    return Path(f"manifests/{kind}.parquet")


def dropped_of(kind: Alignment) -> Path:
    """Return the path of an alignment's dropped continuations in the graph."""
    return Path(f"manifests/continuations/{kind}.dropped.parquet")


def select(manifest_file: Path, where: str | None, ids: Sequence[str], reason: str | None, dropped: Path) -> pa.Table:
    """Return the utterances that meet all conditions, sorted by id; raises UserError if there are none.

    `reason` is a reason in the table `dropped`, which filter writes.
    """
    utterances = parquet.read(manifest_file, READ)
    utterances = utterances.take(pa.array(sample.fitting(manifest_file, where), pa.int64())).sort_by("id")
    if ids:
        utterances = _only(utterances, ids)
        if missing := sorted(set(ids) - set(utterances["id"].to_pylist())):
            raise UserError(f"{manifest_file}: no utterance {missing[0]}" + (" that matches --where" if where else ""))
    if reason is not None:
        rows = parquet.read(dropped, continuations.DROPPED_SCHEMA, allow_empty=True)
        if reason not in (known := sorted(set(rows["reason"].to_pylist()))):
            expected = ", ".join(known) or "none"
            raise UserError(f"--reason: found {reason}, expected a reason of {dropped}: {expected}")
        utterances = _only(utterances, rows.filter(pc.equal(rows["reason"], reason))["id"].to_pylist())
    if not len(utterances):
        raise UserError(f"{manifest_file}: no utterance meets all conditions")
    return utterances


def _only(utterances: pa.Table, ids: Sequence[str]) -> pa.Table:
    return utterances.filter(pc.is_in(utterances["id"], value_set=pa.array(ids, pa.string())))
