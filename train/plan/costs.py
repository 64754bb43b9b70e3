"""The plan of a recipe: each stage's tokens, steps, memory and hours, then generation, disk and money."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, WhisperModel

from pipeline import params
from pipeline.audio.speech_tokens import MEL_FRAMES_PER_S
from pipeline.params import Alignment
from pipeline.stage import UserError
from pipeline.tables.emotions import read_classes
from pipeline.weights.source import ModelsParams
from train.fit.params import EmotionFitParams, FitParams, SemanticFitParams
from train.fit.run import make_objective
from train.fit.sharded_llm import saved_bytes
from train.model import SpeechLLM
from train.plan import cards
from train.plan.batches import EpochFacts, make_batch, plan_epoch
from train.plan.models import outline, read_config, read_encoder_config
from train.plan.rows import AFTER_TOKENS, NAMED_TOKENS, START_TOKENS, RowFacts, read_rows, with_told_teacher
from train.step_facts import StepFacts, run_step

GIB = 2**30
CONTEXT_GIB = 1.0  # CUDA's context and the libraries' work space
GAPS = 0.05  # of what a step allocates: sizes that the allocator rounds up, and gaps
FLAC_BYTES_PER_HOUR = 63e6  # LibriSpeech's train-clean-360: 23 GB in 364 h
STORED_BYTES_PER_ROW = 2_000  # a continuation in the store and in its table
STORED_BYTES_PER_TOP = 7.1  # of a stored teacher's token at a position (docs/results.md, A stored teacher)
STATES_PER_S = MEL_FRAMES_PER_S // 2  # of the encoder
CHECKPOINT_COPIES = 2  # the old one is removed after the new one is complete


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of one GPU in GiB, for the largest batch of the plan."""

    weights: float
    optimizer: float
    gradients: float
    activations: float
    """What the forward pass keeps for the backward pass."""
    loss: float
    """Logits of some rows, and what the loss keeps."""
    largest: float
    """The most that activations, loss, gradients and the optimizer's copies take at the same time."""
    context: float
    gaps: float
    total: float
    """weights + optimizer + largest + context + gaps."""
    card: float
    head_room: float
    """What is left of the card; below 0, the batch does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """The plan of a training stage."""

    kind: Alignment
    rows: int
    audio_hours: float
    epochs: float
    layout: str
    steps: int
    clips_per_step: float
    encoder_frames: float
    """Of the whole training, with padding."""
    student_positions: float
    teacher_positions: float
    real_frames: float
    real_positions: float
    tflop_a_batch: float
    """Executed FLOPs of the largest batch."""
    trained_weights: int
    memory: Memory
    gpu_hours: float
    """If each batch takes as long as the slower of the CPU and the GPU's kernels."""
    gpu_hours_at_most: float
    """If larger batches are not faster for a FLOP than the measured small ones."""
    money: float | None
    source: str
    """Of the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan of a recipe."""

    name: str
    """Of the recipe, or the parameter file."""
    gpu: str
    count: int
    price: float | None
    """Of a GPU hour."""
    stages: list[StagePlan]
    generated_tokens: float
    """Tokens that the LLM reads and writes for the continuations."""
    generating_gpu_hours: float
    disk_gb: dict[str, float]
    gpu_hours: float
    """Of generation and training."""
    money: float | None
    money_at_most: float | None
    assumptions: list[str]

    @property
    def fits(self) -> bool:
        """Whether each stage fits into the card's memory."""
        return all(stage.memory.head_room >= 0 for stage in self.stages)


def make_plan(name: str, params_file: Path, folder: Path, gpu: str, count: int, price: float | None) -> Plan:
    """Plan both stages of a recipe; `folder` is where its run has, or will have, data and manifests.

    Raises UserError if the card is unknown, if a count or price is not positive, or if a size or a configuration of a
    model is missing.
    """
    cards.find_card(gpu)
    if count < 1:
        raise UserError(f"--count: found {count}, expected at least 1")
    if price is not None and not (price > 0 and math.isfinite(price)):
        raise UserError(f"--price: found {price:g}, expected a price above 0")
    semantic, emotion = (read_rows(kind, params_file, folder) for kind in ("semantic", "emotion"))
    stages = [
        plan_stage("semantic", semantic, params_file, gpu, count, price),
        plan_stage("emotion", emotion, params_file, gpu, count, price),
    ]
    tokens = sum(_generated(rows) for rows in (semantic, emotion))
    generating = tokens / (cards.VLLM_TOKENS_PER_S * cards.peak_ratio(gpu, cards.VLLM_CARD)) / 3600
    hours = generating + sum(stage.gpu_hours for stage in stages)
    most = generating + sum(stage.gpu_hours_at_most for stage in stages)
    return Plan(
        name=name,
        gpu=gpu,
        count=count,
        price=price,
        stages=stages,
        generated_tokens=tokens,
        generating_gpu_hours=generating,
        disk_gb=_disk(stages, [semantic, emotion], params_file),
        gpu_hours=hours,
        money=None if price is None else price * hours,
        money_at_most=None if price is None else price * most,
        assumptions=_assumptions(stages, gpu, params_file),
    )


