"""Choose the device and the precision of a model: all float32, or the LLM in bfloat16 with autocast."""

from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import nn

from pipeline.params import Precision


def best_device() -> torch.device:
    """Return the GPU if there is one, else the CPU; ACCELERATE_USE_CPU chooses the CPU, as in training."""
    return torch.device("cuda" if torch.cuda.is_available() and not _cpu_wanted() else "cpu")


def avoid_shape_plans() -> None:
    """Turn off cuDNN's attention in this process: it builds a plan for each shape, and every batch has a new shape.

    On an H100 the plans took 0.25 s of a stage-1 step of 0.61 s (docs/results.md). torch's other kernels need no plan.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def join_processes(timeout: timedelta) -> None:
    """Let this training process find the others; a collective operation waits for them no longer than `timeout`."""
    PartialState(cpu=_cpu_wanted(), timeout=timeout)


def training_device() -> torch.device:
    """Return the device that accelerate chooses for this training process."""
    device: torch.device = PartialState(cpu=_cpu_wanted()).device
    return device


def training_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the LLM's type in training; auto is bfloat16 if the device multiplies it natively, else float32."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    on_gpu = device.type == "cuda"
    native = torch.cuda.is_bf16_supported() if on_gpu else torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def answering_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the LLM's type in answering; auto is float32 on a CPU and the type of training on a GPU."""
    return torch.float32 if precision == "auto" and device.type == "cpu" else training_dtype(precision, device)


def autocast(llm: nn.Module) -> torch.autocast:
    """Return the context in which training runs an LLM: autocast to bfloat16 if its weights are bfloat16."""
    weight = next(llm.parameters())
    return torch.autocast(weight.device.type, torch.bfloat16, enabled=weight.dtype == torch.bfloat16)


def _cpu_wanted() -> bool:
    return bool(parse_flag_from_env("ACCELERATE_USE_CPU"))
