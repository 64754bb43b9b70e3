"""Logits with a bias, a scale and a bound: values and gradients of the losses are those of autograd."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from train import losses
from train.model.output_head import OutputHead

HEADS = {
    "plain": (False, 1.0, None),
    "bias": (True, 1.0, None),
    "scale": (False, 0.125, None),
    "softcap": (False, 1.0, 3.0),
    "all three": (True, 2.5, 3.0),
}


@pytest.fixture(params=list(HEADS.values()), ids=list(HEADS))
def head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> OutputHead:
    monkeypatch.setattr(losses, "ROWS_AT_ONCE", 3)  # so that the rows take several rounds, the last one short
    torch.manual_seed(0)
    with_bias, scale, softcap = request.param
    bias = torch.randn(11) if with_bias else None
    return OutputHead(torch.randn(11, 6), bias, scale, softcap)


def dense_logits(states: Tensor, head: OutputHead) -> Tensor:
    """Compute the definition in float64."""
    logits = states.double() @ head.weight.T.double()
    if head.bias is not None:
        logits = logits + head.bias.double()
    logits = logits * head.scale
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def same_value_and_gradient(found: Tensor, ours: Tensor, expected: Tensor, plain: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    weights = torch.arange(float(len(found)))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert plain.grad is not None
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_kl_is_that_of_the_llms_logits(head: OutputHead, temperature: float) -> None:
    student, teacher = torch.randn(7, 6), torch.randn(7, 6)
    ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
    p = functional.log_softmax(dense_logits(teacher, head) / temperature, -1)
    q = functional.log_softmax(dense_logits(plain, head) / temperature, -1)
    found = losses.response_kl(ours, teacher, head, temperature)
    same_value_and_gradient(found, ours, (p.exp() * (p - q)).sum(-1), plain)


def test_the_kl_of_a_stored_teacher_is_that_of_the_llms_logits(head: OutputHead) -> None:
    student, teacher = torch.randn(7, 6), torch.randn(7, 6)
    ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
    p, q = (functional.softmax(dense_logits(states, head), -1) for states in (teacher, plain))
    top = functional.log_softmax(dense_logits(teacher, head), -1).topk(4)
    kept_p, kept_q = p.gather(1, top.indices), q.gather(1, top.indices)
    rest_p, rest_q = 1 - kept_p.sum(-1), 1 - kept_q.sum(-1)
    expected = (kept_p * (kept_p / kept_q).log()).sum(-1) + rest_p * (rest_p / rest_q).log()
    found = losses.stored_kl(ours, top.indices, top.values.float(), head)
    same_value_and_gradient(found, ours, expected, plain)


def test_the_cross_entropy_is_that_of_the_llms_logits(head: OutputHead) -> None:
    student, targets = torch.randn(7, 6), torch.arange(7)
    ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
    expected = functional.cross_entropy(dense_logits(plain, head), targets, reduction="none")
    same_value_and_gradient(losses.response_ce(ours, targets, head), ours, expected, plain)
