"""Partial LoRA: LoRA that acts on speech positions only, so that on text the LLM stays itself.

    y_t = W x_t + m_t * (alpha / r) * B A dropout(x_t),   m_t = 1 where position t holds speech

(BLSP-Emo, arXiv 2406.03872; first in InternLM-XComposer2, arXiv 2401.16420.) The layers, their
initialisation and the files are peft's own LoRA; a hook on each A multiplies its r outputs by the
mask, which is the same since A and B have no bias, and cheap since r is small.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

ADAPTER_NAME = "default"


@dataclass
class SpeechMask:
    """Which positions hold speech, while the LLM runs inside `applied`; none outside of it."""

    mask: Bool[Tensor, "b l"] | None = None

    @contextmanager
    def applied(self, mask: Bool[Tensor, "b l"]) -> Iterator[None]:
        """Let P-LoRA act where `mask` is true."""
        self.mask = mask
        try:
            yield
        finally:
            self.mask = None

    def zero_elsewhere(self, _module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Zero the output of A (b x l x r) away from speech: a forward hook.

        While answering, the LLM takes one token at a time behind a prompt of another length: those
        are never speech.
        """
        if self.mask is None or self.mask.shape[1] != output.shape[1]:
            return torch.zeros_like(output)
        return output * self.mask[..., None].to(output.dtype)


def lora_config(rank: int, alpha: int, dropout: float, targets: str | list[str]) -> LoraConfig:
    """Return peft's configuration; `targets` is "all-linear" or suffixes of module names."""
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, bias="none")


def add_plora(llm: nn.Module, config: LoraConfig, speech_mask: SpeechMask) -> None:
    """Put LoRA layers into `llm` in place, limited to `speech_mask`; B starts at zero.

    They are held in float32 whatever the LLM is held in: in bfloat16, small updates would be rounded away.
    """
    requires_grad = {name: parameter.requires_grad for name, parameter in llm.named_parameters()}
    inject_adapter_in_model(config, llm, ADAPTER_NAME)
    for module in llm.modules():
        if isinstance(module, LoraLayer):
            module.lora_A[ADAPTER_NAME].register_forward_hook(speech_mask.zero_elsewhere)
            module.lora_A[ADAPTER_NAME].float()
            module.lora_B[ADAPTER_NAME].float()
    assert not any(p.requires_grad for n, p in llm.named_parameters() if n in requires_grad)
