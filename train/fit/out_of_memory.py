"""Memory that runs out during training ends it with one line: where, on which clips, and what to change."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from pipeline.stage import UserError
from train.fit.preflight import advice, describe_size
from train.model import Batch

EXIT_STATUS = os.EX_OSERR
"""71 of sysexits.h: the system gave no memory. The same command would end in the same way."""
_MESSAGES = ("out of memory", "DefaultCPUAllocator", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch's RuntimeErrors say where no memory is left; they have no class of their own on a CPU."""
_MOST_SAID = 200  # characters of torch's message


class NoMemoryLeftError(UserError):
    """There is no memory for a step or an evaluation."""


@contextmanager
def stops_without_memory(where: str, batches: Sequence[Batch], checkpoints_layers: bool) -> Iterator[None]:
    """Raise NoMemoryLeftError in place of an error that says that no memory is left.

    `where` names the step; `batches` are those that it computes, on the CPU, if they are known.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise NoMemoryLeftError(f"{where}: {describe(error, batches, checkpoints_layers)}") from None


def ran_out(error: Exception) -> bool:
    """Return whether an error says that no memory is left."""
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or any(message in str(error) for message in _MESSAGES)


def describe(error: Exception, batches: Sequence[Batch], checkpoints_layers: bool) -> str:
    """Say what was found, the largest batch with its clips, and what to change."""
    told = str(error).strip().partition("\n")[0][:_MOST_SAID] or type(error).__name__
    largest = max(batches, key=lambda batch: batch.num_positions, default=None)
    of_batch = ""
    if largest is not None:
        clips = ", ".join(largest.ids) or "unknown"
        of_batch = f"; the largest batch has {describe_size(largest)}; clips of the batch: {clips}"
    return f"memory has run out ({told}){of_batch}; {advice(checkpoints_layers)}; the last checkpoint is kept"