def plan_stage(
    kind: Alignment, rows: RowFacts, params_file: Path, gpu: str, count: int, price: float | None
) -> StagePlan:
    """Plan a stage; raises UserError as `make_plan`."""
    settings: FitParams = params.load(
        params_file, f"fit.{kind}", SemanticFitParams if kind == "semantic" else EmotionFitParams
    )
    if kind == "emotion" and settings.runs_teacher:
        rows = with_told_teacher(rows)
    pad_to_30s = params.load(params_file, "fit.semantic.pad_to_30s", bool)
    epoch = plan_epoch(rows, settings, pad_to_30s, count)
    facts = step_facts(rows, epoch, settings, params_file, pad_to_30s, count)
    steps = max(1, round(epoch.steps * settings.epochs))
    steps = steps if settings.max_steps is None else min(steps, settings.max_steps)
    epochs = steps / epoch.steps
    flops = facts.flops * epoch.load
    hours, most = (epochs * epoch.batches * seconds / 3600 for seconds in _seconds_a_batch(kind, flops, gpu))
    return StagePlan(
        kind=kind,
        rows=rows.num_rows,
        audio_hours=rows.hours,
        epochs=epochs,
        layout=settings.batches.layout,
        steps=steps,
        clips_per_step=rows.num_rows / epoch.steps,
        encoder_frames=epochs * epoch.frames,
        student_positions=epochs * epoch.student,
        teacher_positions=epochs * epoch.teacher,
        real_frames=epoch.real_frames,
        real_positions=epoch.real_positions,
        tflop_a_batch=facts.flops / 1e12,
        trained_weights=facts.trained_weights,
        memory=_memory(facts, gpu),
        gpu_hours=hours,
        gpu_hours_at_most=most,
        money=None if price is None else price * hours,
        source=rows.source,
    )


def step_facts(
    rows: RowFacts, epoch: EpochFacts, settings: FitParams, params_file: Path, pad_to_30s: bool, count: int
) -> StepFacts:
    """Run a step on the largest batch of an epoch, without values; `count` GPUs may share the LLM's layers."""
    models = params.load(params_file, "models", ModelsParams)
    dtype = torch.float32 if settings.precision == "float32" else torch.bfloat16
    model = outline(models, len(read_classes(params_file)), settings, pad_to_30s, dtype)
    num_top = params.load(params_file, "generate.store_logprobs", int)
    mel_bins = model.encoder.whisper.config.num_mel_bins
    batch = make_batch(rows, epoch.largest_rows, settings, pad_to_30s, mel_bins, num_top)
    saved = saved_bytes(model.llm, count) if settings.shard_llm and count > 1 else 0

    def objective(of: SpeechLLM) -> object:
        return make_objective(settings, of)

    facts = run_step(model, objective, batch, "cuda", foreach=True)  # type: ignore[arg-type]
    return replace(facts, weights=facts.weights - saved)


def _seconds_a_batch(kind: Alignment, flops: float, gpu: str) -> tuple[float, float]:
    """Return the seconds of a batch as `gpu_hours` and `gpu_hours_at_most` say."""
    measured, ratio = cards.MEASURED[kind], cards.peak_ratio(gpu, cards.MEASURED_CARD)
    seconds = max(measured.host_s, flops / (1e12 * measured.kernel_tflops * ratio))
    return seconds, max(seconds, flops / (1e12 * measured.step_tflops * ratio))


def _memory(facts: StepFacts, gpu: str) -> Memory:
    of_step = facts.largest / GIB
    gaps = GAPS * of_step
    total = facts.peak / GIB + CONTEXT_GIB + gaps
    card = cards.CARDS[gpu].memory_gib
    return Memory(
        weights=facts.weights / GIB,
        optimizer=facts.optimizer / GIB,
        gradients=facts.gradients / GIB,
        activations=facts.activations / GIB,
        loss=facts.loss / GIB,
        largest=of_step,
        context=CONTEXT_GIB,
        gaps=gaps,
        total=total,
        card=card,
        head_room=card - total,
    )


