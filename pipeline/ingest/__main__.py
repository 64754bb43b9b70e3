"""Ingest: turn a corpus on disk into manifest rows. Unusable clips go to a quarantine table with a reason."""

import gc
import json
import os
import re
from collections import Counter
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
import xxhash

from pipeline.corpora import registry
from pipeline.corpora.corpus import Corpus
from pipeline.corpora.files import AUDIO_SUFFIXES, names
from pipeline.corpora.params import Check
from pipeline.ingest.coverage import Coverage
from pipeline.ingest.rows import CorpusRows
from pipeline.progress import Task
from pipeline.stage import UserError, printable, run_stage, say
from pipeline.tables import manifest, parquet, quarantine

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MAX_SEARCHED = 1000  # folders


def ingest(corpus: Corpus, root: Path, name: str, check: Check, output: Path) -> dict[str, Any]:
    """Write the manifest and the quarantine of a corpus; return their summary."""
    coverage = Coverage(name, corpus)
    intake = CorpusRows(corpus=corpus, root=root, name=name, check=check, coverage=coverage)
    seconds, num_rows, reasons, speakers = 0.0, 0, Counter[str](), set[str]()
    first_refused = ""
    with (
        Task(f"ingest {name}", unit="clips") as task,
        parquet.stream(output, manifest.SCHEMA) as taken,
        parquet.stream(quarantine.beside(output), quarantine.SCHEMA) as refused,
        closing(intake.rows()) as chunks,
    ):
        for rows in chunks:
            usable = [row for row in rows if "reason" not in row]
            unusable = [row for row in rows if "reason" in row]
            taken.write(usable)
            refused.write(unusable)
            seconds += sum(row["duration_s"] for row in usable)
            num_rows += len(usable)
            speakers.update(row["speaker"] for row in usable)
            reasons.update(row["reason"] for row in unusable)
            if unusable and not first_refused:
                first_refused = ", ".join(filter(None, (unusable[0][key] for key in ("id", "reason", "detail"))))
            task.advance(len(rows))
        if num_rows + reasons.total() == 0:
            raise _wrong_layout(root, corpus)
        refused.commit()
        coverage.check()
        if num_rows == 0:
            found = f"{_counts(reasons)}; the first one is {first_refused} (see {quarantine.beside(output)})"
            raise UserError(f"{root}: no usable clip; expected at least one, found {found}")
        taken.commit()
    return {
        "corpus": name,
        "rows": num_rows,
        "hours": round(seconds / 3600, 4),
        "speakers": len(speakers),
        "found": num_rows + reasons.total(),
        "quarantined": dict(sorted(reasons.items())),
        "coverage": coverage.table(),
        "folds": {fold: list(speakers) for fold, speakers in corpus.folds.items()},
    }


def _wrong_layout(root: Path, corpus: Corpus) -> UserError:
    """Return the error for a root in which the reader found no clip; the message says what is there."""
    expected = f"{corpus.title}'s layout ({corpus.layout})"
    if not root.is_dir():
        return UserError(f"{root}: no such folder; expected {expected}")
    there = names(root)
    found = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
    return UserError(f"{root}: found {found or 'nothing'}{_describe_audio(root)}; expected {expected}")


def _describe_audio(root: Path) -> str:
    """Return which audio files are below a root, in whatever folders; empty if there are none."""
    counts, example = Counter[str](), ""
    for folder, _, files in islice(os.walk(root), _MAX_SEARCHED):
        for file in sorted(files):
            suffix = os.path.splitext(file)[1]
            if suffix.lower() in AUDIO_SUFFIXES and not file.startswith("."):
                counts[suffix] += 1
                example = example or os.path.relpath(os.path.join(folder, file), root)
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common())
    return f" with {kinds} files such as {example}" if kinds else ""


def _counts(reasons: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))


def main(
    reader: Annotated[
        str, typer.Option("--reader", "--corpus", help="Reader of the corpus; see python -m pipeline download --list.")
    ],
    root: Annotated[Path, typer.Option(help="Folder of the corpus.")],
    output: Annotated[Path, typer.Option(help="Manifest to write (.parquet); the quarantine is written beside it.")],
    name: Annotated[str | None, typer.Option(help="Corpus name in the manifest; by default the reader's.")] = None,
    check: Annotated[
        Check | None, typer.Option(help="Check all samples or only file headers; the default depends on the corpus.")
    ] = None,
    subset: Annotated[str | None, typer.Option(help="Read only this subset, such as M of GigaSpeech.")] = None,
    dataset: Annotated[str | None, typer.Option(help="With --reader hub: id or folder of the data set.")] = None,
    table: Annotated[Path | None, typer.Option(help="With --reader table: CSV, TSV, JSONL or Parquet file.")] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(help="With --reader table or hub: YAML that names the columns; by default ROOT/mapping.yaml."),
    ] = None,
) -> None:
    """Turn a corpus on disk into manifest rows. Unusable clips go to a quarantine table with a reason."""
    gc.set_threshold(100_000)  # the search for reference cycles took a sixth of the time, and rows have none
    corpus = registry.open_corpus(reader, root, subset=subset, dataset=dataset, table=table, mapping=mapping)
    name = name or reader.partition(":")[0]
    if not _NAME.fullmatch(name):
        raise typer.BadParameter(f"found {name!r}, expected letters, digits, - _ .", param_hint="--name")
    if output.suffix != ".parquet":
        raise typer.BadParameter(f"found {printable(str(output))}, expected a .parquet file", param_hint="--output")
    how: Check = check or ("headers" if corpus.headers_suffice else "samples")
    summary = ingest(corpus, root, name, how, output)
    summary["manifest_xxh3_128"] = xxhash.xxh3_128_hexdigest(output.read_bytes())
    # written last: it shows DVC that the corpus is ingested
    with parquet.whole(output.parent / "ingested" / f"{output.stem}.json") as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")
    say(_describe(summary))


def _describe(summary: dict[str, Any]) -> str:
    refused = Counter(summary["quarantined"])
    line = (
        f"ingest: {summary['corpus']}: {summary['rows']:,} clips, {summary['hours']:.2f} h, "
        f"{summary['speakers']:,} speakers; {refused.total():,} quarantined"
    )
    if refused:
        line += f" ({_counts(refused)})"
    coverage: dict[str, tuple[int, int]] = summary["coverage"]
    short = [f"{key} {found:,} of {number:,}" for key, (found, number) in coverage.items() if found < number]
    if coverage:
        line += f"; incomplete: {', '.join(short[:4])}" if short else "; complete"
    return line


if __name__ == "__main__":
    run_stage(main)
