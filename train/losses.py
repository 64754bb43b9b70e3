"""The losses of both stages, over the frozen output matrix and without the logits of a whole batch.

Only positions that predict a response token get here. The KL is computed a few rows at a time with
its gradient in closed form: with p = softmax(teacher / tau) and q = softmax(student / tau),
d KL(p || q) / d student logits = (q - p) / tau, and the frozen matrix needs no gradient.

Of a stored teacher only the k likeliest tokens K are known. All others count as one, R, whose mass is what is left:

    sum over v in K of p_v log(p_v / q_v) + p_R log(p_R / q_R)  <=  KL(p || q)

by the log sum inequality. That is the KL(p' || q) of a p' that spreads p_R over R as q does, and its gradient is
q - p', too: so the stored teacher is completed to p', and the rest is the same.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

ROWS_AT_ONCE = 256  # at a vocabulary of 150,000 and fp32, 150 MB of logits
LEAST_REST = torch.finfo(torch.float32).eps  # mass beyond the kept tokens: a sum of float32 tells no less from 0

_Teacher = Callable[[slice, Tensor], Tensor]
"""Return log p of some rows, given their log q."""


class _KL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, output_embeddings: Tensor, temperature: float, teacher: _Teacher) -> Tensor:
        kl = torch.zeros(len(student), device=student.device)
        gradient = torch.empty_like(student)
        for start in range(0, len(student), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            log_q = functional.log_softmax((student[rows] @ output_embeddings.T).float() / temperature, dim=-1)
            log_p = teacher(rows, log_q)
            p = log_p.exp()
            kl[rows] = (p * (log_p - log_q)).sum(-1)
            gradient[rows] = ((log_q.exp() - p) / temperature).to(output_embeddings.dtype) @ output_embeddings
        ctx.save_for_backward(gradient)
        return kl

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0][:, None].to(gradient.dtype), None, None, None


def response_kl(
    student: Float[Tensor, "n d"],
    teacher: Float[Tensor, "n d"],
    output_embeddings: Float[Tensor, "v d"],
    temperature: float,
) -> Float[Tensor, " n"]:
    """Return KL(teacher || student) in nats of each predicted response token (paper Eq. 1).

    `student` and `teacher` are final hidden states, `output_embeddings` the LLM's frozen output embeddings; both
    distributions are softened by `temperature`, without a factor tau^2, as in the official code.
    """
    teacher, output_embeddings = teacher.detach(), output_embeddings.detach()

    def run(rows: slice, _log_q: Tensor) -> Tensor:
        return functional.log_softmax((teacher[rows] @ output_embeddings.T).float() / temperature, dim=-1)

    return _KL.apply(student, output_embeddings, temperature, run)  # type: ignore[no-any-return, no-untyped-call]


def stored_kl(
    student: Float[Tensor, "n d"],
    top_ids: Int[Tensor, "n k"],
    top_logprobs: Float[Tensor, "n k"],
    output_embeddings: Float[Tensor, "v d"],
) -> Float[Tensor, " n"]:
    """Return a lower bound of `response_kl` at temperature 1 from the teacher's k likeliest tokens at each position."""
    log_rest = (1 - top_logprobs.exp().sum(-1, keepdim=True)).clamp(min=LEAST_REST).log()

    def complete(rows: slice, log_q: Tensor) -> Tensor:
        log_q_rest = log_q.scatter(1, top_ids[rows], -torch.inf).logsumexp(-1, keepdim=True)
        return (log_q + (log_rest[rows] - log_q_rest)).scatter(1, top_ids[rows], top_logprobs[rows])

    return _KL.apply(student, output_embeddings.detach(), 1.0, complete)  # type: ignore[no-any-return, no-untyped-call]


def response_ce(
    student: Float[Tensor, "n d"], targets: Int[Tensor, " n"], output_embeddings: Float[Tensor, "v d"]
) -> Float[Tensor, " n"]:
    """Return the cross-entropy in nats of each response token (paper Eq. 2)."""
    return functional.cross_entropy((student @ output_embeddings.T).float(), targets, reduction="none")
