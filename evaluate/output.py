"""Results that are text, written whole or not at all."""

import os
from pathlib import Path


def write_text(text: str, path: Path) -> None:
    """Write `text` so that `path` is either complete or untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
