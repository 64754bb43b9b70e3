"""The states of a frozen encoder on disk, so that no epoch of stage 1 computes them again.

    FOLDER/train-00000.states    a shard: the states of some rows, one after another, then a hash of those of each row
    FOLDER/train-00001.states
    FOLDER/dev-00000.states

Which rows a shard holds, and where the states of a row begin, follows from the lengths of the clips, so there is no
index. A shard is written under a temporary name and renamed when it is complete. So a run that was killed goes on after
its last complete shard. A row is read by two seeks and checked by its hash; no file stays open.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.audio.speech_tokens import HOP_SAMPLES, MAX_MEL_FRAMES, halved
from pipeline.stage import UserError
from pipeline.tables import packed, parquet

SHARD_BYTES = 2**28
"""States of a shard; a row that begins before this number of bytes is in the shard."""
_HASH_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderStates:
    """The states of the rows of a split."""

    folder: Path
    split: str
    width: int
    dtype: torch.dtype
    starts: Int[np.ndarray, " n+1"]
    """The first state of each row, counted over the split, and the end of the last row."""
    shards: Int[np.ndarray, " p+1"]
    """The first row of each shard, and the number of rows."""

    @staticmethod
    def of(folder: Path, rows: packed.Rows, width: int, dtype: torch.dtype) -> "EncoderStates":
        """Return the states of packed rows in a folder, which may lack some or all of them."""
        samples = rows.column("num_samples").to_numpy().astype(np.int64)
        starts = np.concatenate([[0], halved(np.minimum(samples // HOP_SAMPLES, MAX_MEL_FRAMES)).cumsum()])
        shard_of = starts[:-1] * width * dtype.itemsize // SHARD_BYTES
        shards = np.append(np.flatnonzero(np.diff(shard_of, prepend=-1)), len(rows))
        return EncoderStates(folder=folder, split=rows.split, width=width, dtype=dtype, starts=starts, shards=shards)

    def file(self, shard: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"{self.split}-{shard:05d}.states"

    def rows(self, shard: int) -> range:
        """Return the rows of a shard."""
        return range(int(self.shards[shard]), int(self.shards[shard + 1]))

    def size(self, shard: int) -> int:
        """Return the bytes of a shard."""
        rows = self.rows(shard)
        return self._bytes(rows.start, rows.stop) + _HASH_BYTES * len(rows)

    def missing(self) -> list[int]:
        """Return the shards that are not there; raises UserError if one has another size than it should."""
        missing = []
        for shard in range(len(self.shards) - 1):
            if not (file := self.file(shard)).is_file():
                missing.append(shard)
            elif (size := file.stat().st_size) != self.size(shard):
                raise UserError(
                    f"{file}: found {size:,} bytes, expected {self.size(shard):,}; the file is damaged, remove it and "
                    "run again"
                )
        return missing

    def write(self, shard: int, states: Iterable[Float[Tensor, "t e"]]) -> None:
        """Write a shard; `states` are those of its rows in their order, and are held one at a time."""
        hashes = []
        with parquet.whole(self.file(shard)) as partial, partial.open("wb") as stream:
            for row, of_row in zip(self.rows(shard), states, strict=True):
                assert of_row.shape == (self.starts[row + 1] - self.starts[row], self.width)
                content = of_row.to(self.dtype).contiguous().view(torch.uint8).numpy().tobytes()
                hashes.append(xxhash.xxh3_64_digest(content))
                stream.write(content)
            stream.write(b"".join(hashes))

    def read(self, row: int) -> Float[Tensor, "t e"]:
        """Return the states of a row; raises UserError if they are not those that were written."""
        shard = int(np.searchsorted(self.shards, row, side="right")) - 1
        rows, file = self.rows(shard), self.file(shard)
        content = bytearray(self._bytes(row, row + 1))
        with file.open("rb") as stream:
            stream.seek(self._bytes(rows.start, row))
            stream.readinto(content)
            stream.seek(self._bytes(rows.start, rows.stop) + _HASH_BYTES * (row - rows.start))
            expected = stream.read(_HASH_BYTES)
        if xxhash.xxh3_64_digest(content) != expected:
            raise UserError(
                f"{file}: found other states of row {row} of {self.split} than were written, expected the same; the "
                "file is damaged, remove it and run again"
            )
        return torch.frombuffer(content, dtype=self.dtype).view(-1, self.width)

    def _bytes(self, first: int, stop: int) -> int:
        return int(self.starts[stop] - self.starts[first]) * self.width * self.dtype.itemsize
