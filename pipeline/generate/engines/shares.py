"""What each engine gets of this machine: GPUs, or cores on a machine without a GPU.

An engine gets one GPU. If an LLM does not fit on one, vLLM divides it over several (tensor parallel).
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline import params
from pipeline.params import Processes
from pipeline.stage import UserError

ROOM = 1.2  # an engine needs the weights and a fifth more, for activations and some prompts
MEMORY_SHARE = 0.92  # vLLM's default for gpu_memory_utilization
GB = 1e9


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a machine that an engine has."""

    gpus: tuple[str, ...]
    """Names of the GPUs as in CUDA_VISIBLE_DEVICES; none on a machine without a GPU."""
    cores: frozenset[int]
    """Numbers of the cores; none on a machine with GPUs, where an engine may use any core."""

    def __str__(self) -> str:
        kind, numbers = ("GPU", self.gpus) if self.gpus else ("core", sorted(self.cores))
        return f"{kind} {', '.join(map(str, numbers))}"


def divide_cores(count: int, cores: Sequence[int]) -> list[Share]:
    """Divide the cores of a machine without a GPU over `count` engines; more engines than cores share cores."""
    return [Share((), frozenset(cores[i % len(cores) :: count])) for i in range(count)]


def divide_gpus(
    wanted: Processes, tensor_parallel: Literal["auto"] | int, gpus: Sequence[str], memory: int, weights: int
) -> list[Share]:
    """Divide `gpus` over as many engines as they are enough for.

    `memory` is that of the smallest GPU, and `weights` the size of the LLM, both in bytes. `wanted` is the number of
    GPUs to use. Raises UserError if they are too few.
    """
    used = gpus[: params.count_processes(wanted, len(gpus))]
    size = _fewest(memory, weights) if tensor_parallel == "auto" else tensor_parallel
    if size > len(used):
        found = f"{len(used)} GPUs of {memory / GB:.0f} GB"
        raise UserError(
            f"generate.tensor_parallel: {tensor_parallel}: found {found}, expected {size} or more for an LLM of "
            f"{weights / GB:.1f} GB; a number in place of auto is tried as it is"
        )
    return [Share(tuple(used[i : i + size]), frozenset()) for i in range(0, len(used) - size + 1, size)]


def _fewest(memory: int, weights: int) -> int:
    """Return the smallest power of two of GPUs that hold the weights."""
    size = 1
    while weights * ROOM > size * memory * MEMORY_SHARE:
        size *= 2
    return size


def weight_bytes(model: Path) -> int:
    """Return the size of the weights in a folder, in bytes."""
    return sum(file.stat().st_size for file in model.glob("*.safetensors"))


def gpu_memories() -> list[int]:
    """Return the memory of each GPU in bytes, asked in a process of its own: asking takes memory of a GPU."""
    code = (
        "import json, torch.cuda as c; "
        "print(json.dumps([c.get_device_properties(i).total_memory for i in range(c.device_count())]))"
    )
    asked = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    memories: list[int] = json.loads(asked.stdout)
    return memories
