"""Scores of answers, and their means, for a comparison of two sides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.filter import scores
from pipeline.tables import continuations


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with its scores; a higher score is worse."""

    continuation: str
    finish_reason: str
    tokens: int
    logprob: float | None
    """Log-probability of the answer and its end token, in nats."""
    echo: float
    repetition: float
    refusal: float
    model_talk: float

    @property
    def is_answer(self) -> bool:
        """Whether the LLM was asked for an answer."""
        return self.finish_reason not in continuations.NOT_GENERATED


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over the answers; None if there are none."""

    answered: int
    tokens: float | None
    """Mean number of tokens."""
    cut: float | None
    """Share of the answers that reached generate.max_new_tokens."""
    echo: float | None
    """Mean share of an answer that repeats the transcript."""
    repetition: float | None
    """Mean share of the text of an answer that repeats earlier text of the same answer."""
    refusal: float | None
    """Share of the answers that refuse."""
    model_talk: float | None
    """Share of the answers in which the LLM says that it is a model."""
    logprob_per_token: float | None
    """Mean log-probability of a token, in nats; end tokens are included."""


def score(answer: Mapping[str, Any], transcript: str) -> Reply:
    """Score a row of a table of continuations."""
    continuation = answer["continuation"]
    return Reply(
        continuation=continuation,
        finish_reason=answer["finish_reason"],
        tokens=len(answer["token_ids"]),
        logprob=answer["logprob"],
        echo=scores.echo(continuation, transcript),
        repetition=scores.repetition(continuation),
        refusal=scores.refusal(continuation),
        model_talk=scores.model_talk(continuation),
    )


def summarise(replies: Sequence[Reply]) -> Summary:
    """Compute the means over replies."""
    answered = [reply for reply in replies if reply.is_answer]
    told = [reply for reply in answered if reply.logprob is not None]
    steps = sum(reply.tokens + (reply.finish_reason == continuations.STOP) for reply in told)
    return Summary(
        answered=len(answered),
        tokens=_mean([reply.tokens for reply in answered]),
        cut=_mean([reply.finish_reason == continuations.LENGTH for reply in answered]),
        echo=_mean([reply.echo for reply in answered]),
        repetition=_mean([reply.repetition for reply in answered]),
        refusal=_mean([reply.refusal for reply in answered]),
        model_talk=_mean([reply.model_talk for reply in answered]),
        logprob_per_token=sum(reply.logprob or 0.0 for reply in told) / steps if steps else None,
    )


def word(reply: Reply) -> str:
    """Return an answer as text to print, or the reason why there is none."""
    if not reply.is_answer:
        return f"({reply.finish_reason})"
    cut = " (cut)" if reply.finish_reason == continuations.LENGTH else ""
    return (reply.continuation or "(nothing)") + cut


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
