"""Where a model runs and in which precision: float32, or the LLM in bfloat16 under autocast."""

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import nn

from pipeline.params import Precision


def best_device() -> torch.device:
    """Return the GPU where there is one, else the CPU; ACCELERATE_USE_CPU holds here as it does for training."""
    return torch.device("cuda" if torch.cuda.is_available() and not _cpu_wanted() else "cpu")


def avoid_shape_plans() -> None:
    """Keep cuDNN's attention out, for this process: it builds a plan for each shape, and every batch has a new one.

    On an H100 the plans were 0.25 s of a stage-1 step of 0.61 s (docs/results.md); torch's other kernels need none.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def training_device() -> torch.device:
    """Return the device that accelerate chooses for this process of a training."""
    device: torch.device = PartialState(cpu=_cpu_wanted()).device
    return device


def training_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the LLM's type in training; auto takes bfloat16 where the device multiplies it natively."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    on_gpu = device.type == "cuda"
    native = torch.cuda.is_bf16_supported() if on_gpu else torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def answering_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the LLM's type in answering; auto is that of training on a GPU, float32 on a CPU."""
    return torch.float32 if precision == "auto" and device.type == "cpu" else training_dtype(precision, device)


def autocast(llm: nn.Module) -> torch.autocast:
    """Return the context in which training runs an LLM: autocast to bfloat16 if its weights are held in it."""
    weight = next(llm.parameters())
    return torch.autocast(weight.device.type, torch.bfloat16, enabled=weight.dtype == torch.bfloat16)


def _cpu_wanted() -> bool:
    return bool(parse_flag_from_env("ACCELERATE_USE_CPU"))
