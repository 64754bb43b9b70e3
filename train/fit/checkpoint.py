"""Checkpoints, from which an interrupted training continues exactly.

A checkpoint is a folder named by its step. It holds the trained tensors, the optimizer's state, the step and the logged
records. The order of the data and every random draw follow from the seed and the step (train/data/sampler.py,
train/fit/trainer.py). Each file has a digest, so a damaged checkpoint is noticed and the one before it is used.

The folder of a run is named by a hash of the run's identity (train/fit/identity.py). So a run with changed parameters
starts anew and does not continue another run. The folders are outside the outputs of the DVC stage, because DVC deletes
outputs before a run.
"""

import hashlib
import json
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import xxhash
from safetensors.torch import load_file
from safetensors.torch import save as as_safetensors

from pipeline.stage import replace_folder
from pipeline.tables import parquet
from train.fit import identity
from train.fit.identity import Identity

MODEL_FILE, BEST_FILE, OPTIMIZER_FILE, STATE_FILE, IDENTITY_FILE = (
    "model.safetensors", "best.safetensors", "optimizer.pt", "state.json", "identity.json",
)  # fmt: skip
EARLIER_FILE = "state.pt"  # in which an earlier version kept its only checkpoint


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a training after `step` optimizer steps; all tensors are on the CPU."""

    step: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    records: list[dict[str, float]]
    seconds: float
    """Time of training until then."""
    best: dict[str, torch.Tensor] | None
    """The trained tensors after the best evaluation, if they are kept."""


class Writer:
    """Writes the checkpoints of a run in a thread, one at a time, so that training goes on meanwhile.

    An error of the thread is raised by the next `save` or `wait`.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.unfinished: Future[None] | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Start to write a checkpoint, after the one before is complete."""
        self.wait()
        self.unfinished = self.thread.submit(save, self.folder, checkpoint, self.keep)

    def wait(self) -> None:
        """Wait until the last checkpoint is complete."""
        if self.unfinished is not None:
            self.unfinished.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.thread.shutdown()
        if error is None:
            self.wait()


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Write a complete checkpoint, then remove those of later steps, and all but the last `keep`."""
    path = folder / f"step-{checkpoint.step:08d}"
    partial = folder / f".{path.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, tensors in ((MODEL_FILE, checkpoint.model), (BEST_FILE, checkpoint.best)):
            if tensors is not None:
                with parquet.whole(partial / name) as file:  # save_file does not report a full disk as an OSError
                    file.write_bytes(as_safetensors(tensors))
        with parquet.whole(partial / OPTIMIZER_FILE) as file, file.open("wb") as stream:
            _save_optimizer(checkpoint.optimizer, stream)
        digests = {file.name: _digest(file) for file in sorted(partial.iterdir())}
        state = {
            "step": checkpoint.step,
            "seconds": checkpoint.seconds,
            "digests": digests,
            "records": checkpoint.records,
        }
        with parquet.whole(partial / STATE_FILE) as file:
            file.write_text(json.dumps(state))
        replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    saved = _saved(folder)
    position = saved.index(path)
    for other in saved[: max(0, position + 1 - keep)] + saved[position + 1 :]:
        shutil.rmtree(other, ignore_errors=True)


def _save_optimizer(state: dict[str, Any], stream: Any) -> None:
    try:
        torch.save(state, stream)
    except RuntimeError as error:  # torch raises it in place of the OSError of a full disk
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Read the last complete checkpoint in `folder`, if there is one; describe each later one, which is damaged."""
    damaged = []
    for path in reversed(_saved(folder)):
        try:
            state = json.loads((path / STATE_FILE).read_text())
            step, seconds, records, digests = (state[key] for key in ("step", "seconds", "records", "digests"))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            damaged.append(_damage(path, STATE_FILE))
            continue
        if broken := [name for name, digest in digests.items() if _digest(path / name) != digest]:
            damaged.append(_damage(path, broken[0]))
            continue
        optimizer = torch.load(path / OPTIMIZER_FILE, map_location="cpu", weights_only=True)
        best = load_file(path / BEST_FILE) if BEST_FILE in digests else None
        return Checkpoint(step, load_file(path / MODEL_FILE), optimizer, records, seconds, best), damaged
    return None, damaged


def _damage(path: Path, name: str) -> str:
    return f"{path}: not used, because {name} is damaged or missing"


def _saved(folder: Path) -> list[Path]:
    """Return the checkpoints of a run in the order of their steps."""
    return sorted(folder.glob("step-*"))


def _digest(file: Path) -> str | None:
    """Return the xxh3 hash of a file's content (about 4 GB/s); None if there is no such file."""
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()


def save_identity(folder: Path, of_run: Identity) -> None:
    """Write the identity of a run beside its checkpoints."""
    with parquet.whole(folder / IDENTITY_FILE) as partial:
        partial.write_text(json.dumps(of_run, indent=1))


def passed_over(folder: Path, of_run: Identity) -> list[str]:
    """Describe the checkpoints of each other run of the same alignment, which the run of `folder` does not continue."""
    found = []
    for other in sorted(folder.parent.glob(f"{folder.name.split('-')[0]}-*")):
        if (other / EARLIER_FILE).is_file():
            found.append(f"{other}: not continued, because {EARLIER_FILE} is a checkpoint of an earlier version")
        elif other != folder and _saved(other):
            found.append(f"{other}: not continued, because it is the checkpoint of another run: {_why(other, of_run)}")
    return found


def _why(other: Path, of_run: Identity) -> str:
    try:
        return identity.differences(json.loads((other / IDENTITY_FILE).read_text()), of_run)
    except (OSError, ValueError, AttributeError):
        return f"{IDENTITY_FILE} is missing or damaged, so its parameters are unknown"


def remove(folder: Path) -> None:
    """Remove the checkpoints of a training that has ended."""
    shutil.rmtree(folder, ignore_errors=True)
