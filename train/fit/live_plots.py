"""The losses of a training that runs, as tables that DVC plots: logs/KIND.csv, and logs/KIND.dev.csv for the dev split.

The names are the same for each run, so a plot of one follows the last training of its kind.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO


class LivePlots:
    """Writes each record as a row of one of the two tables."""

    def __init__(self, folder: Path, kind: str, records: Sequence[Mapping[str, float]]) -> None:
        """Begin both tables anew, with the records from before a resume."""
        self.paths = {True: folder / f"{kind}.dev.csv", False: folder / f"{kind}.csv"}
        self.files: dict[bool, TextIO] = {}
        for path in self.paths.values():
            path.unlink(missing_ok=True)
        for record in records:
            self.add(record)

    def add(self, record: Mapping[str, float]) -> None:
        """Write the numbers of a step, or of an evaluation."""
        is_dev = "loss" not in record
        begins = is_dev not in self.files
        if begins:
            self.files[is_dev] = self.paths[is_dev].open("w", newline="")
        writer = csv.DictWriter(self.files[is_dev], list(record))
        if begins:
            writer.writeheader()
        writer.writerow(record)
        self.files[is_dev].flush()

    def close(self) -> None:
        """Close the tables."""
        for file in self.files.values():
            file.close()
