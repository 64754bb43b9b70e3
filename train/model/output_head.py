"""The LLM's output head: turns final hidden states into the LLM's own logits.

Most LLMs multiply by the output matrix only. Others also add a bias (Phi), multiply by a constant (Granite, Cohere,
Falcon-H1) or bound the result (Gemma 2):

    logits = c tanh(s (W h + b) / c)
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.stage import UserError


@dataclass(frozen=True, slots=True, eq=False)
class OutputHead:
    """The frozen output head of an LLM."""

    weight: Float[Tensor, "v d"]
    """W, the output matrix."""
    bias: Float[Tensor, " v"] | None = None
    """b; None if there is none."""
    scale: float = 1.0
    """s."""
    softcap: float | None = None
    """c, the bound of the logits; None if they have no bound."""

    def detached(self) -> "OutputHead":
        """Return the head without gradients of its own."""
        return replace(self, weight=self.weight.detach(), bias=None if self.bias is None else self.bias.detach())

    def float(self) -> "OutputHead":
        """Return the head in float32."""
        return replace(self, weight=self.weight.float(), bias=None if self.bias is None else self.bias.float())

    def logits(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Return the logits, at least in float32; W is multiplied in the type of the states."""
        logits = states @ self.weight.T
        logits = logits.to(at_least_float32(logits.dtype))
        if self.bias is not None:
            logits = logits + self.bias.to(logits.dtype)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def pull_back(self, gradient: Float[Tensor, "n v"], logits: Float[Tensor, "n v"] | None) -> Float[Tensor, "n d"]:
        """Return the gradient by the states from the gradient by their logits; only a softcap needs the logits."""
        if self.softcap is not None:
            assert logits is not None
            gradient = gradient * (1 - (logits / self.softcap) ** 2)
        if self.scale != 1.0:
            gradient = gradient * self.scale
        return gradient.to(self.weight.dtype) @ self.weight


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for the shorter types, and float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def output_head(llm: PreTrainedModel) -> OutputHead:
    """Return the output head of an LLM; raises UserError if it has no linear output layer."""
    layer = llm.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        kind = type(llm).__name__
        raise UserError(f"models.llm: {kind}: found no linear output layer, expected an LLM with one")
    config = llm.config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "lm_head_multiplier"):  # Cohere, Falcon-H1
        scale *= _number(config, name) or 1.0
    scale /= _number(config, "logits_scaling") or 1.0  # Granite
    return OutputHead(layer.weight, layer.bias, scale, _number(config, "final_logit_softcapping"))


def _number(config: object, name: str) -> float | None:
    value = getattr(config, name, None)
    return None if value is None else float(value)
