"""Which rows make a batch.

The plan of all batches is a pure function of (lengths, batch size, seed, epoch): to resume at step n
is to take the plan from its nth batch on, with nothing read twice. Rows of like length stand together,
so that little is padded, yet rows and batches come in random order.
"""

from collections.abc import Sequence

import numpy as np

BATCHES_PER_BUCKET = 8  # sort by length within this many batches: enough to save padding, few enough to mix


def plan_epoch(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the batches of an epoch as row numbers; the last rows that fill no batch wait for another epoch."""
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
    """Return the first `num_batches` batches of as many epochs as that takes."""
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < num_batches:
        batches += plan_epoch(lengths, batch_size, seed, epoch)
        epoch += 1
    return batches[:num_batches]
