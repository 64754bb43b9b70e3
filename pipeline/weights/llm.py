"""Load an LLM from a folder: every weight from the file, the attention of its training, and no sampling of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.stage import UserError
from pipeline.weights.pretrained import load_pretrained
from pipeline.weights.source import loading

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


def load_llm(folder: Path, dtype: "torch.dtype") -> "PreTrainedModel":
    """Load the LLM in `folder`, in evaluation mode; raises UserError if a weight is missing or quantised.

    Its generation config is empty. transformers would take from it what a call does not name, such as the repetition
    penalty of Qwen2.5, even if decoding is greedy.
    """
    import transformers

    config = _unquantised(folder, "models.llm")
    llm: PreTrainedModel = load_pretrained(
        transformers.AutoModelForCausalLM, folder, dtype=dtype, attn_implementation=attention_of(config)
    )
    llm.generation_config = transformers.GenerationConfig()
    return llm


def outline_llm(folder: Path, parameter: str = "models.llm") -> "PreTrainedModel":
    """Return the layers of the LLM in `folder` without the values of its weights; raises UserError as `load_llm`.

    `parameter` is the one that names the LLM.
    """
    import transformers

    _unquantised(folder, parameter)
    llm: PreTrainedModel = load_pretrained(transformers.AutoModelForCausalLM, folder, device_map="meta")
    return llm


def attention_of(config: "PreTrainedConfig") -> str | None:
    """Return the attention of an LLM that bounds its attention scores (Gemma 2): PyTorch's SDPA ignores the bound.

    None is the default of transformers.
    """
    return None if getattr(config.get_text_config(), "attn_logit_softcapping", None) is None else "eager"


def _unquantised(folder: Path, parameter: str) -> "PreTrainedConfig":
    """Return the configuration of an LLM; raises UserError if its weights are quantised.

    The own forward of training computes with the weights themselves, and so does LoRA.
    """
    import transformers

    with loading(folder):
        config: PreTrainedConfig = transformers.AutoConfig.from_pretrained(folder)
    for each in (config, config.get_text_config()):
        if found := getattr(each, "quantization_config", None):
            raise UserError(
                f"{parameter}: {folder}: found weights quantised {_describe(found)}, expected weights that are not "
                "quantised; to save memory, use fit.*.checkpoint_layers, fit.*.shard_llm on several GPUs, or a smaller "
                "LLM"
            )
    return config


def _describe(quantization: dict[str, Any]) -> str:
    """Return the method of a quantisation, and the bits of a weight if they are told."""
    method = quantization.get("quant_method", "an unknown method")
    named = (bits for bits in (4, 8) if quantization.get(f"load_in_{bits}bit"))  # bitsandbytes
    bits = quantization.get("bits") or next(named, None)
    return f"by {method}" if bits is None else f"to {bits} bits by {method}"
