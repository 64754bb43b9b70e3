"""Plan the rows of each batch.

The plan is a pure function of (lengths, batch size, seed, epoch). A resumed training skips the batches that it has
already used, without reading them. Rows of similar length share a batch, so there is little padding. Rows and batches
are otherwise in random order.
"""

from collections.abc import Sequence

import numpy as np

# Rows are sorted by length within groups of this many batches. This saves padding and keeps the order random enough.
BATCHES_PER_BUCKET = 8


def plan_epoch(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the batches of an epoch as row numbers; the epoch leaves out the last rows if they do not fill a batch."""
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    batch_size = min(batch_size, len(lengths))
    order = generator.permutation(len(lengths))[: len(lengths) // batch_size * batch_size]
    bucket = batch_size * BATCHES_PER_BUCKET
    batches = []
    for start in range(0, len(order), bucket):
        rows = sorted(order[start : start + bucket].tolist(), key=lambda row: lengths[row])
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def plan(lengths: Sequence[int], batch_size: int, seed: int, num_batches: int) -> list[list[int]]:
    """Return the first `num_batches` batches, over as many epochs as necessary."""
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < num_batches:
        batches += plan_epoch(lengths, batch_size, seed, epoch)
        epoch += 1
    return batches[:num_batches]
