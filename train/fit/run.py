"""A training run: build the model, open the data, train, save."""

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pipeline.stage import UserError, replace_folder, say
from pipeline.weights.source import ModelsParams
from train import saved_model
from train.data import stored_teacher
from train.fit import checkpoint
from train.fit.answers import FILE as ANSWERS_FILE
from train.fit.answers import Answers
from train.fit.cached_states import with_cached_states
from train.fit.checkpoint import Checkpoint, Writer
from train.fit.ctc_warm_start import warm_start
from train.fit.data import Data, open_data
from train.fit.described_run import commit_of_code, describe_execution, describe_run
from train.fit.earlier_model import describe_start
from train.fit.hang import MARGIN, HangWatch, shared_store
from train.fit.identity import Identity, identify, run_name, shaping
from train.fit.loop import Intervals, train
from train.fit.objectives import EmotionAlignment, Objective, SemanticAlignment
from train.fit.params import EmotionFitParams, FitParams, SemanticFitParams
from train.fit.preflight import Forecast, check_memory
from train.fit.progress import Progress
from train.fit.run_record import EXECUTION_FILE, LOSSES_FILE, RUN_FILE, RunRecord, write
from train.fit.schedule import Schedule
from train.fit.sharded_llm import shard_llm
from train.fit.signals import EXIT_STATUS, StopSignal
from train.fit.speed import speed_of
from train.fit.stage_model import build_model, check_layout, llm_dtype, standardise_head
from train.fit.told_prompt import ToldPrompt
from train.fit.trackers import check_trackers
from train.fit.trainer import Trainer
from train.fit.watch import Best, Watch
from train.model import SpeechLLM
from train.model_config import ModelConfig
from train.own_forward import checkpoint_layers, compile_layers
from train.precision import avoid_shape_plans, join_processes


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolders:
    """The folders of a run; `init` is the stage-1 model of an emotion alignment."""

    data: Path
    init: Path | None
    output: Path
    checkpoints: Path
    logs: Path


def fit(
    settings: FitParams,
    models: ModelsParams,
    emotions: list[str],
    folders: RunFolders,
    resume: bool,
    told: ToldPrompt | None = None,
) -> None:
    """Train a stage and save the model; `resume` continues from this run's checkpoint if there is one.

    `told` is the prompt of the teacher of stage 2 (train/fit/told_prompt.py).
    """
    kind = "semantic" if isinstance(settings, SemanticFitParams) else "emotion"
    avoid_shape_plans()
    check_trackers(settings.trackers)
    join_processes(timedelta(minutes=settings.hang_minutes) + MARGIN)
    accelerator = Accelerator(mixed_precision="bf16" if llm_dtype(settings) == torch.bfloat16 else "no")
    model, config, data = prepare(settings, models, emotions, folders, accelerator, told)
    main = accelerator.is_main_process
    num_batches = data.sampler.num_batches(settings.epochs, settings.max_steps)
    for line in describe_rows(data, settings, num_batches, accelerator.num_processes) if main else []:
        say(f"fit: {kind}: {line}")
    init = folders.init if settings.init is None else Path(settings.init)
    of_run = identify(settings, config, folders.data, init, llm_dtype(settings), main, data.collate.shell)
    run = run_name(of_run)
    folder, logs = folders.checkpoints / run, folders.logs / run
    started, commit = time.monotonic(), commit_of_code() if main else None
    if isinstance(settings, SemanticFitParams) and settings.encoder_states == "cached":
        data = with_cached_states(data, model, settings, config, folders.checkpoints, folders.data)
    state = find_checkpoint(folder, of_run, main) if resume else None
    if state is None and init is None and isinstance(settings, SemanticFitParams) and settings.warm_start is not None:
        warm_start(model, data, settings, settings.warm_start, main)
    objective = make_objective(settings, model)
    schedule = make_schedule(settings, len(num_batches))
    trainer = Trainer(model, objective, make_optimizer(model, settings), schedule, accelerator)
    with StopSignal() as stop:
        answers = Answers(data, config, settings.answers, logs / ANSWERS_FILE, main)
        progress = train_from(trainer, data, settings, state, started, of_run, folder, logs, stop, answers)
        trainer.check_weights()
        if main:
            write(describe_execution(settings, of_run, accelerator, progress.seconds, commit), logs / EXECUTION_FILE)
            trained, records = accelerator.unwrap_model(trainer.model), progress.records
            steps = int(records[-1]["step"])
            record = describe_run(settings, config, of_run, init, data, trained, records, steps)
            save(trained, config, records, record, folders.output)
            checkpoint.remove(folder)
            say(f"fit: {kind}: {steps} steps on {len(data.train):,} rows, model in {folders.output}")


