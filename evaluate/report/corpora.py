"""What the data are: splits, rejected clips, leaks, continuations."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ValidationError

from pipeline.stage import UserError
from pipeline.tables import manifest, parquet, quarantine
from pipeline.tables.continuations import DROPPED_SCHEMA, KEPT_SCHEMA, LENGTH

LEAK_COLUMNS = pa.schema([(name, pa.string()) for name in ("kind", "corpus", "value", "seen_id", "test_id", "allowed")])
"""The columns of the table of leaks that the report reads (pipeline/leaks)."""
EXCLUDED_COLUMNS = pa.schema([("corpus", pa.string()), ("reason", pa.string())])
_KINDS_OF_AUDIO = ("audio", "near_audio")  # their values are hashes, or the id of the test row


@dataclass(frozen=True, slots=True)
class SplitSize:
    """The size of one split of one corpus in the manifest of a training stage."""

    kind: str
    corpus: str
    split: str
    clips: int
    hours: float
    speakers: int


@dataclass(frozen=True, slots=True)
class Continuations:
    """The numbers of kept and dropped continuations of a training stage.

    `echo_share` and `truncated_share` are computed over the kept continuations.
    """

    kind: str
    kept: int
    dropped: list[tuple[str, int]]
    echo_share: float
    truncated_share: float
    engines: list[str]


class Ingested(BaseModel):
    """What ingest says of a corpus, in manifests/ingested; of its keys, those that the report shows."""

    corpus: str
    rows: int
    quarantined: dict[str, int]
    """Reason: number of clips."""
    coverage: dict[str, tuple[int, int]]
    """Published number of clips and others: found, published."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The clips of a corpus that are not used, by reason in words."""

    corpus: str
    usable: int
    quarantined: list[tuple[str, int]]
    excluded: list[tuple[str, int]]
    """By the stage split."""
    missing: list[str]
    """What the corpus lacks of its published clips."""


@dataclass(frozen=True, slots=True)
class Leak:
    """What test rows of a corpus share with train or dev."""

    corpus: str
    kind: str
    values: int
    """Number of shared speakers, sentences and so on."""
    allowed: str
    example: str


def summarise_splits(kind: str, rows: pa.Table) -> list[SplitSize]:
    """Count clips, hours and speakers of each corpus and split."""
    grouped = rows.group_by(["corpus", "split"]).aggregate(
        [("id", "count"), ("duration_s", "sum"), ("speaker", "count_distinct")]
    )
    splits = [
        SplitSize(
            kind=kind,
            corpus=row["corpus"],
            split=row["split"],
            clips=row["id_count"],
            hours=row["duration_s_sum"] / 3600,
            speakers=row["speaker_count_distinct"],
        )
        for row in grouped.to_pylist()
    ]
    return sorted(splits, key=lambda size: (size.corpus, manifest.SPLITS.index(size.split)))


def read_continuations(folder: Path, kind: str) -> Continuations:
    """Count the kept continuations, and the dropped ones by reason; compute the shares of the kept ones."""
    kept = parquet.read(folder / f"{kind}.kept.parquet", KEPT_SCHEMA)
    dropped = parquet.read(folder / f"{kind}.dropped.parquet", DROPPED_SCHEMA, allow_empty=True)
    return Continuations(
        kind=kind,
        kept=kept.num_rows,
        dropped=_most_first(Counter(dropped["reason"].to_pylist())),
        echo_share=pc.mean(kept["echo"]).as_py(),
        truncated_share=pc.mean(pc.equal(kept["finish_reason"], LENGTH).cast(pa.float64())).as_py(),
        engines=sorted(set(kept["engine"].to_pylist())),
    )


def read_rejected(manifests: Path) -> list[Rejected]:
    """Read what ingest and split left out; [] if neither has told it."""
    excluded: dict[str, Counter[str]] = {}
    if (path := manifests / "excluded.parquet").is_file():
        table = parquet.read(path, EXCLUDED_COLUMNS, allow_empty=True)
        for row in table.group_by(["corpus", "reason"]).aggregate([([], "count_all")]).to_pylist():
            excluded.setdefault(row["corpus"], Counter())[row["reason"]] = row["count_all"]
    return [
        Rejected(
            corpus=one.corpus,
            usable=one.rows,
            quarantined=[
                (quarantine.REASONS.get(reason, reason), number)
                for reason, number in _most_first(Counter(one.quarantined))
            ],
            excluded=_most_first(excluded.get(one.corpus, Counter())),
            missing=[
                f"{key}: {found:,} of {all_of:,}" for key, (found, all_of) in one.coverage.items() if found < all_of
            ],
        )
        for one in _ingested(manifests / "ingested")
    ]


def read_leaks(manifests: Path) -> list[Leak] | None:
    """Read what test shares with train and dev, by corpus and kind; None if the stage leaks has not run."""
    path = manifests / "leaks.parquet"
    if not path.is_file():
        return None
    table = parquet.read(path, LEAK_COLUMNS, allow_empty=True)
    grouped = table.group_by(["corpus", "kind", "allowed"], use_threads=False).aggregate(
        [([], "count_all"), ("value", "first"), ("seen_id", "first"), ("test_id", "first")]
    )
    found = []
    for row in grouped.to_pylist():
        shared = "" if row["kind"] in _KINDS_OF_AUDIO else f"{row['value_first']}: "
        found.append(
            Leak(
                corpus=row["corpus"],
                kind=row["kind"].replace("_", " "),
                values=row["count_all"],
                allowed=row["allowed"] or "forbidden",
                example=f"{shared}{row['seen_id_first']} and {row['test_id_first']}",
            )
        )
    return sorted(found, key=lambda leak: (leak.corpus, leak.kind))


def _ingested(folder: Path) -> Iterator[Ingested]:
    for path in sorted(folder.glob("*.json")):
        try:
            yield Ingested.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, ValidationError):
            raise UserError(f"{path}: expected the summary of a corpus, as ingest writes it") from None


def _most_first(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
