"""Results that are text, written whole or not at all."""

from pathlib import Path

from pipeline.tables import parquet


def write_text(text: str, path: Path) -> None:
    """Write `text` so that `path` is either complete or untouched."""
    with parquet.whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
