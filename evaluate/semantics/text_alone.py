"""Whether the LLM is unchanged on text: its logits with P-LoRA, and those of the LLM as it was published."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.prompts import PromptIds
from train.precision import autocast


@torch.no_grad()
def last_logits(llm: PreTrainedModel, prompts: Sequence[PromptIds]) -> list[Float[Tensor, " v"]]:
    """Return the logits of the first token of the answer to each prompt."""
    device = next(llm.parameters()).device
    with autocast(llm):
        return [
            llm(input_ids=torch.tensor([prompt.ids], device=device), use_cache=False).logits[0, -1].float().cpu()
            for prompt in prompts
        ]


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Return the largest absolute difference; infinite if a value is not a number."""
    return float((first - second).abs().nan_to_num(torch.inf).max())
