"""Test clips with the answers of every system side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from evaluate.own_answers import less_mean, select_clips
from evaluate.predictions import OWN_ANSWERS_SCHEMA, RECOGNITION_SCHEMA, read_examples
from evaluate.verdict.systems import OWN_ROWS, RECOGNITION_ROWS
from pipeline.tables import parquet

WRITTEN_COLUMNS = pa.schema([(name, pa.string()) for name in ("id", "system", "answer")])
"""The columns of the written answers that the report reads."""
_CHOICE = pa.schema([field for field in RECOGNITION_SCHEMA if field.name in ("id", "system", "answer", "predicted")])


@dataclass(frozen=True, slots=True)
class Told:
    """The emotion that a system gives for a clip, and its words if it wrote an answer."""

    given: str
    read_by: str
    emotion: str
    answer: str | None
    is_right: bool


@dataclass(frozen=True, slots=True)
class Example:
    """A test clip: its row of the table of examples, and what each system says of it."""

    row: Mapping[str, Any]
    recognition: list[Told] = field(default_factory=list)
    own_answers: list[Told] = field(default_factory=list)
    written: list[tuple[str, str]] = field(default_factory=list)
    """System and answer, of the table of written answers."""


def gather_examples(predictions: Path, emotions: Sequence[str]) -> list[Example]:
    """Read the examples and the answers to their clips; tables that are missing are left out.

    `predictions` is the folder that respond and probe write.
    """
    folder = predictions / "emotion"
    rows: list[dict[str, Any]] = read_examples(folder / "examples.parquet").to_pylist()
    ids = pa.array([row["id"] for row in rows], pa.string())
    recognised = [
        row
        for path in (folder / "recognition.parquet", predictions / "probe" / "probe.parquet")
        for row in _rows_of(path, _CHOICE, ids)
    ]
    chosen = _chosen(folder / "own_answers.parquet", emotions, ids)
    written = _rows_of(folder / "written.parquet", WRITTEN_COLUMNS, ids)
    return [
        Example(
            row,
            _told(row, recognised, RECOGNITION_ROWS),
            _told(row, chosen, OWN_ROWS),
            [(one["system"], one["answer"]) for one in written if one["id"] == row["id"]],
        )
        for row in rows
    ]


def _told(
    example: Mapping[str, Any], said: Sequence[Mapping[str, Any]], systems: Mapping[str, tuple[str, str]]
) -> list[Told]:
    of_clip = {row["system"]: row for row in said if row["id"] == example["id"]}
    return [
        Told(given, read_by, row["predicted"] or "no label", row["answer"], row["predicted"] == example["emotion"])
        for name, (given, read_by) in systems.items()
        if (row := of_clip.get(name))
    ]


def _rows_of(path: Path, schema: pa.Schema, ids: pa.Array) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    table = parquet.read(path, schema, allow_empty=True)
    rows: list[dict[str, Any]] = table.filter(pc.is_in(table["id"], value_set=ids)).to_pylist()
    return rows


def _chosen(path: Path, emotions: Sequence[str], ids: pa.Array) -> list[dict[str, Any]]:
    """Return the emotions whose continuations each system finds likeliest, less the mean, for these clips."""
    if not path.is_file():
        return []
    table = parquet.read(path, OWN_ANSWERS_SCHEMA, allow_empty=True)
    found = []
    for corpus in table["corpus"].unique().to_pylist():
        of_corpus = table.filter(pc.field("corpus") == corpus)
        for system in of_corpus["system"].unique().to_pylist():
            of_system = of_corpus.filter(pc.field("system") == system).sort_by("id")
            places = pc.index_in(of_system["id"], value_set=ids).to_pylist()
            shares = less_mean(select_clips(of_corpus, system, emotions))[0].chosen()
            for key, place, of_clip in zip(of_system["id"].to_pylist(), places, shares, strict=True):
                if place is not None:
                    names = " or ".join(name for name, share in zip(emotions, of_clip, strict=True) if share > 0)
                    found.append({"id": key, "system": system, "predicted": names, "answer": None})
    return found
