"""The random numbers of augmentation.

Each number is a pure function of (seed, epoch, id of the row, name of the draw). So all machines, processes and workers
draw the same, in any order and after a resume. A change of one effect does not change the draws of the others. No
global generator is used.

The id is hashed to 64 bits by xxh3, and so are seed, epoch and name together. The sum of both hashes goes through the
finaliser of SplitMix64 (Steele, Lea and Flood, 2014, doi:10.1145/2714064.2660195). Its upper 53 bits are the number. A
million numbers take a tenth of a second.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

_IDS_AT_ONCE = 10_000


def hash_ids(ids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return the hashes of a column of ids; a million ids take about a second."""
    return np.fromiter((_hash(row_id) for row_id in _strings(ids)), np.uint64, len(ids))


def hash_id(row_id: str) -> NDArray[np.uint64]:
    """Return the hash of one id."""
    return np.array([_hash(row_id)], np.uint64)


def uniform(hashes: NDArray[np.uint64], seed: int, epoch: int, name: str) -> NDArray[np.float64]:
    """Return a number of [0, 1) for each hash of an id."""
    mixed = hashes + np.uint64(_hash(f"{seed} {epoch} {name}"))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode())


def _strings(column: pa.ChunkedArray) -> Iterator[str]:
    batches: Iterable[pa.RecordBatch] = pa.table({"id": column}).to_batches(_IDS_AT_ONCE)
    for batch in batches:
        yield from batch["id"].to_pylist()
