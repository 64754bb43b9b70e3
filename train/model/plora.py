"""Partial LoRA: LoRA that acts only at speech positions, so the LLM is unchanged on text.

    y_t = W x_t + m_t * (alpha / r) * B A dropout(x_t),   m_t = 1 if position t holds speech, else 0

(BLSP-Emo, arXiv 2406.03872; first in InternLM-XComposer2, arXiv 2401.16420.) The layers, their initialisation and their
files are those of peft's LoRA. A hook on each A multiplies its r outputs by the mask. This is equivalent because A and
B have no bias, and cheap because r is small.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from pipeline.stage import UserError
from pipeline.weights.lora import inject_lora

ADAPTER_NAME = "default"


@dataclass
class SpeechMask:
    """The current mask of speech positions.

    It is set only inside the `applied` context. Outside it, the mask is None, and all positions count as text.
    """

    mask: Bool[Tensor, "b l"] | None = None
    generating: bool = False
    """Whether the LLM also runs on new tokens, which are not in the mask."""
    everywhere: bool = False
    """Whether P-LoRA acts at all positions of sequences that hold speech, and at new tokens after them."""

    @contextmanager
    def applied(self, mask: Bool[Tensor, "b l"] | None, *, generating: bool = False) -> Iterator[None]:
        """Make P-LoRA act at the positions where `mask` is true; None: at none."""
        before = self.mask, self.generating
        self.mask, self.generating = mask, generating
        try:
            yield
        finally:
            self.mask, self.generating = before

    def zero_elsewhere(self, _module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Set the output of A (b x l x r) to zero at positions without speech; a forward hook.

        During generation, the LLM processes one new token at a time, so the mask of the prompt has another length. New
        tokens are never speech, so the output is then zero, unless P-LoRA acts everywhere. Otherwise, raises UserError
        if the positions are not those of the mask.
        """
        if self.mask is None:
            return torch.zeros_like(output)
        if self.mask.shape != output.shape[:-1]:
            if self.generating and output.shape[:-1] == (len(self.mask), 1):
                return output if self.everywhere else torch.zeros_like(output)
            found, expected = list(output.shape[:-1]), list(self.mask.shape)
            raise UserError(
                f"fit.emotion.plora.targets: found a layer that runs on positions of the shape {found}, expected "
                f"{expected}: P-LoRA could not be limited to speech; name only layers of the attention"
            )
        return output * self.mask[..., None].to(output.dtype)


def lora_config(rank: int, alpha: int, dropout: float, targets: str | list[str]) -> LoraConfig:
    """Return peft's configuration; `targets` is "all-linear" or suffixes of module names."""
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, bias="none")


def add_plora(llm: nn.Module, config: LoraConfig, speech_mask: SpeechMask) -> None:
    """Add LoRA layers to `llm` in place, limited to the positions of `speech_mask`; B starts at zero.

    The LoRA weights are float32, whatever the dtype of the LLM: bfloat16 would round small updates to zero.
    """
    requires_grad = {name: parameter.requires_grad for name, parameter in llm.named_parameters()}
    inject_lora(llm, config, ADAPTER_NAME)
    for module in llm.modules():
        if isinstance(module, LoraLayer):
            module.lora_A[ADAPTER_NAME].register_forward_pre_hook(_same_dtype)
            module.lora_A[ADAPTER_NAME].register_forward_hook(speech_mask.zero_elsewhere)
            module.lora_A[ADAPTER_NAME].float()
            module.lora_B[ADAPTER_NAME].float()
            module.cast_input_dtype_enabled = False  # under autocast, peft would copy all inputs to float32 for nothing
    assert not any(p.requires_grad for n, p in llm.named_parameters() if n in requires_grad)


def _same_dtype(lora_a: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Return the inputs of A in its dtype, unless autocast chooses it; a forward pre-hook."""
    (states,) = inputs
    device = states.device.type
    autocasts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return (states if autocasts else states.to(lora_a.weight.dtype),)  # type: ignore[arg-type]


@contextmanager
def plora_off(llm: nn.Module) -> Iterator[None]:
    """Take P-LoRA out of an LLM: the result is that of a mask without speech, but nothing is computed for it."""
    layers = [module for module in llm.modules() if isinstance(module, LoraLayer)]
    trained = [(weight, weight.requires_grad) for layer in layers for weight in layer.parameters()]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for weight, requires_grad in trained:  # peft has changed it
            weight.requires_grad_(requires_grad)


def train_dropout(llm: nn.Module, mode: bool) -> None:
    """Turn P-LoRA's own dropout on or off."""
    for module in llm.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout.train(mode)
