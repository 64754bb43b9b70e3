"""Packed, padded and one at a time, rows give the same loss and gradient, and no row sees another one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
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
from train.fit.objectives import EmotionAlignment, SemanticAlignment
from train.model import Batch, Sequences, SpeechLLM
from train.model.inputs import packed_sequences, sequences
from train.model.packing import Segments, convolve
from train.model.plora import lora_config
from train.model.selection import FEW_SIZES, SIZES, Selection, rounded_up

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


def long_examples() -> list[Example]:
    """Rows with so many frames, positions and responses that rounding up changes each of them."""
    rows = examples()
    rows[0] = replace(rows[0], response_ids=[*range(40, 70), 0], emotion=1)
    rows[2] = replace(rows[2], emotion=-1)
    return [*rows, *rows[:1]]


def in_stage(model: SpeechLLM, stage: int, batch: Batch) -> tuple[float, Tensor, dict[str, int]]:
    """Return the loss of a stage, its gradient and the counts of its units."""
    head = model.output_head
    objective = SemanticAlignment(head, 2.0) if stage == 1 else EmotionAlignment(head, 2.0, num_emotions=2)
    model.zero_grad()
    sums = objective.sums(model(batch), batch)
    loss = torch.stack([objective.weights[name] * value for name, value in sums.items()]).sum()
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None]
    return float(loss.detach()), torch.cat(gradients), dict(objective.counts(batch))


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


@pytest.mark.parametrize("shares_start", [True, False])
def test_sizes_that_are_rounded_up_change_nothing(model: SpeechLLM, shares_start: bool) -> None:
    packing = partial(packed_sequences, shares_start=shares_start)
    plain, rounded = (
        Collator(SHELL, with_teacher=True, lay_out=packing, round_up=round_up)(long_examples())
        for round_up in (False, True)
    )
    assert rounded.clips is not None
    assert plain.clips is not None
    assert isinstance(rounded.features, torch.Tensor)
    assert isinstance(plain.features, torch.Tensor)
    assert rounded.num_positions == plain.num_positions
    assert rounded.num_responses == len(plain.response_ids)
    sizes = [
        (len(longer), len(shorter))
        for longer, shorter in (
            *((longer.back, shorter.back) for longer, shorter in zip(rounded.clips[:2], plain.clips[:2], strict=True)),
            (rounded.features, plain.features),
            (rounded.student.token_ids[0], plain.student.token_ids[0]),
            (rounded.response_ids, plain.response_ids),
            (rounded.emotion, plain.emotion),
        )
    ]
    assert all(shorter <= longer <= (1 + 1 / FEW_SIZES) * (shorter + 2) for longer, shorter in sizes)
    assert sum(shorter < longer for longer, shorter in sizes) >= 5
    for stage in (1, 2):
        found, expected = (in_stage(model, stage, batch) for batch in (rounded, plain))
        assert found[0] == pytest.approx(expected[0], rel=1e-9)
        assert (found[1] - expected[1]).norm() < 1e-9 * expected[1].norm()
        assert found[2] == expected[2]


def test_a_stored_teacher_is_padded_too(model: SpeechLLM) -> None:
    rows = [
        replace(row, top_ids=[[7, 8]] * len(row.response_ids), top_logprobs=[[-1.0, -2.5]] * len(row.response_ids))
        for row in long_examples()
    ]
    packing = partial(packed_sequences, shares_start=True)
    values = []
    for round_up in (False, True):
        batch = Collator(SHELL, False, True, lay_out=packing, round_up=round_up)(rows)
        values.append(SemanticAlignment(model.output_head, 1.0).sums(model(batch), batch)["kl"])
    assert values[1].item() == pytest.approx(values[0].item(), rel=1e-12)


def test_what_is_padding_has_no_gradient_and_finite_states(model: SpeechLLM) -> None:
    batch = Collator(SHELL, True, lay_out=partial(packed_sequences, shares_start=True), round_up=True)(long_examples())
    num_frames = sum(row.num_frames for row in long_examples())
    assert isinstance(batch.features, torch.Tensor)
    features = batch.features.clone().requires_grad_()
    outputs = model(replace(batch, features=features))
    assert outputs.student.isfinite().all()
    assert outputs.emotion.isfinite().all()
    num_rows, num_responses = len(long_examples()), batch.num_responses
    (outputs.student[:num_responses].sin().sum() + outputs.emotion[:num_rows].sum()).backward(retain_graph=True)
    assert features.grad is not None
    assert features.grad[:num_frames].norm() > 1e-3
    assert (features.grad[num_frames:] == 0).all()
    (gradient,) = torch.autograd.grad(outputs.student[num_responses:].sum(), features)
    assert (gradient == 0).all()


def test_no_row_sees_another(model: SpeechLLM) -> None:
    rows = examples()
    batch = batch_of(rows, partial(packed_sequences, shares_start=True))
    assert isinstance(batch.features, Tensor)
    assert isinstance(batch.features, torch.Tensor)
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


@given(LENGTHS, st.booleans())
def test_a_rectangle_and_back(lengths: list[int], round_up: bool) -> None:
    rows = Segments.of(lengths, round_up=round_up)
    x = torch.arange(1.0, len(rows.back) + 1)
    rectangle = rows.rectangle(x)
    assert [
        line[: len(row)].tolist() for line, row in zip(rectangle, x[: sum(lengths)].split(lengths), strict=False)
    ] == [row.tolist() for row in x[: sum(lengths)].split(lengths)]
    assert rows.sequence(rectangle).tolist() == x.tolist()
    all_lengths = rows.valid.sum(1).tolist()
    assert all_lengths[: len(lengths)] == lengths
    assert rows.starts.tolist() == [0, *np.cumsum(all_lengths)]
    assert rows.offsets.tolist() == [place for length in all_lengths for place in range(length)]
    assert max(all_lengths) == max(lengths) <= rows.places.shape[1] <= max(lengths) * (1 + 1 / FEW_SIZES)


@given(st.integers(1, 100_000), st.sampled_from([SIZES, FEW_SIZES]))
def test_few_sizes_are_left_and_none_is_much_larger(size: int, num_sizes: int) -> None:
    found = rounded_up(size, num_sizes)
    assert size <= found < size * (1 + 1 / num_sizes)
    assert rounded_up(found, num_sizes) == found
    assert len({rounded_up(n, num_sizes) for n in range(found, 2 * found)}) <= max(found, num_sizes) + 1


@given(st.lists(st.booleans(), min_size=1, max_size=80), st.booleans())
def test_what_is_selected_is_taken_and_placed_again(selected: list[bool], round_up: bool) -> None:
    found = Selection.of(np.array(selected), round_up=round_up)
    x = torch.arange(1.0, len(selected) + 1)
    kept = x[torch.tensor(selected)].tolist()
    taken = found.taken(x)
    assert taken.tolist() == [*kept, *[0] * (len(taken) - len(kept))]
    assert found.placed(taken).tolist() == (x * torch.tensor(selected)).tolist()
