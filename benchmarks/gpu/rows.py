"""Copy some rows of packed folders, for part 4: `python -m benchmarks.gpu.rows data/packed`.

The rows of both stages need at most 8 MB.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pipeline.stage import run_stage, say
from pipeline.tables import packed

MOST_BYTES = 3_600_000  # of audio, for each stage; token ids and the rest of a row need little


def first_rows(rows: packed.Rows) -> Iterator[dict[str, Any]]:
    """Yield rows that have a continuation, up to MOST_BYTES of audio."""
    size = 0
    for row in rows:
        size += len(row["audio"]["bytes"])
        if size > MOST_BYTES:
            return
        if row["response_ids"]:
            yield row


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with packed semantic/ and emotion/.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("benchmarks/gpu/cargo/rows"),
) -> None:
    """Copy some rows of packed folders."""
    for kind in ("semantic", "emotion"):
        with packed.Writer(out / kind, packed.load_shell(folder / kind), 100_000_000, packed.SCHEMA) as writer:
            # shuffled, because the rows of the split are in the order of speakers
            rows = packed.load(folder / kind, "train")
            rows = rows.select(np.random.default_rng(1).permutation(len(rows)))
            writer.write("train", first_rows(rows))
            writer.write("dev", [])
        say(f"rows: {kind}: {writer.counts['train']:,} of {len(rows):,} train rows in {out / kind}")


if __name__ == "__main__":
    run_stage(main)