def prepare(
    settings: FitParams,
    models: ModelsParams,
    emotions: list[str],
    folders: RunFolders,
    accelerator: Accelerator,
    told: ToldPrompt | None,
) -> tuple[SpeechLLM, ModelConfig, Data]:
    """Return the model on the device where it trains, and its data; raises UserError if a step cannot fit there."""
    kind = "semantic" if isinstance(settings, SemanticFitParams) else "emotion"
    model, config = build_model(settings, models, emotions, folders.init)
    check_layout(settings, config, model)
    with_teacher = kind == "semantic" or settings.runs_teacher
    data = open_data(folders.data, settings, config, with_teacher, model.shares_start, told)
    check_dev(settings, data, folders.data)
    if data.collate.with_signals:
        stored_teacher.check(data.train.rows, folders.data)
    check_memory(model, partial(make_objective, settings), settings, data, accelerator)
    if settings.shard_llm and accelerator.num_processes > 1:
        shard_llm(model, accelerator.device)
    elif settings.shard_llm:
        say(f"fit: {kind}: shard_llm has no effect, because there is only one process")
    model.to(accelerator.device)
    if settings.checkpoint_layers:
        checkpoint_layers(model)
    if settings.compile_layers:
        compile_layers(model)
    if kind == "emotion" and settings.init is None:
        standardise_head(model, data)
    return model, config, data


def describe_rows(data: Data, settings: FitParams, num_batches: Sequence[int], num_processes: int) -> list[str]:
    """Say what a training does with its rows besides what is usual; `num_batches` are those of each step."""
    lines = [] if settings.init is None else [describe_start(Path(settings.init), settings)]
    if data.collate.with_signals:
        num_top = len(data.train.rows.column("top_ids")[0].as_py()[0])
        teacher = f"using the stored teacher ({num_top} tokens per position)"
        lines.append(f"{teacher}; the logged kl is a lower bound, dev_kl is exact")
    if data.sampler.mixture is not None:
        lines.append(data.sampler.mixture.describe())
    if spare := spare_batches(num_batches, num_processes):
        lines.append(spare)
    return lines


def find_checkpoint(folder: Path, of_run: Identity, is_main_process: bool) -> Checkpoint | None:
    """Return the last complete checkpoint of a run; without one, say which checkpoints are not those of this run."""
    state, lines = checkpoint.load(folder)
    if state is None:
        lines += checkpoint.passed_over(folder, of_run)
    for line in lines if is_main_process else []:
        say(f"fit: {folder.name.split('-')[0]}: {line}")
    return state


def train_from(
    trainer: Trainer,
    data: Data,
    settings: FitParams,
    state: Checkpoint | None,
    started: float,
    of_run: Identity,
    folder: Path,
    logs: Path,
    stop: StopSignal,
    answers: Answers,
) -> Progress:
    """Train from a checkpoint, or without one from the start, which began at the time `started`; return the progress.

    Raises SystemExit if a signal has stopped training and the checkpoint of the last step is complete.
    """
    kind, num_steps, main = folder.name.split("-")[0], trainer.schedule.num_steps, trainer.accelerator.is_main_process
    with Writer(folder, settings.keep_checkpoints) as writer:
        if state is None:
            state = trainer.checkpoint(0, [], time.monotonic() - started)
            if main:
                checkpoint.save_identity(folder, of_run)
                writer.save(state)  # a resumed run does not repeat the warm start
        else:
            trainer.restore(state)
            if main:
                say(f"fit: {kind}: continues after step {state.step} of {num_steps}")
        intervals = Intervals(log=settings.log_every, evaluate=settings.evaluate_every, save=settings.save_every)
        watch = Watch(settings, trainer.objective.weights, state.records, state.best)
        with open_progress(trainer, settings, state, logs) as progress, hang_watch(trainer, settings) as hang:
            done, stopped = train(trainer, data, progress, intervals, writer, stop, watch, hang, answers)
    if stopped:
        trainer.accelerator.wait_for_everyone()  # a launcher kills all processes once one has ended
        if main:
            by = stop.name or "a signal to another process"
            say(f"fit: {kind}: stopped by {by} after step {done} of {num_steps}; --resume continues after this step")
        raise SystemExit(EXIT_STATUS)
    if main:
        for line in describe_end(settings, watch.best, done, num_steps):
            say(f"fit: {kind}: {line}")
        if watch.best_tensors is not None:
            trainer.set_tensors(watch.best_tensors)
    return progress


