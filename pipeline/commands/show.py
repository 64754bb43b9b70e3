"""Summarise a manifest or a packed folder by corpus and split, or another table of the pipeline by reason."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from pipeline.commands import ingest_summary, packed_summary
from pipeline.commands.options import Json, Table, print_found
from pipeline.commands.packed_summary import PackedSplit
from pipeline.commands.text_tables import lay_out
from pipeline.tables import manifest, parquet
from pipeline.tables.emotions import EMOTIONS

NO_EMOTION = "none"

_NO_SPLIT = "none yet"
# no other columns are read, so that manifests of other versions and tables with these columns can be summarised too
_SUMMED = pa.schema([manifest.SCHEMA.field(name) for name in ("corpus", "split", "speaker", "duration_s", "emotion")])
# columns of other tables that say why a row is in the table
_REASONS = ("reason", "finish_reason", "kind")


@dataclass(frozen=True, slots=True)
class Group:
    """The utterances of a corpus in one split; None means that no split is assigned yet."""

    corpus: str
    split: str | None
    utterances: int
    hours: float
    speakers: int
    emotions: dict[str, int]
    """Utterances by unified emotion; NO_EMOTION counts utterances without one."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The counts of a table of the pipeline."""

    file: str
    groups: list[Group] = field(default_factory=list)
    quarantined: dict[str, dict[str, int]] = field(default_factory=dict)
    """Corpus: utterances that ingest refused, by reason."""
    coverage: dict[str, ingest_summary.Coverage] = field(default_factory=dict)
    reason_column: str | None = None
    reasons: dict[str, int] = field(default_factory=dict)
    """Rows by value of `reason_column`, the most frequent first."""
    packed: list[PackedSplit] = field(default_factory=list)
    """The splits of a packed folder."""


def summarise(path: Path) -> Contents:
    """Count the rows of a table; raises UserError if it is not a manifest and has no column of reasons."""
    if path.is_dir():
        splits, rows = packed_summary.summarise(path)
        return Contents(str(path), _groups(rows), packed=splits)
    names = parquet.columns(path)
    column = next((name for name in _REASONS if name in names), None)
    reasons = {} if column is None else _count_reasons(path, column)
    if column is not None and not set(_SUMMED.names) <= set(names):
        return Contents(str(path), reason_column=column, reasons=reasons)
    groups = _groups(parquet.read(path, _SUMMED, allow_empty=column is not None))
    if column is not None:
        return Contents(str(path), groups, reason_column=column, reasons=reasons)
    corpora = sorted({group.corpus for group in groups})
    return Contents(
        str(path), groups, ingest_summary.quarantined(path, corpora), ingest_summary.coverage(path, corpora)
    )


def describe(contents: Contents) -> str:
    """Lay out contents as plain text."""
    blocks = []
    if contents.groups:
        blocks = [_describe_sizes(contents.groups), _describe_emotions(contents.groups)]
    if contents.packed:
        blocks.append(packed_summary.describe(contents.packed))
    if contents.coverage:
        blocks.append(ingest_summary.describe_coverage(contents.coverage))
    if contents.quarantined:
        blocks.append(ingest_summary.describe_quarantined(contents.quarantined))
    if contents.reason_column is not None:
        rows = [[reason, f"{count:,}"] for reason, count in contents.reasons.items()]
        header = [contents.reason_column.replace("_", " "), "rows"]
        blocks.append(lay_out([header, *rows, ["all", f"{sum(contents.reasons.values()):,}"]]))
    return "\n\n".join(filter(None, blocks))


def _count_reasons(path: Path, column: str) -> dict[str, int]:
    table = parquet.read(path, pa.schema([(column, pa.string())]), allow_empty=True)
    return {reason or "none": count for reason, count in Counter(table[column].to_pylist()).most_common()}


def _groups(table: pa.Table) -> list[Group]:
    keys = ["corpus", "split"]
    emotions: dict[tuple[str, str | None], dict[str, int]] = {}
    for row in table.group_by([*keys, "emotion"]).aggregate([([], "count_all")]).sort_by("emotion").to_pylist():
        emotions.setdefault((row["corpus"], row["split"]), {})[row["emotion"] or NO_EMOTION] = row["count_all"]
    sums = table.group_by(keys).aggregate([([], "count_all"), ("duration_s", "sum"), ("speaker", "count_distinct")])
    groups = [
        Group(
            corpus=row["corpus"],
            split=row["split"],
            utterances=row["count_all"],
            hours=row["duration_s_sum"] / 3600,
            speakers=row["speaker_count_distinct"],
            emotions=emotions[row["corpus"], row["split"]],
        )
        for row in sums.to_pylist()
    ]
    return sorted(groups, key=lambda group: (group.corpus, _position(group.split)))


def _position(split: str | None) -> int:
    return len(manifest.SPLITS) if split is None else manifest.SPLITS.index(split)


def _totals(groups: list[Group]) -> Iterable[Group]:
    """Yield the sums over the corpora for each split, if there are several corpora."""
    if len({group.corpus for group in groups}) < 2:
        return
    for split in sorted({group.split for group in groups}, key=_position):
        blocks = [group for group in groups if group.split == split]
        yield Group(
            corpus="all",
            split=split,
            utterances=sum(group.utterances for group in blocks),
            hours=sum(group.hours for group in blocks),
            speakers=sum(group.speakers for group in blocks),
            emotions=sum((Counter(group.emotions) for group in blocks), Counter()),
        )


def _describe_sizes(groups: list[Group]) -> str:
    rows = [["corpus", "split", "hours", "speakers", "utterances"]]
    for group in [*groups, *_totals(groups)]:
        sizes = [f"{group.hours:,.2f}", f"{group.speakers:,}", f"{group.utterances:,}"]
        rows.append([group.corpus, group.split or _NO_SPLIT, *sizes])
    return lay_out(rows, names=2)


def _describe_emotions(groups: list[Group]) -> str:
    """Lay out utterances by emotion, for the corpora with emotions; return an empty text if there are none."""
    labelled = {group.corpus for group in groups if set(group.emotions) - {NO_EMOTION}}
    groups = [group for group in groups if group.corpus in labelled]
    found = {label for group in groups for label in group.emotions}
    others = sorted(found - {*EMOTIONS, NO_EMOTION})  # from the taxonomy of another version
    labels = [label for label in (*EMOTIONS, *others, NO_EMOTION) if label in found]
    rows = [["corpus", "split", *labels]]
    for group in [*groups, *_totals(groups)]:
        rows.append(
            [group.corpus, group.split or _NO_SPLIT, *(f"{group.emotions.get(label, 0):,}" for label in labels)]
        )
    return lay_out(rows, names=2) if groups else ""


def main(file: Table, as_json: Json = False) -> None:
    """Print what a manifest or a packed folder contains, by corpus and split.

    Prints hours, speakers, utterances and emotions, the coverage of the published corpus, and the utterances that
    ingest refused. For other tables it prints the number of rows by reason.

    \b
    JSON: file; groups: a list of corpus, split (null before split), utterances,
    hours, speakers, emotions {label: utterances}; coverage {corpus: {what:
    [found, published]}}; quarantined {corpus: {reason: utterances}};
    reason_column; reasons {reason: rows}; packed: a list of split, rows,
    continuations, speech_tokens, text_tokens, response_tokens, files, megabytes.
    """
    found = summarise(file)
    print_found(found, describe(found), as_json)
