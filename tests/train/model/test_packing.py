"""Packed, padded and one at a time, rows give the same loss and gradient, and no row sees another one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from pipeline.tables.packed import PromptShell
from pipeline.weights.source import ModelsParams
from tests.builders import model_config
from train import saved_model
from train.data.dataset import Collator, Example
from train.model import Batch, Sequences, SpeechLLM
from train.model.inputs import packed_sequences, sequences
from train.model.packing import Segments, convolve
from train.model.plora import lora_config

SHELL = PromptShell(before_speech=[5, 6, 7], before_text=[5, 6], after=[8, 9])
LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def model(tiny_models: ModelsParams) -> SpeechLLM:
    model = saved_model.build(model_config(tiny_models), torch.float32).double()
    torch.manual_seed(1)
    model.add_plora(lora_config(2, 4, 0.0, "all-linear"))
    model.encoder.train_weights()
    for name, parameter in model.llm.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.double()
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
    return model.eval()


def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(2)
    return [
        Example(
            features=torch.randn(80, frames, generator=generator, dtype=torch.float64),
            num_frames=frames,
            text_ids=text,
            response_ids=response,
            emotion=0,
        )
        for frames, text, response in (
            (101, [20, 21, 22], [40, 41, 0]), (16, [], [50]), (260, [30, 31], [60, 61, 62, 0]), (17, [33], [70, 0]),
        )
    ]  # fmt: skip


def batch_of(chosen: Sequence[Example], lay_out: Callable[..., Sequences]) -> Batch:
    return Collator(SHELL, with_teacher=True, lay_out=lay_out)(chosen)


def loss_of(model: SpeechLLM, batch: Batch) -> Tensor:
    """Return cross-entropy plus KL of the response tokens plus a function of the pooled embeddings, in float64."""
    outputs = model(batch)
    assert outputs.teacher is not None
    student, teacher = (states @ model.output_head.weight.T for states in (outputs.student, outputs.teacher))
    kl = functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="sum")
    ce = functional.cross_entropy(student, batch.response_ids, reduction="sum")
    loss: Tensor = kl + ce + outputs.emotion.sin().sum()
    return loss


def gradient_of(model: SpeechLLM, batches: Sequence[Batch]) -> tuple[float, Tensor]:
    model.zero_grad()
    losses = [loss_of(model, batch) for batch in batches]
    torch.stack(losses).sum().backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None]
    return float(torch.stack(losses).detach().sum()), torch.cat(gradients)


@pytest.mark.parametrize("shares_start", [True, False])
def test_packed_is_padded_is_one_at_a_time(model: SpeechLLM, shares_start: bool) -> None:
    rows = examples()
    packing = partial(packed_sequences, shares_start=shares_start)
    expected, gradient = gradient_of(model, [batch_of([row], sequences) for row in rows])
    assert gradient.norm() > 1e-2
    for batch in (batch_of(rows, sequences), batch_of(rows, packing), batch_of(rows[::-1], packing)):
        found, found_gradient = gradient_of(model, [batch])
        assert found == pytest.approx(expected, rel=1e-9)
        assert (found_gradient - gradient).norm() < 1e-9 * gradient.norm()


def test_padding_after_the_rows_changes_nothing(model: SpeechLLM) -> None:
    packing = partial(packed_sequences, shares_start=True)
    batch = batch_of(examples(), packing)
    assert batch.clips is not None
    frames, states, *others = batch.clips
    longer = replace(batch, clips=(frames, Segments.of(states.valid.sum(1).tolist(), size=400), *others))
    found, expected = (float(loss_of(model, given).detach()) for given in (longer, batch))
    assert found == pytest.approx(expected, rel=1e-12)


def test_no_row_sees_another(model: SpeechLLM) -> None:
    rows = examples()
    batch = batch_of(rows, partial(packed_sequences, shares_start=True))
    assert isinstance(batch.features, Tensor)
    features = batch.features.clone().requires_grad_()
    outputs = model(replace(batch, features=features))
    starts = torch.tensor([0, *(row.num_frames for row in rows)]).cumsum(0).tolist()
    first = 0
    for number, row in enumerate(rows):
        last = first + len(row.response_ids)
        loss = outputs.student[first:last].sum() + outputs.emotion[number].sum()
        (gradient,) = torch.autograd.grad(loss, features, retain_graph=True)
        seen = gradient.abs().sum(1).nonzero()[:, 0].tolist()
        assert seen
        assert min(seen) >= starts[number]
        assert max(seen) < starts[number + 1]
        first = last


@given(LENGTHS, st.sampled_from([(3, 1), (3, 2), (5, 2)]))
def test_a_convolution_over_packed_rows_is_that_over_each_row(lengths: list[int], shape: tuple[int, int]) -> None:
    kernel, stride = shape
    convolution = nn.Conv1d(2, 3, kernel, stride=stride, padding=kernel // 2, dtype=torch.float64)
    x = torch.randn(sum(lengths), 2, dtype=torch.float64, requires_grad=True)
    expected = [convolution(row.T[None])[0].T for row in x.split(lengths)]
    found = convolve(x, Segments.of(lengths), Segments.of([len(row) for row in expected]), convolution)
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(y.sin().sum(), x)[0] for y in (found, torch.cat(expected))]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@given(LENGTHS, st.integers(0, 5))
def test_a_rectangle_and_back(lengths: list[int], padding: int) -> None:
    rows = Segments.of(lengths, size=sum(lengths) + padding)
    x = torch.arange(1.0, sum(lengths) + padding + 1)
    rectangle = rows.rectangle(x)
    assert [line[: len(row)].tolist() for line, row in zip(rectangle, x.split([*lengths, padding]), strict=False)] == [
        row.tolist() for row in x[: sum(lengths)].split(lengths)
    ]
    assert rows.sequence(rectangle).tolist() == [*x[: sum(lengths)].tolist(), *[0] * padding]
    assert rows.offsets.tolist() == [*(place for length in lengths for place in range(length)), *[0] * padding]
