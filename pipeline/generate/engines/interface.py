"""What writes continuations, behind one small interface: vLLM, a server, transformers, or vLLM on many machines by Ray.

All end an answer at the same tokens, so in float32 and decoding greedily they agree but for ties.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.tables.continuations import LENGTH, STOP


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine gives for a prompt."""

    token_ids: tuple[int, ...]
    """Without the end token."""
    finish_reason: str
    logprob: float | None = None
    """Of the answer and its end token, in nats."""
    top: Sequence[Mapping[int, float]] = ()
    """At each position, the end token's too, the likeliest tokens and their log-probabilities."""


class Engine(Protocol):
    """What generate asks of an engine."""

    @property
    def name(self) -> str:
        """Name and version, as in "vllm 0.32.0"."""

    @property
    def hardware(self) -> str:
        """What it runs on."""

    def generate(self, prompts: Iterable[Sequence[int]]) -> Iterator[tuple[int, Answer]]:
        """Answer prompts, each with its position among them, as the answers are ready.

        Prompts are taken as there is room for them, so that their number may be any.
        """

    def score(self, answers: Iterable[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, float]]:
        """Find how likely given answers are: yield log P(answer | prompt) in nats of each pair of prompt and answer.

        Each comes with its position among the pairs, as it is ready.
        """


def cut(token_ids: Sequence[int], end_ids: set[int]) -> tuple[tuple[int, ...], str]:
    """Return the ids before the first end token, and why the answer ended there."""
    for i, token in enumerate(token_ids):
        if token in end_ids:
            return tuple(token_ids[:i]), STOP
    return tuple(token_ids), LENGTH


def describe_hardware() -> str:
    """Name the GPU, or else the processor and how many of its cores this process may use."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'processor'}, {len(os.sched_getaffinity(0))} cores"


def find_end_ids(model: Path, end_id: int) -> list[int]:
    """Return the tokens that end an answer: the end of a turn and what the model's generation config adds."""
    config = model / "generation_config.json"
    more = json.loads(config.read_text()).get("eos_token_id") if config.is_file() else None
    return list(dict.fromkeys([end_id, *(more if isinstance(more, list) else [] if more is None else [more])]))
