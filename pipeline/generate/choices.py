"""manifests/choices.csv lists the stored attempts to use instead of the first attempt. It is kept in git.

The store holds every attempt. This file says which attempt the DVC pipeline uses. So DVC sees a choice as a change, and
another checkout of the same commit makes the same choice. The columns are the name of the signature (`recipe`), the key
of the answer, and the number of the attempt (`generation`).
"""

import csv
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from pipeline.generate.store import AnswerStore
from pipeline.stage import UserError
from pipeline.tables import parquet

FILE = Path("manifests/choices.csv")
COLUMNS = ("recipe", "key", "generation")


def read(path: Path, signature: str) -> dict[bytes, int]:
    """Read the chosen attempts of a signature's answers by key; raises UserError on a malformed line."""
    return {bytes.fromhex(key): attempt for (name, key), attempt in _read(path).items() if name == signature}


def check(path: Path, store: AnswerStore, keys: pa.Array) -> None:
    """Raise UserError if the store lacks an attempt that is chosen for one of the `keys`."""
    chosen = read(path, store.signature.name)
    lacking = store.lacking({key: chosen[key] for key in keys.to_pylist() if key in chosen}) if chosen else set()
    if lacking:
        first = min(lacking)
        raise UserError(
            f"{path}: {len(lacking):,} attempts chosen here are not in the store {store.folder}, for example "
            f"{store.signature.name},{first.hex()},{chosen[first]}; set $BLSP_STORE to a store that has them, "
            "or delete these lines to use the first attempts"
        )


def add(path: Path, signature: str, attempts: Mapping[bytes, int]) -> None:
    """Choose attempts by key; they replace earlier choices."""
    with _locked(path):
        chosen = _read(path) | {(signature, key.hex()): attempt for key, attempt in attempts.items()}
        with parquet.whole(path) as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows((*key, attempt) for key, attempt in sorted(chosen.items()))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing choices meanwhile."""
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
                signature, key, attempt = cells
                chosen[signature, bytes.fromhex(key).hex()] = int(attempt)
            except ValueError:
                raise UserError(f"{path}: line {line}: expected {','.join(COLUMNS)}, found {','.join(cells)}") from None
    return chosen
