"""Count by reason and corpus the utterances that ingest refused, and print the meaning of each reason."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.ingest_summary import describe_quarantined
from pipeline.commands.options import Json, print_found
from pipeline.commands.text_tables import lay_out, lay_out_record
from pipeline.stage import UserError
from pipeline.tables import parquet, quarantine
from pipeline.tables.quarantine import REASONS

Row = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason code: its meaning, and its number of utterances by corpus."""

    meaning: str
    rows: int
    corpora: dict[str, int]


@dataclass(frozen=True, slots=True)
class Refusals:
    """The counts of a quarantine."""

    file: str
    rows: int
    reasons: dict[str, Reason]
    """By code, the most frequent first."""
    clips: list[Row]
    """The first rows of the requested reason."""


def summarise(path: Path, reason: str | None, number: int) -> Refusals:
    """Count a quarantine; with a `reason`, count only its rows and return the first of them.

    `path` is the quarantine or its manifest.
    """
    if (not path.exists() and quarantine.beside(path).exists()) or "reason" not in parquet.columns(path):
        path = quarantine.beside(path)
    rows: list[dict[str, str]] = quarantine.read(path).to_pylist()
    if reason is not None:
        known = [*REASONS, *sorted({row["reason"] for row in rows} - set(REASONS))]
        if reason not in known:
            raise UserError(f"--reason: found {reason}, expected one of {', '.join(known)}")
        rows = [row for row in rows if row["reason"] == reason]
    reasons = {}
    for code, count in Counter(row["reason"] for row in rows).most_common():
        corpora = Counter(row["corpus"] for row in rows if row["reason"] == code)
        reasons[code] = Reason(REASONS.get(code, ""), count, dict(sorted(corpora.items())))
    return Refusals(str(path), len(rows), reasons, [] if reason is None else list(rows[:number]))


def describe(refusals: Refusals) -> str:
    """Lay out a quarantine as plain text."""
    rows = [[code, f"{reason.rows:,}", reason.meaning] for code, reason in refusals.reasons.items()]
    blocks = [lay_out([["reason", "rows", "meaning"], *rows, ["all", f"{refusals.rows:,}", ""]])]
    corpora = sorted({corpus for reason in refusals.reasons.values() for corpus in reason.corpora})
    if len(corpora) > 1:
        blocks.append(describe_quarantined({corpus: _of_corpus(refusals, corpus) for corpus in corpora}))
    for row in refusals.clips:
        facts = {name: row[name] or "" for name in ("audio", "detail") if row[name]}
        blocks.append(lay_out_record(row["id"] or "", facts))
    if 0 < len(refusals.clips) < refusals.rows:
        blocks.append(f"{len(refusals.clips):,} of {refusals.rows:,} rows")
    return "\n\n".join(blocks)


def _of_corpus(refusals: Refusals, corpus: str) -> dict[str, int]:
    return {code: reason.corpora[corpus] for code, reason in refusals.reasons.items() if corpus in reason.corpora}


def main(
    file: Annotated[Path, typer.Argument(help="A quarantine, or the manifest beside it.", show_default=False)],
    reason: Annotated[str | None, typer.Option(help="Count only this reason code, and print its first rows.")] = None,
    number: Annotated[int, typer.Option("-n", help="Number of rows to print with --reason.", min=0)] = 10,
    as_json: Json = False,
) -> None:
    """Count the utterances that ingest refused, by reason and corpus.

    \b
    JSON: file; rows; reasons {code: meaning, rows, corpora {corpus: rows}};
    clips: with --reason a list of id, corpus, audio, reason, detail.
    """
    found = summarise(file, reason, number)
    print_found(found, describe(found), as_json)
