"""GPUs: published figures of cards, and the speeds that were measured on one of them (docs/results.md)."""

from dataclasses import dataclass
from typing import Literal

from pipeline.params import Alignment
from pipeline.stage import UserError

CardName = Literal["a100", "a100-40", "b200", "h100", "h100-pcie", "h200", "l40s", "rtx4090"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU."""

    memory_gib: float
    """Memory as torch sees it."""
    peak_tflops: float
    """Published dense bfloat16 peak, without sparsity."""


CARDS = {
    "a100": Card(memory_gib=79.2, peak_tflops=312),
    "a100-40": Card(memory_gib=39.4, peak_tflops=312),
    "b200": Card(memory_gib=178.0, peak_tflops=2250),
    "h100": Card(memory_gib=79.2, peak_tflops=989),
    "h100-pcie": Card(memory_gib=79.2, peak_tflops=756),
    "h200": Card(memory_gib=139.8, peak_tflops=989),
    "l40s": Card(memory_gib=44.4, peak_tflops=362),
    "rtx4090": Card(memory_gib=23.6, peak_tflops=165),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A training step in the packed layout on `MEASURED_CARD`, with clip lengths that the process had not seen."""

    host_s: float
    """Seconds of a batch; the CPU, which launches kernels, was the limit."""
    kernel_tflops: float
    """FLOP/s of the GPU's kernels while they run, in TFLOP/s."""
    step_tflops: float
    """FLOP/s of the whole step, in TFLOP/s."""


MEASURED_CARD = "h200"
MEASURED: dict[Alignment, Measured] = {
    # 0.392 s a step of 77 TFLOP, of which kernels run 0.197 s
    "semantic": Measured(host_s=0.392, kernel_tflops=391, step_tflops=203),
    # 0.601 s a step of 21 TFLOP; 0.11 s of kernels for 16 TFLOP in the padded layout
    "emotion": Measured(host_s=0.601, kernel_tflops=145, step_tflops=35),
}
MEASURED_SOURCE = "docs/results.md, On a GPU: H200, torch 2.11, 2026-11-27, 15 clips of 11 s and 8 of 5 s in a batch"

VLLM_CARD = "h100"
VLLM_TOKENS_PER_S = 11_500
VLLM_SOURCE = (
    "published for vLLM with an LLM of 9B (Qwen3.5-9B, ShareGPT prompts, one H100; docs.gpustack.ai); not measured here"
)


def find_card(name: str) -> Card:
    """Return a card; raises UserError if its name is unknown."""
    if name not in CARDS:
        raise UserError(f"--gpu: found {name}, expected one of {', '.join(CARDS)}")
    return CARDS[name]


def peak_ratio(name: str, measured: str) -> float:
    """Return the peak of a card divided by that of the card on which a speed was measured."""
    return CARDS[name].peak_tflops / CARDS[measured].peak_tflops
