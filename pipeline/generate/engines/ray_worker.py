"""A worker of the engine ray: vLLM in its own process, on a machine that Ray chooses."""

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.generate.engines import vllm_engine
from pipeline.generate.engines.interface import Answer
from pipeline.generate.params import GenerateParams
from pipeline.stage import UserError
from pipeline.weights import source
from pipeline.weights.source import Weights, name_weights

ROUND_S = 1.0  # a worker returns its finished answers after this time


@dataclass(frozen=True, slots=True)
class Numbered:
    """A prompt and its position among the prompts of its run."""

    number: int
    """Unique among all prompts that the engine has had."""
    position: int
    ids: Sequence[int]
    answer: Sequence[int]
    """The answer to score; empty if the worker has to write one."""
    seed: int | None
    """Seed of the sampling; None if decoding is greedy."""
    json_schema: str | None
    """JSON schema that the answer must follow, if there is one."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A worker that has loaded the LLM."""

    engine: str
    hardware: str
    host: str


class Worker:
    """A Ray actor that runs vLLM."""

    def load(self, params: GenerateParams, llm: Weights, name: str, end_ids: Sequence[int]) -> Loaded:
        """Fetch and load the LLM; raises UserError if its weights have another name than `name`."""
        host = socket.gethostname()
        try:
            vllm_engine.prepare()
            folder = source.fetch(llm)
            if (found := name_weights(llm, folder)) != name:
                raise UserError(f"models: {folder}: found other weights ({found}), expected {name}")
            self._llm = vllm_engine.VllmEngine(params, folder, end_ids)
        except UserError as error:
            raise UserError(f"{host}: {error}") from None
        self._running: dict[str, int] = {}
        return Loaded(self._llm.name, self._llm.hardware, host)

    def exchange(self, prompts: Sequence[Numbered], dropped: Sequence[int]) -> list[tuple[int, Answer | float]]:
        """Add the new prompts and drop others, then generate for about one second.

        Returns the answers that finished, with the numbers of their prompts.
        """
        if dropped:
            self._drop(set(dropped))
        for prompt in prompts:
            self._running[self._llm.add(prompt.ids, prompt.answer, prompt.seed, prompt.json_schema)] = prompt.number
        answers, end = list[tuple[int, Answer | float]](), time.monotonic() + ROUND_S
        while self._running and time.monotonic() < end:
            answers += [(self._running.pop(number), answer) for number, answer in self._llm.step()]
        return answers

    def _drop(self, dropped: set[int]) -> None:
        theirs = [number for number, ours in self._running.items() if ours in dropped]
        self._llm.drop(theirs)
        for number in theirs:
            del self._running[number]
