"""Pool the predictions of the runs of a protocol's folds, and score them as one test.

python -m evaluate pool iemocap-loso-4 runs/paper-iemocap-loso-4-session-? --output runs/paper-iemocap-loso-4
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
import yaml

from evaluate.metrics import ScoreParams
from evaluate.output import write_text
from evaluate.predictions import RECOGNITION_SCHEMA, read_recognition
from evaluate.protocols.definition import Protocol, check_folded, load_protocol
from evaluate.protocols.scoring import describe, score_rows
from evaluate.protocols.selection import RunFacts, SelectedRows, read_facts, select, speakers_of
from pipeline.params import load, load_yaml
from pipeline.stage import UserError, say
from pipeline.tables import parquet

POOLED_SCHEMA = RECOGNITION_SCHEMA.append(pa.field("fold", pa.string()))
RECOGNITION = Path("results/predictions/emotion/recognition.parquet")
_MAY_DIFFER = ("split", "report", "processes")
"""Sections of params.yaml in which the runs may differ; the speakers of train and test are checked by themselves."""


@dataclass(frozen=True, slots=True)
class FoldRun:
    """A run of one fold, and the rows that it tests."""

    folder: Path
    fold: str
    facts: RunFacts
    rows: SelectedRows


def read_run(protocol: Protocol, folder: Path) -> FoldRun:
    """Read the predictions of a run in runs/; raises UserError if it does not test a fold as the protocol says."""
    params_file = folder / "params.yaml"
    facts = read_facts(params_file, folder / "manifests")
    rows = select(protocol, read_recognition(folder / RECOGNITION, facts.classes), facts)
    if rows is None:
        raise UserError(f"{folder}: found no predictions of the reader {protocol.reader}, expected those of a fold")
    tested = speakers_of(rows.predictions)
    folds = [name for name, speakers in (protocol.folds or {}).items() if tested & set(speakers)]
    if len(folds) != 1:
        raise UserError(f"{folder}: found test rows of the folds {', '.join(folds)}, expected those of one")
    trained = facts.trained.get(rows.corpus, ())
    for speaker in (protocol.folds or {})[folds[0]]:
        if speaker in trained:
            raise UserError(
                f"{folder}: found {speaker} of the fold {folds[0]} in train or dev, expected it only in test"
            )
    return FoldRun(folder, folds[0], facts, rows)


def pool(protocol: Protocol, runs: Sequence[FoldRun]) -> SelectedRows:
    """Join the test rows of all folds, sorted by id, with the column `fold`.

    Raises UserError if a fold is missing or tested twice, or if the runs do not have the same parameters.
    """
    by_fold: dict[str, FoldRun] = {}
    for run in runs:
        other = by_fold.setdefault(run.fold, run)
        if other is not run:
            found = f"{other.folder} and {run.folder}"
            raise UserError(f"{protocol.name}: found the fold {run.fold} twice, in {found}; expected each clip once")
    for fold in protocol.folds or {}:
        if fold not in by_fold:
            raise UserError(f"{protocol.name}: found no run of the fold {fold}, expected one of every fold")
    _check_alike(runs)
    tables = [
        run.rows.predictions.append_column("fold", pa.array([run.fold] * len(run.rows.predictions))) for run in runs
    ]
    table = pa.concat_tables(tables).sort_by([("id", "ascending"), ("system", "ascending")])
    left_out = sum(run.rows.left_out for run in runs)
    return SelectedRows(runs[0].rows.corpus, table, sum(run.rows.num_rows for run in runs), left_out)


def _check_alike(runs: Sequence[FoldRun]) -> None:
    first = runs[0]
    expected = _params(first.folder)
    for run in runs[1:]:
        found = _params(run.folder)
        for name in sorted(expected.keys() | found.keys()):
            if name not in _MAY_DIFFER and expected.get(name) != found.get(name):
                raise UserError(f"{run.folder}/params.yaml: {name}: expected it as in {first.folder}/params.yaml")


def _params(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = load_yaml(folder / "params.yaml", yaml.SafeLoader)
    return values


def main(
    protocol: Annotated[str, typer.Argument(help="Name of a protocol with folds, or path of its file.")],
    runs: Annotated[list[Path], typer.Argument(help="Folders of the runs, one for each fold.")],
    output: Annotated[Path, typer.Option(help="Folder for recognition.parquet and metrics.json.")],
) -> None:
    """Pool the runs of a protocol's folds, and score them as one."""
    wanted = load_protocol(protocol)
    check_folded(wanted)
    read = [read_run(wanted, folder) for folder in runs]
    pooled = pool(wanted, read)
    confidence = load(runs[0] / "params.yaml", "score", ScoreParams).confidence
    scores = score_rows(wanted, pooled, read[0].facts.classes, confidence)
    parquet.write(pooled.predictions.cast(POOLED_SCHEMA), output / "recognition.parquet")
    write_text(json.dumps({wanted.name: scores}, indent=2) + "\n", output / "metrics.json")
    say(f"pool: {len(read)} folds: {describe(wanted, scores)}")
