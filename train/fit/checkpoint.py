"""Checkpoints, from which an interrupted training continues exactly.

A checkpoint holds the trained tensors, the optimizer's state, the step and the logged records. The order of the data
and every random draw follow from the seed and the step (train/data/sampler.py, train/fit/loop.py). The folder is named
by a hash of the run's identity (train/fit/identity.py). So a run with changed parameters starts anew and does not
continue another run. The folders are outside the outputs of the DVC stage, because DVC deletes outputs before a run.
"""

import json
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from pipeline.tables import parquet
from train.fit import identity
from train.fit.identity import Identity

STATE_FILE, IDENTITY_FILE = "state.pt", "identity.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a training after `step` optimizer steps."""

    step: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    records: list[dict[str, float]]
    seconds: float = 0.0
    """Time of training until then."""


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


def save_identity(folder: Path, of_run: Identity) -> None:
    """Write the identity of a run beside its checkpoint."""
    with parquet.whole(folder / IDENTITY_FILE) as partial:
        partial.write_text(json.dumps(of_run, indent=1))


def passed_over(folder: Path, of_run: Identity) -> list[str]:
    """Describe each checkpoint of another run of the same alignment, which the run of `folder` does not continue."""
    found = []
    for other in sorted(folder.parent.glob(f"{folder.name.split('-')[0]}-*")):
        if other != folder and (other / STATE_FILE).is_file():
            found.append(f"{other}: not continued, because it is the checkpoint of another run: {_why(other, of_run)}")
    return found


def _why(other: Path, of_run: Identity) -> str:
    try:
        return identity.differences(json.loads((other / IDENTITY_FILE).read_text()), of_run)
    except (OSError, ValueError, AttributeError):
        return f"{IDENTITY_FILE} is missing or damaged, so its parameters are unknown"


def remove(folder: Path) -> None:
    """Remove the checkpoint of a training that has ended."""
    shutil.rmtree(folder, ignore_errors=True)
