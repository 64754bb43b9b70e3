"""The layers of an LLM that get LoRA: check of their names, and LoRA itself."""

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from pipeline.stage import UserError

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn


def _check_form(targets: Any) -> Any:
    names = isinstance(targets, list) and targets and all(isinstance(name, str) for name in targets)
    if targets != ALL_LINEAR and not names:
        raise ValueError(f"{ALL_LINEAR} or a list of suffixes of names of layers, such as [q_proj, v_proj]")
    return targets


ALL_LINEAR = "all-linear"
Targets = Annotated[str | list[str], BeforeValidator(_check_form)]
"""The parameter `targets`: all-linear, or suffixes of names of linear layers."""

_WHERE = "fit.emotion.plora.targets"


def check_targets(llm: "nn.Module", targets: Iterable[str]) -> None:
    """Raise UserError if a target is no suffix of the name of a linear layer in a block of the LLM."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    output = llm.get_output_embeddings() if hasattr(llm, "get_output_embeddings") else None  # type: ignore[operator]
    layers = [
        name for name, layer in llm.named_modules() if isinstance(layer, nn.Linear | Conv1D) and layer is not output
    ]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
            raise UserError(f"{_WHERE}: found {target}, expected linear layers in the blocks of the LLM: {known}")


def inject_lora(llm: "nn.Module", config: "LoraConfig", adapter_name: str) -> None:
    """Add LoRA layers to `llm` in place; raises UserError if a target is not a linear layer.

    transformers stores the experts of a mixture of experts as one tensor. peft can add LoRA to such a tensor, but that
    LoRA acts on its weights, so it cannot be limited to speech.
    """
    from peft import inject_adapter_in_model
    from peft.tuners.lora import ParamWrapper

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # peft's own changes to its configuration for experts
        try:
            inject_adapter_in_model(config, llm, adapter_name)
        except ValueError as error:
            raise UserError(f"{_WHERE}: {' '.join(str(error).split())}") from None
    for name, layer in llm.named_modules():
        if isinstance(layer, ParamWrapper):
            raise UserError(
                f"{_WHERE}: found the experts {name}, expected linear layers: LoRA on experts cannot be limited to "
                "speech; name only layers of the attention, such as [q_proj, k_proj, v_proj, o_proj]"
            )


def check_lora(llm: "nn.Module", targets: str | list[str]) -> None:
    """Raise UserError if P-LoRA with these targets is not possible; this adds LoRA layers to `llm`, an outline."""
    from peft import LoraConfig

    check_targets(llm, [] if isinstance(targets, str) else targets)
    inject_lora(llm, LoraConfig(r=1, target_modules=targets), "default")
