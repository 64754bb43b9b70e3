"""The losses of both stages, from final hidden states and the LLM's frozen output matrix.

The hidden states are only those at positions that predict a response token. The KL is computed for a few rows at a
time, so the logits of a whole batch are never in memory. Its gradient has a closed form: with
p = softmax(teacher / tau) and q = softmax(student / tau), d KL(p || q) / d student logits = (q - p) / tau. The frozen
matrix needs no gradient.

A stored teacher has only the k likeliest tokens K. All other tokens count as one token R with the remaining mass p_R:

    sum over v in K of p_v log(p_v / q_v) + p_R log(p_R / q_R)  <=  KL(p || q)

by the log sum inequality. The left side is KL(p' || q), where p' distributes p_R over all tokens outside K in
proportion to q. Its gradient is q - p'. So the code builds the full distribution p' from the stored tokens and q, and
then computes KL and gradient as for an exact teacher.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

ROWS_AT_ONCE = 256  # 150 MB of float32 logits with a vocabulary of 150,000
LEAST_REST = torch.finfo(torch.float32).eps  # lower limit of p_R: below it, 1 - sum in float32 is rounding error

_Teacher = Callable[[slice, Tensor], Tensor]
"""Returns log p of some rows, given their log q."""


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
    """Return KL(teacher || student) at each predicted response token, in nats (paper Eq. 1).

    `student` and `teacher` are final hidden states; `output_embeddings` is the LLM's frozen output matrix.
    `temperature` softens both distributions, without a factor tau^2, as in the official code.
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
    """Return the cross-entropy of each response token, in nats (paper Eq. 2)."""
    return functional.cross_entropy((student @ output_embeddings.T).float(), targets, reduction="none")