def open_progress(trainer: Trainer, settings: FitParams, state: Checkpoint, logs: Path) -> Progress:
    """Return the reports of a training that continues from a checkpoint; `logs` is the folder of the run."""
    accelerator, num_steps = trainer.accelerator, trainer.schedule.num_steps
    forecast = Forecast(
        device=accelerator.device,
        first_step=state.step,
        num_steps=num_steps,
        evaluate_every=settings.evaluate_every,
    )
    return Progress(
        logs.name.partition("-")[0],
        logs,
        speed_of(trainer),
        forecast,
        list(state.records),
        state.seconds,
        accelerator.is_main_process,
        settings.trackers,
        shaping(settings),
    )


def hang_watch(trainer: Trainer, settings: FitParams) -> HangWatch:
    """Return the watch over a process that makes no progress; it watches nothing if there is only one process."""
    rank, count = trainer.accelerator.process_index, trainer.accelerator.num_processes
    watch = HangWatch(shared_store(count), rank, count, 60 * settings.hang_minutes)
    trainer.reached = watch.reached
    return watch


def describe_end(settings: FitParams, best: Best | None, done: int, num_steps: int) -> list[str]:
    """Say that training has stopped early, and of which evaluation the saved model is, if it may not be the last."""
    lines = []
    if done < num_steps:
        without = f"{settings.stop_after} evaluations without a better dev loss"
        lines.append(f"stopped early after step {done} of {num_steps}: {without}")
    if settings.keep == "best" and best is not None:
        lines.append(f"the saved model is that of step {best.step}, with the best dev loss {best.loss:.4g}")
    return lines


def check_dev(settings: FitParams, data: Data, folder: Path) -> None:
    """Raise UserError if a parameter needs a dev split and there is none."""
    if data.dev is not None:
        return
    for name, value, expected in (("stop_after", settings.stop_after, None), ("keep", settings.keep, "last")):
        if value != expected:
            raise UserError(
                f"fit.*.{name}: found {value}, expected {expected or 'null'}, because no dev row of {folder} has a "
                "continuation"
            )


def make_schedule(settings: FitParams, num_steps: int) -> Schedule:
    """Return the schedule of a run of `num_steps` steps."""
    return Schedule(
        shape=settings.schedule,
        seed=settings.seed,
        num_steps=num_steps,
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
    )


def spare_batches(num_batches: Sequence[int], num_processes: int) -> str:
    """Say how many batches are computed without effect; empty if none is. `num_batches` are those of each step."""
    computed = sum(math.ceil(count / num_processes) * num_processes for count in num_batches)
    if not (num_spare := computed - sum(num_batches)):
        return ""
    return (
        f"{num_spare:,} of {computed:,} batches have no effect, because {num_processes} processes do not divide the "
        "batches of each step; choose fit.*.batches.per_step as a multiple of the processes"
    )


def make_objective(settings: FitParams, model: SpeechLLM) -> Objective:
    """Return the objective of the stage."""
    if isinstance(settings, SemanticFitParams):
        return SemanticAlignment(model.output_head, settings.temperature)
    assert isinstance(settings, EmotionFitParams)
    return EmotionAlignment(
        model.output_head,
        settings.emotion_weight,
        model.head.classify.out_features,
        ("ce", "kl") if settings.response_loss == "both" else (settings.response_loss,),
    )


def make_optimizer(model: SpeechLLM, settings: FitParams) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters, with weight decay on matrices but not on biases and norms.

    If the encoder has a learning rate of its own, its groups are the last ones.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    rate = settings.encoder_learning_rate if isinstance(settings, EmotionFitParams) else None
    apart = set() if rate is None else set(model.encoder.parameters())
    groups = _groups([p for p in trained if p not in apart], settings.learning_rate, settings.weight_decay)
    if rate is not None:
        groups += _groups([p for p in trained if p in apart], rate, settings.weight_decay)
    on_gpu = trained[0].is_cuda  # fused, it can leave out a step without a word to the CPU
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=on_gpu)


def _groups(weights: Sequence[torch.nn.Parameter], rate: float, decay: float) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in weights if p.ndim > 1], "lr": rate, "weight_decay": decay},
        {"params": [p for p in weights if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
    ]


def save(
    model: SpeechLLM, config: ModelConfig, records: list[dict[str, float]], of_run: RunRecord, folder: Path
) -> None:
    """Write the model, its losses and the record of its run to a new folder.

    The old folder is replaced only after the new one is complete.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    saved_model.save(model, config, partial)
    (partial / LOSSES_FILE).write_text("".join(json.dumps(record) + "\n" for record in records))
    write(of_run, partial / RUN_FILE)
    replace_folder(partial, folder)
