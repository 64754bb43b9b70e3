"""What generate asks in OpenAI's protocol and how it reads the answer; a server and batch files have it in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.generate.engines.interface import Answer, cut
from pipeline.generate.params import GenerateParams
from pipeline.tables.continuations import LENGTH, STOP

if TYPE_CHECKING:
    from openai.types import CompletionChoice
    from openai.types.chat.chat_completion import Choice

_AS_ID = "token_id:"  # before the number of a token among log-probabilities


class NoAnswerError(Exception):
    """Why a completion holds no whole answer."""


def sampling(params: GenerateParams) -> dict[str, Any]:
    """Return what every service has."""
    return {
        "max_tokens": params.max_new_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "seed": params.seed,
    }


def vllm_fields(end_ids: Sequence[int]) -> dict[str, Any]:
    """Return what vLLM alone has: answers as token ids, ended where the other engines end them.

    Sampling that is not in the parameters is turned off: a server takes it from the model's generation_config.json.
    """
    return {
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "add_special_tokens": False,
        "stop_token_ids": list(end_ids),
    }


def first_choice(completion: Any) -> Any:
    """Return the choice that holds the answer; raises NoAnswerError where there is none, or one that was broken off.

    vLLM hands in what it has, ended by "abort", when it is shut down.
    """
    choices = getattr(completion, "choices", None)
    if not choices:
        raise NoAnswerError("a reply without choices")
    if (reason := choices[0].finish_reason) not in (STOP, LENGTH):
        raise NoAnswerError(f"an answer ended by {reason}")
    return choices[0]


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads answers; a service that tells no token ids has its text taken, without log-probabilities."""

    encode: Callable[[str], list[int]]
    end_ids: frozenset[int]
    num_top: int
    """Likeliest tokens to keep at each position."""

    def completion(self, choice: "CompletionChoice") -> Answer:
        """Read the answer to a prompt of token ids."""
        given = choice.logprobs
        if given is None or given.token_logprobs is None:
            return self._read(choice, choice.text, None, [])
        return self._read(choice, choice.text, sum(given.token_logprobs), given.top_logprobs or [])

    def chat(self, choice: "Choice") -> Answer:
        """Read the answer to messages."""
        text = choice.message.content or ""
        if choice.logprobs is None or choice.logprobs.content is None:
            return self._read(choice, text, None, [])
        steps = choice.logprobs.content
        top = [{each.token: each.logprob for each in step.top_logprobs} for step in steps]
        return self._read(choice, text, sum(step.logprob for step in steps), top)

    def _read(self, choice: Any, text: str, logprob: float | None, top: Sequence[Mapping[str, float]]) -> Answer:
        ids = getattr(choice, "token_ids", None)
        if ids is None:
            return Answer(tuple(self.encode(text)), choice.finish_reason)
        token_ids, finish_reason = cut(ids, set(self.end_ids))
        if choice.finish_reason == STOP:  # the service may leave the end token out
            finish_reason = STOP
        named = all(name.startswith(_AS_ID) for step in top for name in step)
        return Answer(
            token_ids, finish_reason, logprob, [_by_id(step) for step in top] if self.num_top and named else []
        )


def _by_id(step: Mapping[str, float]) -> dict[int, float]:
    likeliest = sorted(step.items(), key=lambda item: -item[1])
    return {int(name.removeprefix(_AS_ID)): logprob for name, logprob in likeliest}
