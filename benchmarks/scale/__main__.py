"""Measure time and memory of each stage on many rows: python -m benchmarks.scale DIR [--rows 1000000]

DIR needs about 6 GB for a million rows; 300,000 more rows are packed. Clips have 0.1 to 0.55 s, and many rows share a
clip. Each stage runs on a tenth of the rows and on all rows, so the ratio of its CPU times is near 10 if it is linear.
No LLM runs: of generate only the plan is made. The results file is written only for a million rows.
"""

import json
import os
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results_file import FOLDER, ROOT, recorded
from benchmarks.scale.data import make_inputs
from benchmarks.scale.stages import STAGES
from pipeline.stage import UserError, run_stage, say

ALL_ROWS = 1_000_000
LEAST_ROWS = 1_000  # a tenth of them has ten speakers and one test row of each emotion

Figures = dict[str, Any]


def measure(folder: Path, num_rows: int, params_file: Path) -> Figures:
    """Run the stages on made-up rows; return seconds and GiB of each."""
    shutil.rmtree(folder, ignore_errors=True)
    make_inputs(folder, num_rows, params_file)
    try:
        return {name: run(name, folder) for name in STAGES}
    finally:
        shutil.rmtree(folder)


def run(name: str, folder: Path) -> Figures:
    """Run a stage in its own process; raises UserError if it fails."""
    command = [sys.executable, "-m", "benchmarks.scale.stages", name, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = ["no message", *done.stderr.splitlines()][-1]
        raise UserError(f"{name}: exit status {done.returncode}: {last}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    say(f"{name:<10} {figures['wall_s']:8.1f} s {figures['peak_gib']:6.2f} GiB")
    return figures


def compare(few: Figures, many: Figures) -> Figures:
    """Return the figures of both sizes by stage, and the ratio of their times."""
    return {
        name: {
            "tenth_wall_s": few[name]["wall_s"],
            "tenth_peak_gib": few[name]["peak_gib"],
            "tenth_cpu_s": few[name]["cpu_s"],
            "all_wall_s": many[name]["wall_s"],
            "all_peak_gib": many[name]["peak_gib"],
            "all_cpu_s": many[name]["cpu_s"],
            "time_ratio": many[name]["cpu_s"] / few[name]["cpu_s"],
        }
        for name in many
    }


def main(
    folder: Annotated[Path, typer.Argument(help="Folder for the made-up data; it is removed afterwards.")],
    rows: Annotated[int, typer.Option(min=LEAST_ROWS, help="Rows of the manifest of read speech.")] = ALL_ROWS,
    params_file: Annotated[Path, typer.Option("--params", help="Parameters and models.")] = Path("params.yaml"),
    results: Annotated[Path, typer.Option(help="Folder of the results file.")] = FOLDER,
) -> None:
    """Measure time and memory of each stage on a tenth of the rows and on all of them."""
    keep: AbstractContextManager[Figures] = recorded("scale", results) if rows == ALL_ROWS else nullcontext({})
    with keep as figures:
        sizes = []
        for count in (rows // 10, rows):
            say(f"{count:,} rows")
            sizes.append(measure(folder / f"{count}", count, params_file))
        figures |= {"rows": rows, **compare(*sizes)}
        for name, found in compare(*sizes).items():
            say(f"{name:<10} {found['time_ratio']:5.1f} times as long, {found['all_peak_gib']:.2f} GiB at most")


if __name__ == "__main__":
    run_stage(main)
