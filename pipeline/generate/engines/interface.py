"""The interface of an engine: its requests and its answers.

All engines end an answer at the same tokens. So their greedy answers in float32 agree, unless two tokens tie.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.stage import UserError
from pipeline.tables.continuations import LENGTH, STOP

PromptAndAnswer = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt, and of the answer that is scored after it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to answer."""

    key: bytes
    """Key of the answer in the store, 16 bytes."""
    transcript: str
    emotion: str | None
    """None if the prompt does not name the emotion."""
    prompt_ids: tuple[int, ...]
    seed: int | None
    """Seed of the sampling; None if decoding is greedy."""
    text_ids: tuple[int, ...] = ()
    """Those of the prompt's ids that are the transcript."""
    json_schema: str | None = None
    """JSON schema that vLLM makes the answer follow; the engine transformers cannot do so, and leaves it out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An engine's answer to a prompt."""

    token_ids: tuple[int, ...]
    """Without the end token."""
    finish_reason: str
    logprob: float | None = None
    """Log-probability of the answer and its end token, in nats."""
    top: Sequence[Mapping[int, float]] = ()
    """The likeliest tokens at each position and their log-probabilities; the end token's position is included."""
    end_id: int | None = None
    """The end token; None if the answer was cut, or if the engine does not say which token ended it."""


class Engine(Protocol):
    """An LLM that answers prompts and scores answers."""

    @property
    def name(self) -> str:
        """Name and version, as in "vllm 0.32.0"."""

    @property
    def hardware(self) -> str:
        """The GPU or processor that the engine runs on."""

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[int, Answer]]:
        """Yield each request's position and answer as soon as the answer is ready.

        The engine takes a request when it has room for it, so there may be any number of requests.
        """

    def score(self, pairs: Iterable[PromptAndAnswer]) -> Iterator[tuple[int, float]]:
        """Yield each pair's position and log P(answer | prompt) in nats as soon as it is ready."""


def check_logprob(logprob: float | None, engine: str, transcript: str) -> None:
    """Raise UserError if a log-probability is not finite: the LLM overflows in its dtype, or its weights are broken."""
    if logprob is not None and not math.isfinite(logprob):
        raise UserError(
            f"generate: {engine}: {transcript!r}: found the log-probability {logprob}, expected a finite number; try "
            "another generate.dtype"
        )


def cut(token_ids: Sequence[int], end_ids: set[int]) -> tuple[tuple[int, ...], str, int | None]:
    """Return the ids before the first end token, the finish reason, and the end token if there is one."""
    for i, token in enumerate(token_ids):
        if token in end_ids:
            return tuple(token_ids[:i]), STOP, token
    return tuple(token_ids), LENGTH, None


def describe_hardware() -> str:
    """Name the GPU; without one, the processor and the number of cores that this process may use."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'processor'}, {len(os.sched_getaffinity(0))} cores"
