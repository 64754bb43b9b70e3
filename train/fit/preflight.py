"""What a user learns at the start of a training: whether a step fits into memory, and how long the training takes."""

import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from pipeline.progress import duration
from pipeline.stage import UserError, say
from train.data.dataset import visits
from train.fit.data import Data
from train.fit.params import FitParams, SemanticFitParams
from train.fit.sharded_llm import saved_bytes
from train.model import Batch, SpeechLLM
from train.own_forward import CANNOT_RUN, describe
from train.step_facts import Loss, StepFacts, outline_of_model, run_step

GIB = 2**30
STEPS = 20
"""Steps before the forecast."""
DOUBT = 1.1
"""Planned memory may exceed the memory that there is by this factor: the plan may be wrong by some percent."""
SMALLER = "take a smaller LLM in models.llm, or divide it over several GPUs by fit.*.shard_llm: true"


MakeLoss = Callable[[SpeechLLM], Loss]


def check_memory(
    model: SpeechLLM, make_loss: MakeLoss, settings: FitParams, data: Data, accelerator: Accelerator
) -> None:
    """Raise UserError, in all processes, if a step on the largest batch of the first epoch cannot fit into memory.

    It also raises one if a clip of this batch is damaged. The model lies on the CPU. Only the main process counts. It
    says so if it cannot count the memory of a model, and training goes on.
    """
    found: str | None = None
    if accelerator.is_main_process:
        try:
            with torch.random.fork_rng(devices=[]):  # the draws of the training stay as they are
                batch = largest_batch(data)
                facts = plan_step(model, make_loss, settings, batch, accelerator.device)
                count = accelerator.num_processes
                elsewhere = saved_bytes(model.llm, count) if settings.shard_llm and count > 1 else 0
            free = free_memory(accelerator.device)
            found = describe_excess(settings, batch, facts, elsewhere, free, accelerator.device)
        except UserError as error:
            found = str(error)  # the others must not wait for it
        except CANNOT_RUN as error:
            say(f"fit: the memory of a step is unknown: {describe(error)}")
    found = broadcast_object_list([found])[0]
    if found is not None:
        raise UserError(found)


def largest_batch(data: Data) -> Batch:
    """Return the batch of the first epoch that takes the largest share of the budget, with its clips."""
    sampler = data.sampler
    costs = sampler.costs if sampler.costs_in is None else sampler.costs_in(0)
    budget = sampler.budget

    def load(rows: list[int]) -> float:
        frames, positions = budget.cost(costs[rows])
        return max(frames / budget.max_frames, positions / budget.max_positions)

    largest = max((rows for step in sampler.plan(epoch=0) for rows in step), key=load)
    return data.collate([data.train[visit] for visit in visits(largest, 0)])


def plan_step(
    model: SpeechLLM, make_loss: MakeLoss, settings: FitParams, batch: Batch, device: torch.device
) -> StepFacts:
    """Return what a step of a model needs; nothing is computed, and the model is not changed."""
    outline = outline_of_model(model)
    outline.checkpoints_layers = settings.checkpoint_layers
    return run_step(outline, make_loss, batch, device.type)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of a GPU, or of the machine, that nobody uses; None if the machine does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    table = Path("/proc/meminfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else None


def describe_excess(
    settings: FitParams, batch: Batch, facts: StepFacts, elsewhere: int, free: int | None, device: torch.device
) -> str | None:
    """Say what to change if a step needs more memory than is free by far; None if it may fit.

    `elsewhere` are the bytes of weights that other processes hold.
    """
    on_gpu = device.type == "cuda"
    needed = facts.peak - elsewhere if on_gpu else facts.peak - facts.weights  # a CPU holds the weights already
    if free is None or needed <= DOUBT * free:
        return None
    kind = "semantic" if isinstance(settings, SemanticFitParams) else "emotion"
    fixed = needed - facts.largest
    change = advice(settings.checkpoint_layers) if fixed < free else SMALLER
    held = "with weights and optimizer" if on_gpu else "besides the weights"
    return (
        f"fit.{kind}.batches: found a largest batch of {describe_size(batch)} that needs {needed / GIB:.1f} GiB "
        f"{held}, expected at most {free / GIB:.1f} GiB, the free memory of the {'GPU' if on_gpu else 'machine'}; "
        f"{change}"
    )


def advice(checkpoints_layers: bool) -> str:
    """Say which parameters lower the memory of a step."""
    lower = "lower max_frames and max_positions in fit.*.batches"
    return lower if checkpoints_layers else f"{lower}, or set fit.*.checkpoint_layers: true"


def describe_size(batch: Batch) -> str:
    """Say how many clips, encoder frames and LLM positions a batch has, without padding."""
    frames = int(((batch.num_frames + 1) // 2).sum())
    return f"{len(batch.ids):,} clips, {frames:,} encoder frames and {batch.num_positions:,} LLM positions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Says after some steps how much memory they took, and when the training will end."""

    device: torch.device
    first_step: int
    num_steps: int
    evaluate_every: int

    def describe(self, step: int, seconds: float, evaluations: Sequence[float]) -> str | None:
        """Return the line after `STEPS` steps, unless they were all; None after any other step.

        `seconds` is the time since the first step began, with the `evaluations`, which took so many seconds each.
        """
        left = self.num_steps - step
        if step - self.first_step != STEPS or left == 0:
            return None
        a_step = (seconds - sum(evaluations)) / STEPS
        to_come = self.num_steps // self.evaluate_every - step // self.evaluate_every
        a_dev = sum(evaluations) / len(evaluations) if evaluations else 0.0
        left_s = left * a_step + to_come * a_dev
        end = datetime.now().astimezone() + timedelta(seconds=left_s)
        return (
            f"after {STEPS} steps: {peak_memory(self.device)}, {a_step:.3g} s a step, {duration(left_s)} left, "
            f"until {end:%Y-%m-%d %H:%M %Z}"
        )


def peak_memory(device: torch.device) -> str:
    """Say the most memory that tensors have taken on a GPU so far, or this process on a CPU."""
    if device.type == "cuda":
        total = torch.cuda.mem_get_info(device)[1]
        return f"at most {torch.cuda.max_memory_allocated(device) / GIB:.1f} of {total / GIB:.1f} GiB of GPU memory"
    return f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB of memory"
