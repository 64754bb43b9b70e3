import pytest
import torch
from torch.nn import functional

from train import losses


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(7, 6, dtype=torch.float64), torch.randn(7, 6, dtype=torch.float64), torch.randn(11, 6).double()


def plain_kl(student: torch.Tensor, teacher: torch.Tensor, matrix: torch.Tensor, temperature: float) -> torch.Tensor:
    p = functional.log_softmax(teacher @ matrix.T / temperature, -1)
    q = functional.log_softmax(student @ matrix.T / temperature, -1)
    return functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_kl_and_its_gradient_are_those_of_the_definition(
    monkeypatch: pytest.MonkeyPatch,
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    temperature: float,
) -> None:
    monkeypatch.setattr(losses, "ROWS_AT_ONCE", 3)  # so that the rows take several rounds, the last one short
    student, teacher, matrix = rows
    weights = torch.arange(7.0, dtype=torch.float64)
    ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
    kl = losses.response_kl(ours, teacher, matrix, temperature)
    expected = plain_kl(plain, teacher, matrix, temperature)
    torch.testing.assert_close(kl.double(), expected, rtol=1e-5, atol=1e-6)
    (kl * weights).sum().backward()
    (expected * weights).sum().backward()
    assert plain.grad is not None
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-6)


def test_the_kl_of_equal_states_is_zero(rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    student, _, matrix = rows
    assert losses.response_kl(student, student, matrix, 2.0).abs().max() == 0


def test_the_cross_entropy_is_that_of_each_token(rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    student, _, matrix = rows
    targets = torch.arange(7)
    expected = -functional.log_softmax((student @ matrix.T).float(), -1)[targets, targets]
    torch.testing.assert_close(losses.response_ce(student, targets, matrix), expected)
