"""Count the continuations that filter dropped; for one reason, print the first continuations with their transcripts."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands import selection
from pipeline.commands.options import Json, print_found
from pipeline.commands.text_tables import lay_out, lay_out_record
from pipeline.generate.run import READ
from pipeline.params import Alignment
from pipeline.stage import UserError
from pipeline.tables import continuations, parquet

_SHOWN = ("id", "continuation", "finish_reason", "reason", "score")


@dataclass(frozen=True, slots=True)
class Unusable:
    """The counts of a table of dropped continuations."""

    file: str
    rows: int
    reasons: dict[str, int]
    """Rows by reason, the most frequent first."""
    answers: list[dict[str, Any]]
    """The first rows of the requested reason, with their transcripts."""


def summarise(path: Path, manifest_file: Path, reason: str | None, number: int) -> Unusable:
    """Count dropped continuations; with a `reason`, count only its rows and return the first of them."""
    rows = parquet.read(path, continuations.DROPPED_SCHEMA, allow_empty=True).to_pylist()
    if reason is not None:
        known = Counter(row["reason"] for row in rows)
        if reason not in known:
            raise UserError(f"--reason: found {reason}, expected one of {', '.join(known) or 'none'}")
        rows = [row for row in rows if row["reason"] == reason]
    first = rows[:number] if reason is not None else []
    texts = dict(zip(*parquet.read(manifest_file, READ).select(["id", "text"]).to_pydict().values(), strict=True))
    answers = [{"text": texts.get(row["id"]), **{name: row[name] for name in _SHOWN}} for row in first]
    return Unusable(str(path), len(rows), dict(Counter(row["reason"] for row in rows).most_common()), answers)


def describe(unusable: Unusable) -> str:
    """Lay out dropped continuations as plain text."""
    rows = [[reason, f"{count:,}"] for reason, count in unusable.reasons.items()]
    blocks = [lay_out([["reason", "rows"], *rows, ["all", f"{unusable.rows:,}"]])]
    for answer in unusable.answers:
        score = "" if answer["score"] is None else f"{answer['score']:.2f}"
        facts = {"said": answer["text"] or "", "answer": answer["continuation"], "score": score}
        blocks.append(lay_out_record(answer["id"], {name: fact for name, fact in facts.items() if fact}))
    return "\n\n".join(blocks)


def main(
    kind: Annotated[Alignment, typer.Argument(help="The manifest of the continuations.", show_default=False)],
    reason: Annotated[str | None, typer.Option(help="Count only this reason, and print its first rows.")] = None,
    number: Annotated[int, typer.Option("-n", help="Number of rows to print with --reason.", min=0)] = 10,
    as_json: Json = False,
) -> None:
    """Count the continuations that filter dropped, by reason.

    \b
    JSON: file; rows; reasons {reason: rows}; answers: with --reason a list of
    id, text, continuation, finish_reason, reason, score.
    """
    found = summarise(selection.dropped_of(kind), selection.manifest_of(kind), reason, number)
    print_found(found, describe(found), as_json)
