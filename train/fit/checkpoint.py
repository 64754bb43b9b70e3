"""Checkpoints, from which an interrupted training continues exactly.

A checkpoint holds the trained tensors, the optimizer's state, the step and the logged records. The order of the data
and every random draw follow from the seed and the step (train/data/sampler.py, train/fit/loop.py). The folder is named
by a hash of all inputs that affect the result of the run. So a run with changed parameters starts anew and does not
continue another run. The folders are outside the outputs of the DVC stage, because DVC deletes outputs before a run.
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
    """Return a short hash of the JSON of `values`, which are the inputs that affect a run."""
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
    """The state of a training after `step` optimizer steps."""

    step: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    records: list[dict[str, float]]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a complete checkpoint in place of the earlier one; only the main process calls this."""
    state = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    with parquet.whole(folder / STATE_FILE) as partial, partial.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch raises it in place of the OSError of a full disk
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load(folder: Path) -> Checkpoint | None:
    """Read the checkpoint in `folder`; return None if there is none."""
    if not (folder / STATE_FILE).is_file():
        return None
    return Checkpoint(**torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True))


def remove(folder: Path) -> None:
    """Remove the checkpoint of a training that has ended."""
    shutil.rmtree(folder, ignore_errors=True)
