"""The useful FLOPs of a training step, and the FLOP/s of the device, with which their speed is compared.

Useful are the products of matrices that a step cannot do without: no padding, no weight gradient of frozen weights, no
masked attention, nothing that is computed again for the gradient. The shared start of a batch's prompts counts once. A
product of an (a, b) and a (b, c) matrix counts 2abc. Norms, activations and softmaxes are left out, as usual, and so
are the experts of a mixture of experts. An LLM's attention counts as if no layer had a window.
"""

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Int
from torch import nn
from transformers import PreTrainedModel

from pipeline.audio.speech_tokens import halved, num_speech_tokens
from train.model import Batch, Sequences, SpeechLLM

ROUNDS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMFlops:
    """The forward FLOPs of an LLM for one position."""

    linear: float
    """Of all linear layers but the output head."""
    lora: float
    """Of LoRA's layers."""
    logits: float
    """Of the output head."""
    pair: float
    """Of the attention to one position, in all layers."""

    @classmethod
    def of(cls, llm: PreTrainedModel) -> Self:
        """Count the layers of an LLM."""
        layers = dict(llm.base_model.named_modules())
        lora = {name for name in layers if ".lora_A." in name or ".lora_B." in name}
        config = llm.config.get_text_config()
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            linear=_linear(module for name, module in layers.items() if name not in lora),
            lora=_linear(layers[name] for name in lora),
            logits=2.0 * config.hidden_size * config.vocab_size,
            pair=4.0 * config.num_attention_heads * head_width * config.num_hidden_layers,
        )

    def start(self, length: int) -> float:
        """Count the shared start of the rows."""
        return length * self.linear + self.attention(np.array([length]))

    def rows(self, lengths: Int[np.ndarray, " b"], start: int) -> float:
        """Count rows that follow a shared start."""
        total = float(lengths.sum())
        return total * self.linear + self.attention(lengths) + total * start * self.pair

    def attention(self, lengths: Int[np.ndarray, " b"]) -> float:
        """Count the causal attention of rows to themselves."""
        return float((lengths * (lengths + 1) / 2).sum()) * self.pair


class UsefulFlops:
    """Counts the useful FLOPs of the steps of one model, as it is trained now."""

    def __init__(self, model: SpeechLLM) -> None:
        """Take the shapes of a model, and which of its parts are trained; the model is not kept."""
        whisper, adapter = model.encoder.whisper, model.adapter
        self.trains_encoder = any(parameter.requires_grad for parameter in model.encoder.parameters())
        self.convolutions = [_convolution(layer) for layer in (whisper.conv1, whisper.conv2, *adapter.convolutions)]
        """For one result of each convolution: those of the encoder, then those of the adapter."""
        self.encoder_state = _linear(whisper.layers.modules())
        self.encoder_pair = 4.0 * whisper.config.d_model * len(whisper.layers)
        self.bottleneck = _linear([adapter.down, adapter.up])
        self.llm = LLMFlops.of(model.llm)
        self.lora_everywhere = model.speech_mask.everywhere

    def step(self, batches: Sequence[Batch]) -> float:
        """Return the FLOPs of forward and backward on batches that lie on the CPU."""
        return sum(self._speech(batch) + self._llm(batch) for batch in batches)

    def _speech(self, batch: Batch) -> float:
        """Count encoder and adapter. The first trained convolution needs no gradient of its input."""
        frames = batch.num_frames.numpy()
        lengths = [frames]
        for _ in self.convolutions[1:]:
            lengths.append(halved(lengths[-1]))
        first, second, *rest = (float(n.sum()) * c for n, c in zip(lengths, self.convolutions, strict=True))
        states = lengths[1].astype(np.float64)
        encoder = first + second + states.sum() * self.encoder_state + (states**2).sum() * self.encoder_pair
        adapter = sum(rest) + float(lengths[-1].sum()) * self.bottleneck
        if self.trains_encoder:
            return float(3 * encoder - first + 3 * adapter)
        return float(encoder + 3 * adapter - rest[0])

    def _llm(self, batch: Batch) -> float:
        """Count teacher, student, P-LoRA and output head.

        The student needs the gradients of the activations after the shared start. Attention has two products forward
        and four backward, but only two backward where the keys need no gradient.
        """
        student, num_shared = row_lengths(batch.student), batch.student.num_shared
        total = self.llm.start(num_shared) + 2 * self.llm.rows(student, num_shared) + self.llm.attention(student)
        adapted = student if self.lora_everywhere else num_speech_tokens(batch.num_frames.numpy())
        total += 3 * self.llm.lora * float(adapted.sum())
        total += 2 * self.llm.logits * batch.num_responses
        if batch.teacher is not None:
            teacher, num_shared = row_lengths(batch.teacher), batch.teacher.num_shared
            total += self.llm.start(num_shared) + self.llm.rows(teacher, num_shared)
            total += self.llm.logits * batch.num_responses
        return total


def row_lengths(sequences: Sequences) -> Int[np.ndarray, " b"]:
    """Return the positions of each row after the shared start, without padding."""
    if sequences.rows is not None:
        end = int(sequences.attended.sum()) - sequences.num_shared
        return np.diff(np.minimum(sequences.rows.starts.numpy(), end)).astype(np.int64)
    return sequences.attended.sum(1).numpy() - sequences.num_shared


def product_flops(size: int, device: torch.device) -> float:
    """Return the FLOP/s of a bfloat16 product of two square matrices of random numbers: the median of some runs."""
    generator = torch.Generator(device).manual_seed(0)  # the draws of a training stay as they are
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device, generator=generator) for _ in range(2))
    taken = []
    for _ in range(1 + ROUNDS):
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(taken[1:])


def _linear(modules: Iterable[nn.Module]) -> float:
    """Count the linear layers among modules, for one position."""
    return sum(2.0 * m.in_features * m.out_features for m in modules if isinstance(m, nn.Linear))


def _convolution(layer: nn.Module) -> float:
    assert isinstance(layer, nn.Conv1d)
    return 2.0 * layer.in_channels * layer.kernel_size[0] * layer.out_channels
