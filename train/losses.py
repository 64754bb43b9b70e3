"""The losses of both stages, over the frozen output matrix and without the logits of a whole batch.

Only positions that predict a response token get here. The KL is computed a few rows at a time with
its gradient in closed form: with p = softmax(teacher / tau) and q = softmax(student / tau),
d KL(p || q) / d student logits = (q - p) / tau, and the frozen matrix needs no gradient.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

ROWS_AT_ONCE = 256  # at a vocabulary of 150,000 and fp32, 150 MB of logits


class _ResponseKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, matrix: Tensor, temperature: float) -> Tensor:
        kl = torch.zeros(len(student), device=student.device)
        gradient = torch.empty_like(student)
        for start in range(0, len(student), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            log_q = functional.log_softmax((student[rows] @ matrix.T).float() / temperature, dim=-1)
            log_p = functional.log_softmax((teacher[rows] @ matrix.T).float() / temperature, dim=-1)
            p = log_p.exp()
            kl[rows] = (p * (log_p - log_q)).sum(-1)
            gradient[rows] = ((log_q.exp() - p) / temperature).to(matrix.dtype) @ matrix
        ctx.save_for_backward(gradient)
        return kl

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0][:, None].to(gradient.dtype), None, None, None


def response_kl(
    student: Float[Tensor, "n d"],
    teacher: Float[Tensor, "n d"],
    matrix: Float[Tensor, "v d"],
    temperature: float,
) -> Float[Tensor, " n"]:
    """Return KL(teacher || student) in nats of each predicted response token (paper Eq. 1).

    `student` and `teacher` are final hidden states, `matrix` the LLM's frozen output embeddings; both
    distributions are softened by `temperature`, without a factor tau^2, as in the official code.
    """
    return _ResponseKL.apply(student, teacher.detach(), matrix.detach(), temperature)  # type: ignore[no-any-return, no-untyped-call]


def response_ce(
    student: Float[Tensor, "n d"], targets: Int[Tensor, " n"], matrix: Float[Tensor, "v d"]
) -> Float[Tensor, " n"]:
    """Return the cross-entropy in nats of each response token (paper Eq. 2)."""
    return functional.cross_entropy((student @ matrix.T).float(), targets, reduction="none")
