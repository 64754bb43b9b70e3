"""A step in the packed layout never waits for the device: no value of a tensor decides what is computed next.

The device `meta` stands for the GPU. Its tensors have no values, so it refuses every operation whose result the host
would have to wait for, and every operation that needs a tensor of the host.
"""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.tables.packed import PromptShell
from pipeline.weights.source import ModelsParams
from tests.builders import model_config
from train import saved_model
from train.data.dataset import Collator, Example
from train.fit.objectives import EmotionAlignment, Objective, SemanticAlignment
from train.model import Batch, SpeechLLM
from train.model.inputs import packed_sequences, sequences
from train.model.plora import lora_config

SHELL = PromptShell(before_speech=[5, 6, 7], before_text=[5, 6, 7], after=[8, 9])
META = torch.device("meta")
WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.masked_scatter", "aten.is_nonzero")


class NoWaiting(TorchDispatchMode):
    """Raises AssertionError at an operation for which a GPU would make the host wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_operations += 1
        assert not str(function).startswith(WAITS), function
        if str(function).startswith("aten.index"):
            indices = [index for index in args[1] if index is not None] if isinstance(args[1], (list, tuple)) else []
            assert all(index.dtype != torch.bool for index in indices), function
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device `meta` knows no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *_args, **_more: nullcontext())


def model_of(stage: int, models: ModelsParams) -> SpeechLLM:
    model = saved_model.build(model_config(models), torch.float32)
    if stage == 1:
        model.head.requires_grad_(False)
    else:
        model.add_plora(lora_config(2, 4, 0.0, "all-linear"))
        model.encoder.train_weights()
    return model.train()


def batch_of(stage: int, *, is_packed: bool = True, is_stored: bool = False) -> Batch:
    stored: dict[str, Any] = {"top_ids": [[1, 2]] * 3, "top_logprobs": [[-1.0, -2.0]] * 3} if is_stored else {}
    rows = [Example(torch.randn(80, frames), frames, [20, 21], [40, 41, 0], 0, **stored) for frames in (101, 16, 260)]
    lay_out = partial(packed_sequences, shares_start=True) if is_packed else sequences
    return Collator(SHELL, stage == 1 and not is_stored, is_stored, lay_out)(rows)


def run_step(model: SpeechLLM, stage: int, batch: Batch) -> int:
    """Run forward and backward pass on a device without values; return the number of operations."""
    objective: Objective = (
        SemanticAlignment(model.output_head, 1.0) if stage == 1 else EmotionAlignment(model.output_head, 1.0, 2)
    )
    with NoWaiting() as counter:
        sums = objective.sums(model(batch.to(META)), batch.to(META))
        torch.stack(list(sums.values())).sum().backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained
    assert all(parameter.grad is not None and parameter.grad.device == META for parameter in trained)
    num_operations: int = counter.num_operations
    return num_operations


@pytest.mark.parametrize(("stage", "is_stored"), [(1, False), (1, True), (2, False)])
def test_a_step_waits_for_no_value(tiny_models: ModelsParams, stage: int, is_stored: bool) -> None:
    model = model_of(stage, tiny_models).to(META)
    assert run_step(model, stage, batch_of(stage, is_stored=is_stored)) > 300


def test_nor_does_a_step_with_the_attention_of_a_gpu(
    tiny_models: ModelsParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attention(query: Tensor, key: Tensor, value: Tensor, *_lengths: Any, **_more: Any) -> Tensor:
        return query + (key + value).sum(0)

    monkeypatch.setattr("train.model.packing._varlen_runs", lambda _query: True)
    monkeypatch.setattr("train.model.packing.varlen_attn", attention)
    assert run_step(model_of(2, tiny_models).to(META), 2, batch_of(2)) > 300


def test_the_test_finds_what_waits(tiny_models: ModelsParams) -> None:
    model = model_of(2, tiny_models).to(META)
    batch = batch_of(2)
    by_mask = replace(batch, student=replace(batch.student, response_places=None))
    for waiting in (by_mask, batch_of(2, is_packed=False)):
        with pytest.raises((AssertionError, NotImplementedError, RuntimeError), match=r"aten|meta"):
            run_step(model, 2, waiting)
