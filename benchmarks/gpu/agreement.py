"""Count how often two runs of respond choose the same label, by system: `python -m benchmarks.gpu.agreement A B`."""

from pathlib import Path
from typing import Annotated

import typer

from evaluate.predictions import RECOGNITION_SCHEMA
from pipeline.stage import run_stage, say
from pipeline.tables import parquet


def main(
    first: Annotated[Path, typer.Argument(help="A recognition.parquet.")],
    second: Annotated[Path, typer.Argument(help="Another recognition.parquet, of the same rows.")],
) -> None:
    """Print how often two runs of respond choose the same label."""
    keys = ["system", "id"]
    ours, other = (parquet.read(path, RECOGNITION_SCHEMA).to_pandas().set_index(keys) for path in (first, second))
    same = ours.predicted.fillna("none").eq(other.predicted.fillna("none").reindex(ours.index))
    chosen = ours.scores.notna()
    for system, rows in same.groupby("system"):
        say(f"agreement: {system}: {rows.sum()} of {len(rows)}")
    say(f"agreement: label choices: {same[chosen].sum()} of {chosen.sum()}, {same[chosen].mean():.4f}")


if __name__ == "__main__":
    run_stage(main)
