"""The useful FLOPs of a training step, from formulas.

Padding, weight gradients of frozen weights and masked attention do not count. The shared start of a branch's prompts
counts once. A product of an (a, b) and a (b, c) matrix counts 2abc. Norms, activations and softmaxes are left out, as
usual.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, WhisperConfig

from benchmarks.gpu.sizes import INSTRUCTION_TOKENS, TURN_TOKENS
from pipeline.audio.speech_tokens import num_speech_tokens
from train.data.dataset import Example
from train.model.adapter import BOTTLENECK_WIDTH, KERNEL_SIZE, NUM_CONVOLUTIONS


def counting_flops() -> FlopCounterMode:
    """Return the context that counts the executed FLOPs.

    Attention counts in full, including masked positions. torch 2.11's own count fails if the keys have fewer heads than
    the queries, and no version of torch counts attention on a CPU.
    """
    attention = torch.ops.aten
    kinds = [f"_scaled_dot_product_{kind}" for kind in ("flash_attention", "efficient_attention", "cudnn_attention")]
    kinds.append("_scaled_dot_product_flash_attention_for_cpu")
    forward = {getattr(attention, kind): _attention_flops for kind in kinds}
    backward = {getattr(attention, f"{kind}_backward"): _attention_backward_flops for kind in kinds}
    return FlopCounterMode(display=False, custom_mapping=forward | backward)


def _attention_flops(query: Sequence[int], key: Sequence[int], *_others: Any, **_options: Any) -> int:
    return 4 * query[0] * query[1] * query[2] * key[2] * query[3]


def _attention_backward_flops(_gradient: object, query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """Count five products: the scores again, and the gradients of weights, values, queries and keys."""
    return _attention_flops(query, key) * 5 // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Counts FLOPs for one encoder, one LLM and one rank of P-LoRA."""

    encoder: WhisperConfig
    llm: Qwen2Config
    rank: int

    def semantic_step(self, batch: Sequence[Example]) -> float:
        """Count a step of stage 1: it runs encoder, teacher and student, and trains the adapter through the student."""
        rows = sum(len(clip.response_ids) for clip in batch)
        contents = [len(clip.text_ids) for clip in batch]
        return (
            sum(self._encode(clip.num_frames) for clip in batch)
            + sum(3 * self._adapt(clip.num_frames) - self._adapt_first(clip.num_frames) for clip in batch)
            + self._prompts(batch, contents)
            + self._student(batch)
            + rows * 3 * self._logits()
        )

    def emotion_step(self, batch: Sequence[Example]) -> float:
        """Count a step of stage 2: it trains encoder, adapter and P-LoRA through the student."""
        speech = sum(num_speech_tokens(clip.num_frames) for clip in batch)
        rows = sum(len(clip.response_ids) for clip in batch)
        return (
            sum(3 * self._encode(clip.num_frames) - self._encode_first(clip.num_frames) for clip in batch)
            + sum(3 * self._adapt(clip.num_frames) for clip in batch)
            + self._student(batch)
            + speech * 3 * self._plora()
            + rows * 2 * self._logits()
        )

    def llm_positions(self, lengths: Sequence[int]) -> float:
        """Count only the LLM: forward, gradients of activations, logits and their gradient at all positions."""
        attention = sum(self._attention(0, length) for length in lengths)
        return 2 * sum(lengths) * (self._linear() + self._logits()) + 3 * attention

    def lora_positions(self, num_positions: int) -> float:
        """Count LoRA at `num_positions` positions: forward, gradients of activations and of weights."""
        return 3 * num_positions * self._plora()

    def _encode_first(self, num_frames: int) -> float:
        return 2 * num_frames * self.encoder.num_mel_bins * 3 * self.encoder.d_model

    def _encode(self, num_frames: int) -> float:
        width, states = self.encoder.d_model, (num_frames - 1) // 2 + 1
        layer = 2 * states * (4 * width**2 + 2 * width * self.encoder.encoder_ffn_dim) + 4 * states**2 * width
        return self._encode_first(num_frames) + 2 * states * 3 * width**2 + self.encoder.encoder_layers * layer

    def _adapt_first(self, num_frames: int) -> float:
        states = ((num_frames - 1) // 2) // 2 + 1
        return 2 * states * KERNEL_SIZE * self.encoder.d_model * 2 * self.encoder.d_model

    def _adapt(self, num_frames: int) -> float:
        length, total = (num_frames - 1) // 2 + 1, 0.0
        widths = [self.encoder.d_model] * NUM_CONVOLUTIONS + [self.llm.hidden_size]
        for width_in, width_out in pairwise(widths):
            length = (length - 1) // 2 + 1
            total += 2 * length * KERNEL_SIZE * width_in * 2 * width_out
        return total + 2 * length * 2 * self.llm.hidden_size * BOTTLENECK_WIDTH

    def _student(self, batch: Sequence[Example]) -> float:
        """Count the forward pass, and the gradients of the activations after the shared start.

        Attention has two products forward and four backward, but only two backward if the keys need no gradient.
        """
        contents = [num_speech_tokens(clip.num_frames) for clip in batch]
        lengths = [self._length(clip, content) for clip, content in zip(batch, contents, strict=True)]
        forward, among_themselves = self._prompts(batch, contents), sum(self._attention(0, n) for n in lengths)
        return 2 * forward - self._start() + among_themselves

    def _prompts(self, batch: Sequence[Example], contents: Sequence[int]) -> float:
        total = self._start()
        for clip, content in zip(batch, contents, strict=True):
            length = self._length(clip, content)
            total += length * self._linear() + self._attention(INSTRUCTION_TOKENS, length)
        return total

    def _length(self, clip: Example, content: int) -> int:
        """Return the number of positions of a prompt and its answer after the shared start."""
        return content + TURN_TOKENS + len(clip.response_ids)

    def _start(self) -> float:
        return INSTRUCTION_TOKENS * self._linear() + self._attention(0, INSTRUCTION_TOKENS)

    def _attention(self, before: int, length: int) -> float:
        """Count causal attention of `length` positions to each other and to the `before` positions before them."""
        pairs = length * before + length * (length + 1) / 2
        return 4 * pairs * self._head_dim() * self.llm.num_attention_heads * self.llm.num_hidden_layers

    def _logits(self) -> float:
        return 2 * self.llm.hidden_size * self.llm.vocab_size

    def _linear(self) -> float:
        return 2 * sum(a * b for a, b in self._matrices()) * self.llm.num_hidden_layers

    def _plora(self) -> float:
        return 2 * sum(self.rank * (a + b) for a, b in self._matrices()) * self.llm.num_hidden_layers

    def _matrices(self) -> list[tuple[int, int]]:
        """Return the input and output widths of the linear layers of a block."""
        width, wide = self.llm.hidden_size, self.llm.intermediate_size
        assert self.llm.num_key_value_heads is not None
        heads = (self.llm.num_attention_heads, self.llm.num_key_value_heads)
        queries, keys = (self._head_dim() * number for number in heads)
        return [(width, queries), *[(width, keys)] * 2, (queries, width), *[(width, wide)] * 2, (wide, width)]

    def _head_dim(self) -> int:
        return self.llm.hidden_size // self.llm.num_attention_heads
