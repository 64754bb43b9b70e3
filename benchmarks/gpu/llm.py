"""Part 3, only the LLM: the cost of LoRA with a loss at every position, in positions per second."""

import statistics
from collections.abc import Iterator

import numpy as np
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu import card
from benchmarks.gpu.card import DEVICE, Figures, Out, Tiny
from benchmarks.gpu.sizes import build_llm, full
from benchmarks.gpu.sizes import tiny as tiny_sizes
from benchmarks.gpu.steps import RANK
from pipeline.stage import run_stage
from train.model.plora import ADAPTER_NAME, SpeechMask, add_plora, lora_config
from train.precision import avoid_shape_plans
from train.useful_flops import LLMFlops, product_flops

ROWS_AT_ONCE = 512
ROUNDS, WARM_UP = 7, 3
SEQUENCES = 16
SPEECH_SHARE = 0.4  # of the positions: a clip of 4.5 s in its prompt and answer


def step(llm: torch.nn.Module, embeddings: Tensor, targets: Tensor) -> None:
    """Run forward and backward to the embeddings, with the cross-entropy at all positions, some rows at a time."""
    embeddings.grad = None
    with torch.autocast(DEVICE.type, torch.bfloat16):
        states = llm.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state  # type: ignore[operator]
    matrix = llm.lm_head.weight  # type: ignore[union-attr]
    leaf = states.detach().flatten(0, 1).requires_grad_()
    for start in range(0, len(leaf), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        functional.cross_entropy((leaf[rows] @ matrix.T).float(), targets[rows], reduction="sum").backward()
    states.backward(leaf.grad.view_as(states))


def ways(llm: torch.nn.Module, speech: Tensor) -> Iterator[tuple[str, float]]:
    """Change the LLM in place to each kind of LoRA; yield its name and the share of positions on which it acts."""
    yield "without LoRA", 0.0
    speech_mask = SpeechMask()
    add_plora(llm, lora_config(RANK, RANK, 0.0, "all-linear"), speech_mask)
    with speech_mask.applied(speech):
        yield "ours, at speech positions", SPEECH_SHARE
    layers = [module for module in llm.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.lora_A[ADAPTER_NAME]._forward_hooks.clear()
    yield "peft, float32", 1.0
    for layer in layers:
        layer.lora_A[ADAPTER_NAME].bfloat16()
        layer.lora_B[ADAPTER_NAME].bfloat16()
    yield "peft, bfloat16", 1.0


def useful(llm: LLMFlops, lengths: np.ndarray, share: float) -> float:
    """Count forward, gradients of activations, logits and their gradient, and LoRA at a share of the positions."""
    positions = float(lengths.sum())
    linear, lora = 2 * (llm.linear + llm.logits), 3 * share * llm.lora
    return positions * (linear + lora) + 3 * llm.attention(lengths)


def main(out: Out, tiny: Tiny = False) -> None:
    """Time only the LLM."""
    sizes = tiny_sizes() if tiny else full()
    figures = Figures(out, "llm")
    ceiling = product_flops(256 if tiny else 8192, DEVICE)
    avoid_shape_plans()
    length = sizes.positions // SEQUENCES
    figures.add(ceiling_tflops=ceiling / 1e12, sequences=SEQUENCES, length=length)
    llm = build_llm(sizes.llm).requires_grad_(False)
    embeddings = torch.randn(SEQUENCES, length, sizes.llm.hidden_size, dtype=torch.bfloat16, device=DEVICE)
    embeddings.requires_grad_()
    targets = torch.randint(sizes.llm.vocab_size, (sizes.positions,), device=DEVICE)
    speech = (torch.arange(length, device=DEVICE) < SPEECH_SHARE * length).expand(SEQUENCES, length)
    for name, share in ways(llm, speech):
        for _ in range(WARM_UP):
            step(llm, embeddings, targets)
        took = statistics.median(card.seconds(lambda: step(llm, embeddings, targets)) for _ in range(ROUNDS))
        flops = useful(LLMFlops.of(llm), np.full(SEQUENCES, length), share)  # type: ignore[arg-type]
        speed = {"positions_per_s": sizes.positions / took, "useful_share": flops / took / ceiling}
        figures.add(**{name: speed})


if __name__ == "__main__":
    run_stage(main)
