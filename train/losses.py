"""The losses of both stages, from final hidden states and the LLM's frozen output head.

The hidden states are only those at positions that predict a response token. Logits are computed for a few rows at a
time, so those of a whole batch are never in memory. The gradients have a closed form: with q = softmax(student / tau)
and p = softmax(teacher / tau), d KL(p || q) / d student logits = (q - p) / tau. For the cross-entropy, p is 1 at the
target, and tau is 1. The frozen head needs no gradient.

A stored teacher has only the k likeliest tokens K. All other tokens count as one token R with the remaining mass p_R:

    sum over v in K of p_v log(p_v / q_v) + p_R log(p_R / q_R)  <=  KL(p || q)

by the log sum inequality. The left side is KL(p' || q), where p' distributes p_R over all tokens outside K in
proportion to q. Its gradient is q - p'. So the code builds the full distribution p' from the stored tokens and q, and
then computes KL and gradient as for an exact teacher.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from train.model.output_head import OutputHead, at_least_float32

ROWS_AT_ONCE = 64  # 39 MB of float32 logits with a vocabulary of 150,000; about three such matrices are alive
ROWS_AT_ONCE_ON_GPU = 256  # with fewer, a GPU would mostly read the output matrix
LEAST_REST = torch.finfo(torch.float32).eps  # lower limit of p_R: below it, 1 - sum in float32 is rounding error

_Measure = Callable[[slice, Tensor], tuple[Tensor, Tensor]]
"""Returns the losses of some rows and q - p, given their log q, which it may overwrite."""


class _ByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, head: OutputHead, temperature: float, measure: _Measure) -> Tensor:
        losses = student.new_zeros(len(student), dtype=at_least_float32(student.dtype))
        gradient = torch.empty_like(student) if ctx.needs_input_grad[0] else None

        def run(rows: slice) -> None:  # a function, so that the logits of these rows are freed before those of the next
            log_q, logits = _log_softmax(head, student[rows], temperature)
            losses[rows], difference = measure(rows, log_q)
            if gradient is not None:
                gradient[rows] = head.pull_back(difference.div_(temperature), logits)

        rows_at_once = ROWS_AT_ONCE_ON_GPU if student.is_cuda else ROWS_AT_ONCE
        for start in range(0, len(student), rows_at_once):
            run(slice(start, start + rows_at_once))
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0][:, None].to(gradient.dtype), None, None, None


def _by_rows(student: Tensor, head: OutputHead, temperature: float, measure: _Measure) -> Tensor:
    if not torch.is_grad_enabled():
        student = student.detach()  # so that no gradient is computed
    return _ByRows.apply(student, head.detached(), temperature, measure)  # type: ignore[no-any-return, no-untyped-call]


def _log_softmax(head: OutputHead, states: Tensor, temperature: float) -> tuple[Tensor, Tensor | None]:
    """Return the log-probabilities of the softened logits, and the logits if their gradient needs them."""
    logits = head.logits(states)
    kept = logits if head.softcap is not None else None
    softened = logits.div_(temperature) if kept is None else logits / temperature
    return functional.log_softmax(softened, dim=-1), kept


def _kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Return KL(p || q) of each row and q - p; both arguments are overwritten."""
    p = log_p.exp()
    kl = log_p.sub_(log_q).mul_(p).sum(-1)
    return kl, log_q.exp_().sub_(p)


def response_kl(
    student: Float[Tensor, "n d"],
    teacher: Float[Tensor, "n d"],
    head: OutputHead,
    temperature: float,
) -> Float[Tensor, " n"]:
    """Return KL(teacher || student) at each predicted response token, in nats (paper Eq. 1).

    `student` and `teacher` are final hidden states; `head` turns them into the LLM's logits. `temperature` softens both
    distributions, without a factor tau^2, as in the official code.
    """

    def measure(rows: slice, log_q: Tensor) -> tuple[Tensor, Tensor]:
        log_p, _ = _log_softmax(head, teacher[rows], temperature)
        return _kl(log_p, log_q)

    return _by_rows(student, head, temperature, measure)


@torch.no_grad()
def several_kls(
    students: Sequence[Float[Tensor, "n d"]], teacher: Float[Tensor, "n d"], head: OutputHead
) -> tuple[Float[Tensor, "s n"], Bool[Tensor, "s n"]]:
    """Return `response_kl` at temperature 1 of several students, and where their likeliest token is the teacher's.

    There are no gradients. The teacher's logits are computed once.
    """
    rows_at_once = ROWS_AT_ONCE_ON_GPU if teacher.is_cuda else ROWS_AT_ONCE
    kls, agrees = [], []
    for states, *of_students in zip(*(each.split(rows_at_once) for each in (teacher, *students)), strict=True):
        log_p, _ = _log_softmax(head, states, 1.0)
        likeliest = log_p.argmax(-1)
        for each in of_students:
            log_q, _ = _log_softmax(head, each, 1.0)
            agrees.append(log_q.argmax(-1) == likeliest)
            kls.append(_kl(log_p.clone(), log_q)[0])
    return _by_student(kls, len(students)), _by_student(agrees, len(students))


def _by_student(pieces: list[Tensor], num_students: int) -> Tensor:
    """Join pieces of rows, which hold those of each student in turn."""
    return torch.stack([torch.cat(pieces[i::num_students]) for i in range(num_students)])


def stored_kl(
    student: Float[Tensor, "n d"],
    top_ids: Int[Tensor, "n k"],
    top_logprobs: Float[Tensor, "n k"],
    head: OutputHead,
) -> Float[Tensor, " n"]:
    """Return a lower bound of `response_kl` at temperature 1 from the teacher's k likeliest tokens at each position."""
    log_rest = (1 - top_logprobs.exp().sum(-1, keepdim=True)).clamp(min=LEAST_REST).log()

    def measure(rows: slice, log_q: Tensor) -> tuple[Tensor, Tensor]:
        log_q_rest = log_q.scatter(1, top_ids[rows], -torch.inf).logsumexp(-1, keepdim=True)
        stored = top_logprobs[rows].to(log_q.dtype)
        return _kl((log_q + (log_rest[rows] - log_q_rest)).scatter(1, top_ids[rows], stored), log_q)

    return _by_rows(student, head, 1.0, measure)


def response_ce(student: Float[Tensor, "n d"], targets: Int[Tensor, " n"], head: OutputHead) -> Float[Tensor, " n"]:
    """Return the cross-entropy of each response token, in nats (paper Eq. 2)."""

    def measure(rows: slice, log_q: Tensor) -> tuple[Tensor, Tensor]:
        target = targets[rows, None]
        ce = -log_q.gather(1, target)[:, 0]
        return ce, log_q.exp_().scatter_add_(1, target, -torch.ones_like(target, dtype=log_q.dtype))

    return _by_rows(student, head, 1.0, measure)
