"""With sizes that are rounded up, the matrix products of a training see few shapes, and little padding."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.gpu.sizes import RESPONSE_TOKENS, durations_s
from pipeline.audio.speech_tokens import num_speech_tokens
from pipeline.tables.packed import PromptShell
from pipeline.weights.source import ModelsParams
from tests.builders import model_config
from train import saved_model
from train.data.dataset import Collator, Example
from train.data.sampler import Budget, Sampler
from train.model.inputs import packed_sequences
from train.model.plora import lora_config

SHELL = PromptShell(before_speech=[5, 6, 7], before_text=[5, 6, 7], after=[8, 9])
STEPS = 100


def batches() -> Iterator[list[Example]]:
    """Yield 100 batches of clips as long as IEMOCAP's, planned with the budget of recipes/h100-1.yaml."""
    generator = np.random.default_rng(0)
    frames = np.round(durations_s("emotion", 4200, generator) * 100).astype(int)
    answers = generator.integers(*RESPONSE_TOKENS, size=len(frames))
    positions = num_speech_tokens(frames) + len(SHELL.after) + answers
    costs = np.stack([frames // 2, positions, np.zeros_like(positions)], axis=1)
    budget = Budget(max_frames=7800, max_positions=2960, layout="packed")
    for (rows,) in Sampler(costs=costs, budget=budget, batches_per_step=1, seed=1).plan(0)[:STEPS]:
        yield [
            Example(torch.zeros(80, 1).expand(80, frames[i]), int(frames[i]), [], [9] * int(answers[i]), 0)
            for i in rows
        ]


@pytest.mark.slow
@torch.no_grad()
def test_a_hundred_steps_see_few_shapes(tiny_models: ModelsParams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_args, **_more: nullcontext())  # the device `meta` knows none
    model = saved_model.build(model_config(tiny_models), torch.float32)
    model.add_plora(lora_config(2, 4, 0.0, "all-linear"))
    model.to("meta")
    seen: set[tuple[int, ...]] = set()
    computed = 0

    def note(layer: nn.Linear, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        nonlocal computed
        size = inputs[0].numel() // layer.in_features
        seen.add((size, layer.in_features, layer.out_features))
        computed += size * layer.weight.numel()

    for layer in (module for module in model.modules() if isinstance(module, nn.Linear)):
        layer.register_forward_hook(note)
    shapes, work = [], []
    for round_up in (False, True):
        collate = Collator(SHELL, False, lay_out=partial(packed_sequences, shares_start=True), round_up=round_up)
        seen.clear()
        computed = 0
        for examples in batches():
            model(collate(examples).to(torch.device("meta")))
        shapes.append(len(seen))
        work.append(computed)
    print(f"{shapes[0]} shapes, {shapes[1]} rounded up, for {work[1] / work[0] - 1:.1%} more products")
    assert shapes[0] > 300
    assert shapes[1] < 60
    assert work[1] < 1.03 * work[0]
