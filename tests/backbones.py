"""Tiny configurations of LLMs of many architectures."""

from dataclasses import dataclass, field
from typing import Any

import transformers as t

SMALL: dict[str, Any] = {
    "vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None, "initializer_range": 0.3,
}  # fmt: skip


@dataclass(frozen=True)
class Backbone:
    """An architecture, and what its configuration needs besides SMALL."""

    config: type[Any]
    more: dict[str, Any] = field(default_factory=dict)
    targets: str | list[str] = "all-linear"
    """The layers of P-LoRA."""


MIXED = {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 4}
BACKBONES = {
    "Llama": Backbone(t.LlamaConfig),
    "Qwen2.5": Backbone(t.Qwen2Config, {"tie_word_embeddings": True}),
    "Qwen3": Backbone(t.Qwen3Config, {"head_dim": 16}),
    "SmolLM3": Backbone(t.SmolLM3Config, {"no_rope_layers": [1, 0]}),
    "Gemma 2": Backbone(
        t.Gemma2Config,
        {"head_dim": 8, "query_pre_attn_scalar": 1, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "Gemma 3": Backbone(t.Gemma3TextConfig, {"head_dim": 8, "sliding_window": 8}),
    "Mistral": Backbone(t.MistralConfig, {"head_dim": 16}),
    "Phi": Backbone(t.PhiConfig, {"num_key_value_heads": 4}),
    "Phi-3": Backbone(t.Phi3Config),
    "GLM-4": Backbone(t.Glm4Config, {"head_dim": 8}),
    "Granite": Backbone(
        t.GraniteConfig, {"logits_scaling": 2.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22}
    ),
    "Cohere": Backbone(t.CohereConfig, {"logit_scale": 0.25}),
    "OLMo 2": Backbone(t.Olmo2Config),
    "Qwen3.5": Backbone(
        t.Qwen3_5TextConfig, {**MIXED, "head_dim": 8, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
    ),
    "LFM2": Backbone(t.Lfm2Config, {"layer_types": ["conv", "full_attention"]}),
    "Qwen3-MoE": Backbone(
        t.Qwen3MoeConfig,
        {"head_dim": 8, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
        ["q_proj", "k_proj", "v_proj", "o_proj"],  # experts are no linear layers
    ),
}

REFUSED = {
    "Gemma 4": Backbone(
        t.Gemma4TextConfig,
        {
            "head_dim": 8, "global_head_dim": 8, "num_hidden_layers": 4, "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"] * 2, "vocab_size_per_layer_input": 258,
            "hidden_size_per_layer_input": 8,
        },
    ),
    "Llama 4": Backbone(t.Llama4TextConfig, {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64}),
}  # fmt: skip
