"""Which generation of an answer counts, where it is not the first: manifests/choices.csv, kept in git.

The store has every generation; this file says which one the graph takes, so that DVC sees a choice as a change and
another checkout of the same commit makes the same one. A key stands for a transcript, an emotion and a recipe.
"""

import csv
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from pipeline.generate.store import Shelf
from pipeline.stage import UserError
from pipeline.tables import parquet

FILE = Path("manifests/choices.csv")
COLUMNS = ("recipe", "key", "generation")


def read(path: Path, recipe: str) -> dict[bytes, int]:
    """Read the generations chosen of a recipe's answers, by key; raises UserError on a line that is none."""
    return {bytes.fromhex(key): generation for (name, key), generation in _read(path).items() if name == recipe}


def check(path: Path, shelf: Shelf, keys: pa.Array) -> None:
    """Raise UserError where a generation that is chosen of one of the `keys` is not on the shelf."""
    chosen = read(path, shelf.recipe.name)
    lacking = shelf.lacking({key: chosen[key] for key in keys.to_pylist() if key in chosen}) if chosen else set()
    if lacking:
        first = min(lacking)
        raise UserError(
            f"{path}: found {len(lacking):,} choices that {shelf.folder} lacks, such as "
            f"{shelf.recipe.name},{first.hex()},{chosen[first]}; expected the store that has them ($BLSP_STORE), or no "
            "such lines: then the first answers count"
        )


def add(path: Path, recipe: str, generations: Mapping[bytes, int]) -> None:
    """Choose generations, in place of what was chosen for their keys before."""
    with _locked(path):
        chosen = _read(path) | {(recipe, key.hex()): generation for key, generation in generations.items()}
        with parquet.whole(path) as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows((*key, generation) for key, generation in sorted(chosen.items()))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from choosing meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _read(path: Path) -> dict[tuple[str, str], int]:
    if not path.is_file():
        return {}
    chosen = {}
    with path.open(newline="") as file:
        for line, cells in enumerate(csv.reader(file), start=1):
            if line == 1 and tuple(cells) == COLUMNS:
                continue
            try:
                recipe, key, generation = cells
                chosen[recipe, bytes.fromhex(key).hex()] = int(generation)
            except ValueError:
                raise UserError(f"{path}: line {line}: expected {','.join(COLUMNS)}, found {','.join(cells)}") from None
    return chosen
