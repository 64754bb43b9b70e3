import itertools

import pytest
import torch
from torch.nn import functional

from train import losses
from train.model.output_head import OutputHead


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(7, 6, dtype=torch.float64), torch.randn(7, 6, dtype=torch.float64), torch.randn(11, 6).double()


def plain_kl(student: torch.Tensor, teacher: torch.Tensor, output_VD: torch.Tensor, temperature: float) -> torch.Tensor:
    p = functional.log_softmax(teacher @ output_VD.T / temperature, -1)
    q = functional.log_softmax(student @ output_VD.T / temperature, -1)
    return functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_kl_and_its_gradient_are_those_of_the_definition(
    monkeypatch: pytest.MonkeyPatch,
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    temperature: float,
) -> None:
    monkeypatch.setattr(losses, "ROWS_AT_ONCE", 3)  # so that the rows take several rounds, the last one short
    student, teacher, output_VD = rows
    weights = torch.arange(7.0, dtype=torch.float64)
    ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
    kl = losses.response_kl(ours, teacher, OutputHead(output_VD), temperature)
    expected = plain_kl(plain, teacher, output_VD, temperature)
    torch.testing.assert_close(kl, expected, rtol=0, atol=1e-12)
    (kl * weights).sum().backward()
    (expected * weights).sum().backward()
    assert plain.grad is not None
    torch.testing.assert_close(ours.grad, plain.grad, rtol=0, atol=1e-12)


