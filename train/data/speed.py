"""The lengths of clips whose speed is changed.

The sampler must know the lengths of an epoch before it forms batches. So they are drawn here for all rows at once, and
a row that is read gets the same length.

Where a slower clip would be longer than Whisper's 30 s or than the budget of a batch, the speed is closer to 1, so that
the clip is exactly as long as allowed.
"""

from dataclasses import dataclass

import numpy as np
import soxr
from jaxtyping import Int
from numpy.typing import NDArray

from pipeline.audio.mono_16k import Samples
from train.data.draws import uniform
from train.data.effects import SpeedParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """The speeds of the rows of a split."""

    params: SpeedParams
    seed: int
    hashes: NDArray[np.uint64]
    """The hash of each row's id (train/data/draws.py)."""
    num_samples: Int[np.ndarray, " n"]
    """The length of each packed clip."""
    longest: Int[np.ndarray, " n"]
    """The length that a clip may get; at least its own."""

    def lengths(self, epoch: int, rows: slice = slice(None)) -> Int[np.ndarray, " m"]:
        """Return the numbers of samples in an epoch, of all rows or of some."""
        hashes, own = self.hashes[rows], self.num_samples[rows].astype(np.int64)
        applied = uniform(hashes, self.seed, epoch, "speed") < self.params.probability
        share = uniform(hashes, self.seed, epoch, "factor")
        factors = self.params.min_factor + share * (self.params.max_factor - self.params.min_factor)
        changed = np.minimum(np.rint(own / factors).astype(np.int64), self.longest[rows])
        return np.where(applied, changed, own)

    def length(self, row: int, epoch: int) -> int:
        """Return the number of samples of a row in an epoch."""
        return int(self.lengths(epoch, slice(row, row + 1))[0])


def resample(samples: Samples, length: int) -> Samples:
    """Return the clip with exactly this number of samples, as if it were played faster or slower."""
    changed: Samples = soxr.resample(samples, len(samples), length, quality="HQ")
    assert len(changed) == length, (len(samples), len(changed), length)
    return changed
