"""OpenAI's protocol: the fields of a request, and the reading of an answer. Server and batch files share it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.generate.engines.interface import Answer, cut
from pipeline.generate.params import GenerateParams
from pipeline.tables.continuations import LENGTH, STOP

if TYPE_CHECKING:
    from openai.types import CompletionChoice
    from openai.types.chat.chat_completion import Choice

_AS_ID = "token_id:"  # prefix of a token's id among log-probabilities


class NoAnswerError(Exception):
    """A completion without a whole answer; the message says why."""


def sampling(params: GenerateParams, seed: int | None) -> dict[str, Any]:
    """Return the fields of sampling that every service knows; without `seed` if it is None."""
    fields = {"max_tokens": params.max_new_tokens, "temperature": params.temperature, "top_p": params.top_p}
    return fields if seed is None else {**fields, "seed": seed}


def vllm_fields(end_ids: Sequence[int]) -> dict[str, Any]:
    """Return the fields that only vLLM knows: answers as token ids, and the tokens that end an answer.

    They also switch off sampling options that are not in the parameters, because a server would take them from
    generation_config.json.
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
    """Return the choice that holds the answer; raises NoAnswerError if there is none, or if the answer is not whole.

    A vLLM server that shuts down sends unfinished answers with the finish reason "abort".
    """
    choices = getattr(completion, "choices", None)
    if not choices:
        raise NoAnswerError("a reply without choices")
    if (reason := choices[0].finish_reason) not in (STOP, LENGTH):
        raise NoAnswerError(f"an answer ended by {reason}")
    return choices[0]


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads answers. If a service sends no token ids, its text is tokenized, and log-probabilities are left out."""

    encode: Callable[[str], list[int]]
    end_ids: frozenset[int]
    num_top: int
    """Number of likeliest tokens to keep at each position."""

    def completion(self, choice: "CompletionChoice") -> Answer:
        """Read the answer to a prompt that was sent as token ids."""
        given = choice.logprobs
        if given is None or given.token_logprobs is None:
            return self._read(choice, choice.text, None, [])
        return self._read(choice, choice.text, sum(given.token_logprobs), given.top_logprobs or [])

    def chat(self, choice: "Choice") -> Answer:
        """Read the answer to a prompt that was sent as messages."""
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
        if choice.finish_reason == STOP:  # a service may omit the end token
            finish_reason = STOP
        named = all(name.startswith(_AS_ID) for step in top for name in step)
        return Answer(
            token_ids, finish_reason, logprob, [_by_id(step) for step in top] if self.num_top and named else []
        )


def _by_id(step: Mapping[str, float]) -> dict[int, float]:
    likeliest = sorted(step.items(), key=lambda item: -item[1])
    return {int(name.removeprefix(_AS_ID)): logprob for name, logprob in likeliest}
