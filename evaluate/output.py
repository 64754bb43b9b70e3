"""Write text results, complete or not at all."""

from pathlib import Path

from pipeline.tables import parquet


def write_text(text: str, path: Path) -> None:
    """Write `text` to `path`; after a failure, `path` is unchanged."""
    with parquet.whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
