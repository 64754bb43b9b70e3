"""Load an LLM from a folder: every weight from the file, the attention of its training, and no sampling of its own."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.weights.pretrained import load_pretrained
from pipeline.weights.source import loading

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


def load_llm(folder: Path, dtype: "torch.dtype") -> "PreTrainedModel":
    """Load the LLM in `folder`, in evaluation mode; raises UserError if a weight is missing.

    Its generation config is empty. transformers would take from it what a call does not name, such as the repetition
    penalty of Qwen2.5, even if decoding is greedy.
    """
    import transformers

    with loading(folder):
        attention = attention_of(transformers.AutoConfig.from_pretrained(folder))
    llm: PreTrainedModel = load_pretrained(
        transformers.AutoModelForCausalLM, folder, dtype=dtype, attn_implementation=attention
    )
    llm.generation_config = transformers.GenerationConfig()
    return llm


def outline_llm(folder: Path) -> "PreTrainedModel":
    """Return the layers of the LLM in `folder` without the values of its weights; raises UserError as `load_llm`."""
    import transformers

    llm: PreTrainedModel = load_pretrained(transformers.AutoModelForCausalLM, folder, device_map="meta")
    return llm


def attention_of(config: "PreTrainedConfig") -> str | None:
    """Return the attention of an LLM that bounds its attention scores (Gemma 2): PyTorch's SDPA ignores the bound.

    None is the default of transformers.
    """
    return None if getattr(config.get_text_config(), "attn_logit_softcapping", None) is None else "eager"