def _generated(rows: RowFacts) -> float:
    """Return the tokens that the LLM reads and writes for the continuations of all rows."""
    mean = START_TOKENS + AFTER_TOKENS + float(rows.text.mean()) + float(rows.response.mean())
    return rows.num_rows * mean


def _disk(stages: list[StagePlan], rows: list[RowFacts], params_file: Path) -> dict[str, float]:
    """Return the disk that a run needs, in GB of 10^9 bytes, without the corpora themselves."""
    models = params.load(params_file, "models", ModelsParams)
    num_top = params.load(params_file, "generate.store_logprobs", int)
    with torch.device("meta"):
        whisper = WhisperModel(encoder := read_encoder_config(models.encoder))
    encoder_weights = sum(p.numel() for p in whisper.parameters())
    llm_bytes = 2 * _llm_weights(stages, models)
    answers = sum(each.num_rows for each in rows)
    tops = sum(each.num_rows * float(each.response.mean()) for each in rows) * num_top
    sizes = {
        "packed audio": sum(each.hours for each in rows) * FLAC_BYTES_PER_HOUR / 1e9,
        "continuations": (answers * STORED_BYTES_PER_ROW + tops * STORED_BYTES_PER_TOP) / 1e9,
        "checkpoint": CHECKPOINT_COPIES * max(12 * stage.trained_weights for stage in stages) / 1e9,
        "trained models": sum(4 * stage.trained_weights for stage in stages) / 1e9,
        "downloaded weights": (4 * encoder_weights + llm_bytes) / 1e9,
    }
    if params.load(params_file, "fit.semantic.encoder_states", str) == "cached":
        value_bytes = 4 if params.load(params_file, "fit.semantic.precision", str) == "float32" else 2
        sizes["encoder states"] = rows[0].hours * 3600 * STATES_PER_S * encoder.d_model * value_bytes / 1e9
    return sizes


def _llm_weights(stages: list[StagePlan], models: ModelsParams) -> int:
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(read_config("llm", models.llm))
    return sum(p.numel() for p in llm.parameters())


def _assumptions(stages: list[StagePlan], gpu: str, params_file: Path) -> list[str]:
    """Say what the plan assumes, with sources."""

    def speed(measured: str) -> str:
        if gpu == measured:
            return f"of the {gpu}, so not scaled"
        peaks = [cards.CARDS[name].peak_tflops for name in (gpu, measured)]
        return (
            f"the {gpu} was not measured: figures of the {measured}, times {peaks[0]:,.0f} / {peaks[1]:,.0f} TFLOP/s, "
            "the published bfloat16 peaks"
        )

    steps = "; ".join(
        f"{kind} {m.host_s} s of CPU a batch, TFLOP/s of kernels {m.kernel_tflops:g}, of whole steps {m.step_tflops:g}"
        for kind, m in cards.MEASURED.items()
    )
    lines = [f"rows of {stage.kind}: {stage.source}" for stage in stages]
    lines += [
        f"training speed: {steps} ({cards.MEASURED_SOURCE}); {speed(cards.MEASURED_CARD)}",
        f"generation: {cards.VLLM_TOKENS_PER_S:,} tokens/s read and written, {cards.VLLM_SOURCE}; "
        f"{speed(cards.VLLM_CARD)}",
        f"prompts: {START_TOKENS} tokens before and {AFTER_TOKENS} after the content, unless packed data has them",
        f"memory: {CONTEXT_GIB:g} GiB for CUDA, and {GAPS:.0%} of a step's memory for gaps of the allocator",
        f"disk: {FLAC_BYTES_PER_HOUR / 1e6:.0f} MB of FLAC an hour (LibriSpeech's archives); corpora, and copies "
        "where the disk has no links, do not count",
        "not counted: start, evaluation on dev and test, checkpoints, waiting for the loader, and traffic between GPUs",
    ]
    if any(stage.kind == "emotion" and stage.teacher_positions for stage in stages):
        lines.append(
            "teacher of stage 2: its prompt is as long as that for speech, with "
            f"{NAMED_TOKENS} tokens from the emotion to the transcript"
        )
    if params.find(params_file, "fit.semantic.warm_start", dict[str, object] | None) is not None:
        lines.append("not counted: the warm start of the adapter (fit.semantic.warm_start)")
    if params.load(params_file, "fit.semantic.encoder_states", str) == "cached":
        lines.append("memory and hours of stage 1 are those of computed encoder states; cached ones need less")
    return lines
