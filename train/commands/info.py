"""Print what a model folder is: its base models, its data, what was trained and how, its losses and its metrics."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands.options import Json, print_found
from pipeline.commands.text_tables import lay_out_record
from pipeline.params import Alignment
from train.commands.model_metrics import Metrics, find_metrics
from train.fit.run_record import RUN_FILE, ExecutionRecord, RunRecord, read
from train.model_config import load_config

_SHOWN_FIGURES = {"ua": "unweighted accuracy", "kl": "KL", "gap": "KL increase with a wrong clip"}
"""Figures of a system in metrics.json; the others are in the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is known about a model folder."""

    folder: str
    kind: Alignment
    config: dict[str, Any]
    """config.json of the model."""
    run: dict[str, Any] | None
    """run.json; None for a model of an earlier version."""
    execution: dict[str, Any] | None
    """execution.json of the run; None if the logs lack it."""
    metrics: Metrics | None
    """The metrics of this model; None if there are none that are known to be its own."""


def read_info(folder: Path, metrics: Path, logs: Path) -> ModelInfo:
    """Read what is known about a model folder; raises UserError if it is none, or if a record is damaged."""
    config = load_config(folder)
    run = read(folder / RUN_FILE, RunRecord)
    kind: Alignment = "emotion" if config.plora else "semantic"
    execution = None if run is None else ExecutionRecord.of(run, logs)
    return ModelInfo(
        folder=str(folder),
        kind=kind,
        config=config.model_dump(),
        run=None if run is None else run.model_dump(),
        execution=None if execution is None else execution.model_dump(),
        metrics=find_metrics(folder, kind, metrics),
    )


def describe(info: ModelInfo) -> str:
    """Lay out what is known, on one screen."""
    facts = {"emotions": ", ".join(info.config["emotions"])}
    if info.run is None:
        facts |= {name: weights["source"] for name, weights in info.config["models"].items()}
        facts["unknown"] = (
            f"data, trained parameters, steps and losses: the model has no {RUN_FILE}; an earlier version "
        )
        facts["unknown"] += "trained it"
    else:
        facts |= _describe_run(RunRecord.model_validate(info.run))
    if info.execution is not None:
        facts |= _describe_execution(ExecutionRecord.model_validate(info.execution))
    elif info.run is not None:
        facts["unknown"] = f"time, machine and commit: the folder of logs has no record of {info.run['run']}"
    for task, systems in (info.metrics or {}).items():
        facts[_label(task)] = "; ".join(_describe_figures(systems))
    stage = "stage 2, emotion alignment" if info.kind == "emotion" else "stage 1, semantic alignment"
    return lay_out_record(f"{info.folder}: {stage}", facts)


def _describe_run(run: RunRecord) -> dict[str, str]:
    facts = {"run": run.run}
    if run.origin:
        facts["origin"] = ", before it ".join(
            f"{before.run} ({before.rows:,} rows of {before.data})" for before in run.origin
        )
    elif run.kind == "emotion":
        facts["stage 1"] = run.init or "unknown: its model had no record"
    for name, model in run.models.items():
        revision = f", revision {model.revision}" if model.revision else ""
        weights = "" if model.sha256 else f" ({model.weights.removeprefix(model.source).strip()})"
        facts[name] = model.source + revision + (f" (SHA-256 {model.sha256[:12]}…)" if model.sha256 else weights)
    data = run.data
    facts["data"] = f"{data.folder}, fingerprint {data.fingerprint}"
    for name, split in (("train", data.train), ("dev", data.dev)):
        if split is not None:
            corpora = ", ".join(f"{corpus} {count:,}" for corpus, count in split.corpora.items())
            facts[name] = f"{split.rows:,} rows, {split.hours:,.1f} h: {corpora}"
    train = data.train
    facts["continuations"] = f"{train.continuations:,} keys, hash {train.continuations_hash}"
    facts["trained"] = ", ".join(f"{piece} {count:,}" for piece, count in run.trained.parameters.items())
    facts["trained"] += f"; {sum(run.trained.parameters.values()):,} parameters"
    if (plora := run.trained.plora) is not None:
        facts["P-LoRA"] = f"rank {plora.rank}, alpha {plora.alpha:g}, on {', '.join(plora.targets)}"
    facts["parameters"] = _listed(run.parameters)
    facts["steps"] = f"{run.steps:,} in {run.epochs:g} epochs"
    for name, loss in run.dev_losses.items():
        facts[_label(name)] = f"{loss.last:.4g} at the end; lowest {loss.best:.4g} at step {loss.best_step:,}"
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return facts


def _describe_execution(execution: ExecutionRecord) -> dict[str, str]:
    devices = f"{execution.processes} x {execution.device}" if execution.processes > 1 else execution.device
    return {
        "training": f"{execution.hours:,.2f} h on {devices}, ended on {execution.date}, Python {execution.python}",
        "code": execution.commit or "unknown: it was in no git repository",
    }


def _describe_figures(systems: dict[str, dict[str, float]]) -> list[str]:
    return [
        f"{_label(system)}: {_SHOWN_FIGURES[name]} {value:.3f}"
        for system, figures in systems.items()
        for name, value in figures.items()
        if name in _SHOWN_FIGURES
    ]


def _listed(values: dict[str, Any], prefix: str = "") -> str:
    """Name the parameters that are set, those of sections with a dot."""
    shown = []
    for key, value in values.items():
        if isinstance(value, dict):
            shown.append(_listed(value, f"{prefix}{key}."))
        elif value is not None:
            shown.append(f"{prefix}{key} {value}")
    return ", ".join(shown)


def _label(name: str) -> str:
    return name.replace("_", " ")


def main(
    folder: Annotated[Path, typer.Argument(help="A model folder, such as models/emotion.", show_default=False)],
    metrics: Annotated[Path, typer.Option(help="The metrics, shown if dvc.lock says that they are of this model.")] = (
        Path("results/metrics.json")
    ),
    logs: Annotated[Path, typer.Option(help="Folder of the logs of training.")] = Path("logs"),
    as_json: Json = False,
) -> None:
    """Print what a model folder is.

    Prints the base models, the packed data and its corpora, what was trained,
    the parameters, the losses on the dev split, the versions of the libraries,
    and, if the logs are here, the time of training, the machine and the commit.

    \b
    JSON: folder; kind; config: config.json; run: run.json, or null; execution:
    execution.json, or null; metrics: those of this model, or null.
    """
    found = read_info(folder, metrics, logs)
    print_found(found, describe(found), as_json)