def test_the_kl_of_equal_states_is_zero(rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    student, _, output_VD = rows
    assert losses.response_kl(student, student, OutputHead(output_VD), 2.0).abs().max() == 0


def test_several_students_are_compared_with_one_teacher(
    monkeypatch: pytest.MonkeyPatch, rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    monkeypatch.setattr(losses, "ROWS_AT_ONCE", 3)
    first, teacher, output_VD = rows
    students = [first, teacher, first - teacher]
    kls, agrees = losses.several_kls(students, teacher, OutputHead(output_VD))
    likeliest = (teacher @ output_VD.T).argmax(-1)
    for student, kl, agree in zip(students, kls, agrees, strict=True):
        torch.testing.assert_close(kl, plain_kl(student, teacher, output_VD, 1.0), rtol=0, atol=1e-12)
        assert torch.equal(agree, (student @ output_VD.T).argmax(-1) == likeliest)
    assert agrees[1].all()
    assert not agrees[0].all()


def test_the_cross_entropy_and_its_gradient_are_those_of_the_definition(
    monkeypatch: pytest.MonkeyPatch, rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    monkeypatch.setattr(losses, "ROWS_AT_ONCE", 3)
    student, _, output_VD = rows
    targets = torch.arange(7)
    weights = torch.arange(7.0, dtype=torch.float64)
    ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
    ce = losses.response_ce(ours, targets, OutputHead(output_VD))
    expected = functional.cross_entropy(plain @ output_VD.T, targets, reduction="none")
    torch.testing.assert_close(ce, expected, rtol=0, atol=1e-12)
    (ce * weights).sum().backward()
    (expected * weights).sum().backward()
    assert plain.grad is not None
    torch.testing.assert_close(ours.grad, plain.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", ["kl", "ce"])
def test_the_logits_of_all_rows_are_never_in_memory(monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    monkeypatch.setattr(losses, "ROWS_AT_ONCE", 4)
    heights = []

    class Watched(OutputHead):
        def logits(self, states: torch.Tensor) -> torch.Tensor:
            heights.append(len(states))
            return super().logits(states)

    student, head = torch.randn(10, 6, requires_grad=True), Watched(torch.randn(11, 6))
    if loss == "kl":
        found = losses.response_kl(student, torch.randn(10, 6), head, 1.0)
    else:
        found = losses.response_ce(student, torch.arange(10), head)
    found.sum().backward()
    assert max(heights) == 4
    assert sum(heights) == {"kl": 20, "ce": 10}[loss]


def test_evaluation_computes_the_same_loss_and_no_gradient(
    monkeypatch: pytest.MonkeyPatch, rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    student, teacher, output_VD = rows
    student.requires_grad_()
    expected = losses.response_kl(student, teacher, OutputHead(output_VD), 2.0)
    monkeypatch.setattr(OutputHead, "pull_back", None)
    with torch.no_grad():
        torch.testing.assert_close(losses.response_kl(student, teacher, OutputHead(output_VD), 2.0), expected.detach())


def dense_stored_kl(
    student: torch.Tensor, p: torch.Tensor, top_ids: torch.Tensor, output_VD: torch.Tensor
) -> torch.Tensor:
    """Compute the KL of two distributions of k + 1 outcomes: the kept tokens, and all others as one."""
    q = functional.softmax(student @ output_VD.T, -1)
    kept_p, kept_q = p.gather(1, top_ids), q.gather(1, top_ids)
    coarse_p = torch.cat([kept_p, 1 - kept_p.sum(-1, keepdim=True)], -1)
    coarse_q = torch.cat([kept_q, 1 - kept_q.sum(-1, keepdim=True)], -1)
    return (coarse_p * (coarse_p / coarse_q).log()).sum(-1)


def likeliest(teacher: torch.Tensor, output_VD: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and log-probabilities of the k likeliest tokens as an engine tells them, in float32."""
    values, ids = functional.log_softmax(teacher @ output_VD.T, -1).topk(k)
    return ids, values.float()


@pytest.mark.parametrize("k", [1, 4, 10])
def test_the_kl_of_a_stored_teacher_and_its_gradient_are_those_of_kept_tokens_and_the_rest_as_one(
    monkeypatch: pytest.MonkeyPatch, rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor], k: int
) -> None:
    monkeypatch.setattr(losses, "ROWS_AT_ONCE", 3)
    student, teacher, output_VD = rows
    weights = torch.arange(7.0, dtype=torch.float64)
    ours, dense = student.clone().requires_grad_(), student.clone().requires_grad_()
    ids, logprobs = likeliest(teacher, output_VD, k)
    kl = losses.stored_kl(ours, ids, logprobs, OutputHead(output_VD))
    expected = dense_stored_kl(dense, functional.softmax(teacher @ output_VD.T, -1), ids, output_VD)
    torch.testing.assert_close(kl.double(), expected, rtol=1e-4, atol=1e-5)
    (kl * weights).sum().backward()
    (expected * weights).sum().backward()
    assert dense.grad is not None
    torch.testing.assert_close(ours.grad, dense.grad, rtol=1e-4, atol=1e-5)


def test_a_teacher_stored_whole_gives_the_exact_kl(rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    student, teacher, output_VD = rows
    ours, exact = student.clone().requires_grad_(), student.clone().requires_grad_()
    kl = losses.stored_kl(ours, *likeliest(teacher, output_VD, len(output_VD)), OutputHead(output_VD))
    expected = losses.response_kl(exact, teacher, OutputHead(output_VD), 1.0)
    torch.testing.assert_close(kl, expected, rtol=1e-5, atol=1e-5)
    kl.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, exact.grad, rtol=1e-4, atol=1e-5)


def test_more_kept_tokens_bring_the_stored_kl_up_to_the_exact_one(
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    student, teacher, output_VD = rows
    kls = [
        losses.stored_kl(student, *likeliest(teacher, output_VD, k), OutputHead(output_VD)).sum()
        for k in range(1, len(output_VD) + 1)
    ]
    assert all(low < high + 1e-5 for low, high in itertools.pairwise(kls))
    assert kls[0] < 0.9 * kls[-1]


def test_a_stored_teacher_that_is_certain_has_a_finite_loss_and_no_kl_with_itself(
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    student, _, output_VD = rows
    certain = 100 * student
    ids, logprobs = likeliest(certain, output_VD, 2)
    kl = losses.stored_kl(certain.float().requires_grad_(), ids, logprobs, OutputHead(output_VD.float()))
    kl.sum().backward()
    assert kl.abs().max() < 1e-3
    assert losses.stored_kl(-certain, ids, logprobs, OutputHead(output_VD)).isfinite().all()
