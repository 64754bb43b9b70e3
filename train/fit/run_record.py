"""What is written about a training: run.json in the model folder, and execution.json in logs/RUN.

run.json holds what follows from the inputs of the run. So an equal training writes equal bytes: the model folder is an
output of a DVC stage, and stages that read it do not run again. Time, machine and commit differ from training to
training, so they are in execution.json, outside the outputs. The name of the run joins the two.
"""

import json
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.params import Alignment
from pipeline.stage import UserError
from pipeline.tables import parquet

RUN_FILE, EXECUTION_FILE, LOSSES_FILE = "run.json", "execution.json", "losses.jsonl"

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """A part of a record: every key without a default is there, and no other."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseModelRecord(Record):
    """A base model: its section of params.yaml, and what its weights are."""

    source: str
    revision: str | None
    sha256: str | None
    weights: str
    """Name of the weights, with their commit, checksum or hash (pipeline/weights/source.py)."""


class SplitRecord(Record):
    """The rows of a split that training read: those with a continuation."""

    rows: int
    hours: float
    corpora: dict[str, int]
    """Rows of each corpus."""
    continuations: int
    """Keys of continuations, one for each row; rows that were packed without a store have none."""
    continuations_hash: str
    """xxh3 of the sorted keys."""


class DataRecord(Record):
    """The packed data."""

    folder: str
    """Name of the folder, without its path."""
    fingerprint: str
    """Hash of all its shards (pipeline/tables/packed.py)."""
    train: SplitRecord
    dev: SplitRecord | None
    """None if the split has no row with a continuation."""


class PloraRecord(Record):
    """P-LoRA."""

    rank: int
    alpha: float
    targets: list[str]
    """Names of the linear layers that have it, without their places in the LLM."""


class TrainedRecord(Record):
    """What was trained."""

    parameters: dict[str, int]
    """Trained parameters of adapter, emotion head, encoder and P-LoRA; what is absent was not trained."""
    plora: PloraRecord | None


class DevLoss(Record):
    """A loss on the dev split, in the units of losses.jsonl."""

    last: float
    best: float
    best_step: int


class OriginRecord(Record):
    """A training that this model continues, or started from."""

    run: str
    data: str
    """Name of the folder of its packed data."""
    rows: int
    """Rows of its train split."""


class RunRecord(Record):
    """The content of run.json."""

    kind: Alignment
    run: str
    """Name of the run, such as emotion-0123456789ab: the kind, and the fingerprint of its identity."""
    init: str | None
    """Name of the run of the model that this one started from; None if it started from base weights, and if that model
    has no run.json."""
    origin: list[OriginRecord] = []
    """The trainings before this one, the last one first; empty in a record by an earlier version."""
    models: dict[str, BaseModelRecord]
    """encoder and llm."""
    emotions: list[str]
    data: DataRecord
    trained: TrainedRecord
    parameters: dict[str, Any]
    """The section fit.KIND, without the parameters that have no effect on the trained weights."""
    versions: dict[str, str]
    """Of the libraries that have such an effect."""
    steps: int
    epochs: float
    dev_losses: dict[str, DevLoss]
    """By the name in losses.jsonl, such as dev_kl; empty without a dev split."""


class ExecutionRecord(Record):
    """The content of execution.json: what may differ between equal trainings."""

    run: str
    date: str
    """UTC day of the end."""
    hours: float
    """Time of training, with that of the warm start, summed over all parts of a resumed run."""
    device: str
    """Of the last part, as `processes`, `python` and `commit`."""
    processes: int
    python: str
    commit: str | None
    """git commit of the code, with -dirty if the code differs from it; None outside a repository."""
    parameters: dict[str, Any]
    """The parameters of fit.KIND that have no effect on the trained weights."""

    @classmethod
    def of(cls, run: RunRecord, logs: Path) -> Self | None:
        """Read the record of a run below the folder of logs; None if it is not there."""
        return read(logs / run.run / EXECUTION_FILE, cls)


def write(record: Record, file: Path) -> None:
    """Write a record as JSON."""
    with parquet.whole(file) as partial:
        partial.write_text(json.dumps(record.model_dump(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(file: Path, kind: type[R]) -> R | None:
    """Read a record; None if there is none. Raises UserError if it is damaged, or of another version of the code."""
    if not file.is_file():
        return None
    try:
        return kind.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        place, reason = "", str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            place, reason = "".join(f"{key}: " for key in first["loc"]), first["msg"]
        raise UserError(f"{file}: {place}{reason}; expected the record of a training by this version") from None


def dev_losses(records: list[dict[str, float]]) -> dict[str, DevLoss]:
    """Return the last and the lowest of each dev loss; the earliest one of equal losses."""
    found: dict[str, DevLoss] = {}
    for record in records:
        for name, loss in record.items():
            if not name.startswith("dev_"):
                continue
            best = found.get(name)
            is_best = best is None or loss < best.best
            found[name] = DevLoss(
                last=loss,
                best=loss if best is None or is_best else best.best,
                best_step=int(record["step"]) if best is None or is_best else best.best_step,
            )
    return found
