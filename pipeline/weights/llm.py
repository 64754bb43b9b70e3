"""Load an LLM from a folder, with the attention that it was trained with."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.weights.source import loading

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def load_llm(folder: Path, dtype: "torch.dtype") -> "PreTrainedModel":
    """Load the LLM in `folder`, in evaluation mode."""
    import transformers

    with loading(folder):
        llm: PreTrainedModel = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=_attention(folder)
        )
    llm.eval()
    return llm


def _attention(folder: Path) -> str | None:
    """Return the attention of an LLM that bounds its attention scores (Gemma 2): PyTorch's SDPA ignores the bound.

    None is the default of transformers.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder).get_text_config()
    return None if getattr(config, "attn_logit_softcapping", None) is None else "eager"
