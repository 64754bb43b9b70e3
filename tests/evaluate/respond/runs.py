"""A run of the stage respond, and its tables."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from evaluate.respond import __main__ as respond
from pipeline.params import Alignment


def run(kind: Alignment, data: Path, model: Path, output: Path, params_file: Path) -> dict[str, pa.Table]:
    respond.main(kind=kind, data=data, model=model, output=output, params_file=params_file)
    return {file.name: pq.read_table(file) for file in output.iterdir()}
