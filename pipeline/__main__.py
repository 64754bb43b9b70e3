"""What a person can do with the pipeline: the list of its stages, and a look at a manifest."""

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import typer

from pipeline import manifest, tables
from pipeline.stage import overview, run_app, say

STAGES = {
    "synthesise": "make a synthetic corpus in the layout of a published one",
    "ingest": "turn a corpus on disk into manifest rows",
    "split": "join corpora and deal speakers to train, dev and test",
    "generate": "let the LLM write the continuations",
    "filter": "keep the continuations that are usable targets",
    "pack": "write token ids and audio to Arrow for training",
}

# columns of the tables beside the manifests that say why a row is there
_REASONS = ("reason", "finish_reason")

app = typer.Typer(
    help=overview("pipeline", "Prepare data: from corpora on disk to packed training data.", STAGES),
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _keep_show_a_command() -> None: ...


@app.command()
def show(file: Annotated[Path, typer.Argument(help="A manifest, or another table of the pipeline.")]) -> None:
    """Print what a manifest holds, by corpus and split.

    Hours, speakers, utterances and emotions; of other tables how many rows have which reason.
    """
    names = tables.columns(file)
    reason = next((name for name in _REASONS if name in names), None)
    if reason is None or set(manifest.SCHEMA.names) <= set(names):
        say(describe(manifest.read(file)))
    if reason is not None:
        say(_count_reasons(tables.read(file, pa.schema([(reason, pa.string())]), allow_empty=True), reason))


def describe(table: pa.Table) -> str:
    """Lay out hours, speakers and utterances, then emotions where there are any, by corpus and split."""
    groups = _groups(table)
    rows = [["corpus", "split", "hours", "speakers", "utterances"]]
    for (corpus, split), group in groups.items():
        hours = pc.sum(group["duration_s"]).as_py() / 3600
        speakers = pc.count_distinct(group["speaker"]).as_py()
        rows.append([corpus, split, f"{hours:.2f}", f"{speakers:,}", f"{group.num_rows:,}"])
    labels = sorted(label for label in table["emotion"].unique().to_pylist() if label)
    if not labels:
        return _align(rows)
    emotions = [["corpus", "split", *labels]]
    for (corpus, split), group in groups.items():
        counts = [pc.sum(pc.equal(group["emotion"], label)).as_py() or 0 for label in labels]
        emotions.append([corpus, split, *(f"{count:,}" for count in counts)])
    return f"{_align(rows)}\n\n{_align(emotions)}"


def _groups(table: pa.Table) -> dict[tuple[str, str], pa.Table]:
    """Divide by corpus and split, train before dev before test."""
    groups = {}
    for corpus in sorted(table["corpus"].unique().to_pylist()):
        rows = table.filter(pc.equal(table["corpus"], corpus))
        for split in (*manifest.SPLITS, None):
            is_split = pc.is_null(rows["split"]) if split is None else pc.equal(rows["split"], split)
            group = rows.filter(is_split)
            if group.num_rows:
                groups[corpus, split or "none yet"] = group
    return groups


def _count_reasons(table: pa.Table, column: str) -> str:
    counts = table.group_by(column).aggregate([([], "count_all")]).sort_by([("count_all", "descending")]).to_pylist()
    rows = [[column.replace("_", " "), "rows"], *([row[column] or "none", f"{row['count_all']:,}"] for row in counts)]
    return _align([*rows, ["all", f"{table.num_rows:,}"]])


def _align(rows: list[list[str]]) -> str:
    """Set columns under each other: words to the left, numbers, whose column ends in one, to the right."""
    lines = [""] * len(rows)
    for column in zip(*rows, strict=True):
        width = max(map(len, column))
        is_number = column[-1][:1].isdigit()
        for i, cell in enumerate(column):
            lines[i] += (cell.rjust(width) if is_number else cell.ljust(width)) + "  "
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    run_app(app)
