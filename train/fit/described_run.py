"""Describe a finished training (train/fit/run_record.py)."""

import platform
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc
import torch
import xxhash
from accelerate import Accelerator

from pipeline.audio.mono_16k import SAMPLE_RATE_HZ
from pipeline.tables import packed, parquet
from pipeline.weights.source import Weights
from train.commit import commit_of
from train.fit.data import Data
from train.fit.identity import Identity, run_name, shaping, versions, without_effect
from train.fit.params import FitParams, SemanticFitParams
from train.fit.run_record import (
    RUN_FILE,
    BaseModelRecord,
    DataRecord,
    ExecutionRecord,
    OriginRecord,
    PloraRecord,
    RunRecord,
    SplitRecord,
    TrainedRecord,
    dev_losses,
    read,
)
from train.model import SpeechLLM
from train.model_config import ModelConfig

PIECES = {"adapter": "adapter", "head": "emotion head", "encoder": "encoder", "llm": "P-LoRA"}
"""A module of the model -> what users call its trained weights."""


def describe_run(
    settings: FitParams,
    config: ModelConfig,
    of_run: Identity,
    init: Path | None,
    data: Data,
    model: SpeechLLM,
    records: list[dict[str, float]],
    num_steps: int,
) -> RunRecord:
    """Return what follows from the inputs of the run; `records` are those of losses.jsonl."""
    epochs = settings.epochs
    if settings.max_steps is not None:
        epochs = min(epochs, round(num_steps / len(data.sampler.plan(epoch=0)), 3))
    of_init = None if init is None else read(init / RUN_FILE, RunRecord)
    return RunRecord(
        kind="semantic" if isinstance(settings, SemanticFitParams) else "emotion",
        run=run_name(of_run),
        init=None if of_init is None else of_init.run,
        origin=[] if of_init is None else [describe_origin(of_init), *of_init.origin],
        models={
            "encoder": describe_weights(config.models.encoder, of_run["weights of the encoder"]),
            "llm": describe_weights(config.models.llm, of_run["weights of the LLM"]),
        },
        emotions=config.emotions,
        data=describe_data(data),
        trained=describe_trained(model),
        parameters=shaping(settings),
        versions=versions(settings),
        steps=num_steps,
        epochs=epochs,
        dev_losses=dev_losses(records),
    )


def describe_origin(of_run: RunRecord) -> OriginRecord:
    """Return what a later model tells of the training of this record."""
    return OriginRecord(run=of_run.run, data=of_run.data.folder, rows=of_run.data.train.rows)


def describe_weights(weights: Weights, name: str) -> BaseModelRecord:
    """Return the record of a base model; `name` is that of its weights."""
    return BaseModelRecord(**weights.model_dump(), weights=name)


def describe_data(data: Data) -> DataRecord:
    """Return the record of the packed data that a run has opened."""
    folder = data.train.rows.path
    return DataRecord(
        folder=folder.name,
        fingerprint=packed.fingerprint(folder),
        train=describe_split(data.train.rows),
        dev=None if data.dev is None else describe_split(data.dev.rows),
    )


def describe_split(rows: packed.Rows) -> SplitRecord:
    """Return the record of rows."""
    keys = rows.column("continuation_key").drop_null()
    keys = keys.take(pc.sort_indices(keys))
    hasher = xxhash.xxh3_128()
    for first in range(0, len(keys), parquet.ROWS_AT_ONCE):
        hasher.update("".join(f"{key}\n" for key in keys[first : first + parquet.ROWS_AT_ONCE].to_pylist()).encode())
    counts = pc.value_counts(rows.column("corpus")).to_pylist()
    return SplitRecord(
        rows=len(rows),
        hours=round(pc.sum(rows.column("num_samples")).as_py() / SAMPLE_RATE_HZ / 3600, 3),
        corpora=dict(sorted((each["values"], each["counts"]) for each in counts)),
        continuations=len(keys),
        continuations_hash=hasher.hexdigest(),
    )


def describe_trained(model: SpeechLLM) -> TrainedRecord:
    """Return the record of the weights that require a gradient."""
    parameters: dict[str, int] = {}
    for name, weights in model.named_parameters():
        if weights.requires_grad:
            piece = PIECES[name.partition(".")[0]]
            parameters[piece] = parameters.get(piece, 0) + weights.numel()
    plora = None
    if model.plora is not None:
        names = model.plora.target_modules or []
        targets = {names} if isinstance(names, str) else {name.rpartition(".")[2] for name in names}
        plora = PloraRecord(
            rank=model.plora.r,
            alpha=model.plora.lora_alpha,
            targets=sorted(targets),
        )
    return TrainedRecord(parameters=parameters, plora=plora)


def describe_execution(
    settings: FitParams, of_run: Identity, accelerator: Accelerator, seconds: float, commit: str | None
) -> ExecutionRecord:
    """Return how the training went that ends now, after so many seconds; its code was that of `commit`."""
    is_gpu = accelerator.device.type == "cuda"
    return ExecutionRecord(
        run=run_name(of_run),
        date=datetime.now(UTC).date().isoformat(),
        hours=round(seconds / 3600, 4),
        device=torch.cuda.get_device_name(accelerator.device) if is_gpu else accelerator.device.type,
        processes=accelerator.num_processes,
        python=platform.python_version(),
        commit=commit,
        parameters=without_effect(settings),
    )


def commit_of_code() -> str | None:
    """Return the git commit of this code, as `commit_of` does; only files of pipeline and train are compared."""
    here = Path(__file__).resolve()
    return commit_of(here.parents[1], "../pipeline", ".", tracked=here)
