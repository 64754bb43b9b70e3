"""Generation by transformers in padded batches, for machines on which vLLM does not install."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.generate.engines.interface import Answer, PromptAndAnswer, Request, cut, describe_hardware
from pipeline.generate.params import GenerateParams
from pipeline.weights.llm import load_llm

Item = TypeVar("Item")

BATCH_SIZE = 32  # prompts in a batch
POOL = 32 * BATCH_SIZE  # prompts that are sorted by length before they are cut into batches


class TransformersEngine:
    """Answers batches of prompts of similar length."""

    def __init__(self, params: GenerateParams, model: Path, end_ids: Sequence[int]) -> None:
        """Load the model."""
        import torch
        import transformers

        self.name = f"transformers {transformers.__version__}"
        self.hardware = describe_hardware()
        self._end_ids = list(end_ids)
        self._num_top = params.store_logprobs
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cuda.enable_cudnn_sdp(False)  # cuDNN makes a plan for each new shape; see train/precision.py
        dtype = getattr(torch, params.dtype)
        self._llm: Any  # transformers' own types for its models do not fit each other
        self._llm = load_llm(model, dtype)
        self._llm.to(self._device)
        sampling = {"temperature": params.temperature, "top_p": params.top_p, "top_k": 0}
        self._generation_config = transformers.GenerationConfig(
            do_sample=params.temperature > 0,
            max_new_tokens=params.max_new_tokens,
            eos_token_id=self._end_ids,
            pad_token_id=self._end_ids[0],
            output_logits=True,
            return_dict_in_generate=True,
            **(sampling if params.temperature else {}),
        )

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[int, Answer]]:
        """See Engine.generate; the requests of a batch have one seed."""
        for numbered in request_batches(requests):
            answers = self._generate_batch([request.prompt_ids for _, request in numbered], numbered[0][1].seed)
            yield from zip((position for position, _ in numbered), answers, strict=True)

    def score(self, pairs: Iterable[PromptAndAnswer]) -> Iterator[tuple[int, float]]:
        """See Engine.score."""
        for numbered in pair_batches(pairs):
            scores = self._score_batch([pair for _, pair in numbered])
            yield from zip((position for position, _ in numbered), scores, strict=True)

    def _score_batch(self, pairs: Sequence[PromptAndAnswer]) -> list[float]:
        import torch

        ids, mask = self._padded([[*prompt, *answer] for prompt, answer in pairs])
        longest = max(len(answer) for _, answer in pairs)
        positions = mask.cumsum(-1).sub(1).clamp(min=0)
        with torch.inference_mode():
            output = self._llm(
                input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=longest + 1, use_cache=False
            )
            logprobs_BTV = output.logits[:, :-1].float().log_softmax(-1)
        own_BT = logprobs_BTV.gather(-1, ids[:, -longest:, None])[..., 0]
        return [float(own[-len(answer) :].sum()) for own, (_, answer) in zip(own_BT, pairs, strict=True)]

    def _generate_batch(self, prompts: Sequence[Sequence[int]], seed: int | None) -> list[Answer]:
        import torch

        torch.manual_seed(seed or 0)
        ids, mask = self._padded(prompts)
        with torch.inference_mode():
            output = self._llm.generate(input_ids=ids, attention_mask=mask, generation_config=self._generation_config)
            logprobs_BTV = torch.stack(output.logits, dim=1).float().log_softmax(-1)
        new_BT = output.sequences[:, ids.shape[1] :]
        return [self._answer(*row) for row in zip(new_BT, logprobs_BTV, strict=True)]

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """Return the ids and the mask of prompts, padded on the left."""
        import torch

        width = max(map(len, prompts))
        ids = torch.tensor([[self._end_ids[0]] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return ids.to(self._device), mask.to(self._device)

    def _answer(self, new_T: Any, logprobs_TV: Any) -> Answer:
        token_ids, finish_reason, end_id = cut(new_T.tolist(), set(self._end_ids))
        num_steps = min(len(token_ids) + 1, len(new_T))  # with the end token, if there is one
        own = logprobs_TV[:num_steps].gather(1, new_T[:num_steps, None])
        values, ids = logprobs_TV[:num_steps].topk(self._num_top)
        top = [dict(zip(*step, strict=True)) for step in zip(ids.tolist(), values.tolist(), strict=True)]
        return Answer(token_ids, finish_reason, float(own.sum()), top if self._num_top else (), end_id)


def request_batches(requests: Iterable[Request]) -> Iterator[list[tuple[int, Request]]]:
    """Yield the batches of requests that are answered together, with their positions; a batch has one seed."""
    return _batches(requests, length=lambda each: len(each.prompt_ids), group=lambda each: each.seed or 0)


def pair_batches(pairs: Iterable[PromptAndAnswer]) -> Iterator[list[tuple[int, PromptAndAnswer]]]:
    """Yield the batches of pairs that are scored together, with their positions."""
    return _batches(pairs, length=lambda pair: len(pair[0]) + len(pair[1]))


def _batches(
    items: Iterable[Item], length: Callable[[Item], int], group: Callable[[Item], int] = lambda _: 0
) -> Iterator[list[tuple[int, Item]]]:
    """Yield batches of items with their positions: items of one group, sorted by length."""
    waiting = enumerate(items)
    while pool := list(itertools.islice(waiting, POOL)):
        pool.sort(key=lambda numbered: (group(numbered[1]), length(numbered[1])))
        for _, same in itertools.groupby(pool, lambda numbered: group(numbered[1])):
            members = list(same)
            for first in range(0, len(members), BATCH_SIZE):
                yield members[first : first + BATCH_SIZE]
