"""The state from which an interrupted training continues exactly.

A checkpoint holds the trained tensors, the optimizer and the step; the order of the data and every
random draw follow from the step (train/data/sampler.py, train/fit/loop.py). Its folder is named after a
fingerprint of all that shapes the run, so that changed parameters start anew instead of continuing
something else. Folders lie outside the outputs of the DVC stage, since DVC deletes those before a run.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import xxhash

from pipeline.tables import parquet

STATE_FILE = "state.pt"


def fingerprint(*values: Any) -> str:
    """Return a short name for everything that shapes a run, from values that JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]


def file_digest(file: Path) -> str:
    """Return the xxh3 hash of a file's content (about 4 GB/s)."""
    hasher = xxhash.xxh3_128()
    with file.open("rb") as stream:
        while block := stream.read(1 << 24):
            hasher.update(block)
    return hasher.hexdigest()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved after `step` optimizer steps."""

    step: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    records: list[dict[str, float]]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole, replacing the one before; call on the main process."""
    state = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    with parquet.whole(folder / STATE_FILE) as partial, partial.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's own, about the end of a file that a full disk has cut
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load(folder: Path) -> Checkpoint | None:
    """Read the checkpoint in `folder`, if there is one."""
    if not (folder / STATE_FILE).is_file():
        return None
    return Checkpoint(**torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True))


def remove(folder: Path) -> None:
    """Remove a checkpoint whose training has ended."""
    shutil.rmtree(folder, ignore_errors=True)
