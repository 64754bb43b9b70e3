"""Convert an LLM from llama.cpp's GGUF format to a Hugging Face folder in float32.

transformers reads and dequantises the file. The folder also contains the tokenizer, its chat template and the token
that ends a turn.
"""

from pathlib import Path

from pipeline.stage import UserError

MAGIC = b"GGUF"


def convert(model: Path, target: Path) -> None:
    """Write the Hugging Face folder `target` from the GGUF file `model`; all tensors are dequantised to float32.

    Raises UserError if transformers cannot read the file, or if it is not a chat model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
        llm = AutoModelForCausalLM.from_pretrained(
            model.parent,
            gguf_file=model.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    except (ValueError, KeyError) as error:
        raise UserError(f"{model.name}: {error}; expected a GGUF file that transformers can read") from None
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise UserError(f"{model.name}: no chat template or no end token; expected a chat model")
    llm.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    llm.save_pretrained(target)
    tokenizer.save_pretrained(target)
