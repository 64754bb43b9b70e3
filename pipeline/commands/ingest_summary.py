"""Read what ingest writes beside a manifest: the quarantine and the summary of each corpus."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa

from pipeline.commands.text_tables import TIE, lay_out
from pipeline.stage import UserError
from pipeline.tables import parquet, quarantine

Coverage = Mapping[str, tuple[int, int]]
"""Maps each counted item, such as "speakers", to the number found and the number published."""

_COUNTED = pa.schema([quarantine.SCHEMA.field(name) for name in ("corpus", "reason")])


def quarantined(path: Path, corpora: Iterable[str]) -> dict[str, dict[str, int]]:
    """Count refused utterances by corpus and reason; leave out corpora without a quarantine file."""
    found = {}
    for corpus in corpora:
        place = _first(quarantine.beside(path.with_name(f"{name}.parquet")) for name in (path.stem, corpus))
        if place is not None:
            rows = parquet.read(place, _COUNTED, allow_empty=True).to_pylist()
            counts = Counter(row["reason"] for row in rows if row["corpus"] == corpus)
            found[corpus] = dict(counts.most_common())
    return found


def coverage(path: Path, corpora: Iterable[str]) -> dict[str, Coverage]:
    """Read the coverage of each corpus; leave out corpora without a summary or without published counts."""
    found = {}
    for corpus in corpora:
        place = _first(path.parent / "ingested" / f"{name}.json" for name in (path.stem, corpus))
        if place is not None and (counts := _read_coverage(place)):
            found[corpus] = counts
    return found


def describe_quarantined(quarantined: Mapping[str, Mapping[str, int]]) -> str:
    """Lay out the refused utterances, one row for each corpus."""
    rows = [["corpus", "quarantined", "reasons"]]
    for corpus, counts in quarantined.items():
        reasons = ", ".join(f"{reason}{TIE}{count:,}" for reason, count in counts.items())
        rows.append([corpus, f"{sum(counts.values()):,}", reasons])
    return lay_out(rows)


def describe_coverage(coverage: Mapping[str, Coverage]) -> str:
    """Lay out whether each corpus is complete; if it is not, list the counts that fall short."""
    rows = [["corpus", "coverage"]]
    for corpus, counts in coverage.items():
        short = (f"{key} {found:,} of {number:,}" for key, (found, number) in counts.items() if found < number)
        words = ", ".join(word.replace(" ", TIE) for word in short)
        rows.append([corpus, f"incomplete: {words}" if words else "complete"])
    return lay_out(rows)


def _first(places: Iterable[Path]) -> Path | None:
    return next((place for place in places if place.is_file()), None)


def _read_coverage(place: Path) -> Coverage:
    try:
        summary = json.loads(place.read_bytes())
        return {key: (found, number) for key, (found, number) in summary.get("coverage", {}).items()}
    except (ValueError, AttributeError, TypeError):
        raise UserError(f"{place}: not a summary of ingest; run ingest again") from None
