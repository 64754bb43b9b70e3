"""A server that speaks OpenAI's protocol, such as `vllm serve`, on this machine or another.

Prompts are sent as token ids. `generate.server.concurrency` requests run at a time. After a temporary failure (no
connection, status 408, 409, 429 or 5xx, or an unfinished answer), the request is repeated, with growing pauses. So a
server may be restarted during a run. A request that fails after all repetitions stops the run. Earlier answers are in
the store.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import openai
from openai.types import Model
from pydantic import ValidationError

from pipeline.generate.engines.interface import Answer, PromptAndAnswer, Request
from pipeline.generate.engines.openai_protocol import NoAnswerError, Reader, first_choice, sampling, vllm_fields
from pipeline.generate.params import GenerateParams, ServerParams
from pipeline.prompts import Prompter
from pipeline.stage import UserError

if TYPE_CHECKING:
    from openai.types import CompletionChoice

Question = TypeVar("Question")
Reply = TypeVar("Reply")

_TIMEOUT_S = 600.0  # of one answer
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 8.0  # as in OpenAI's client
_MAX_SAID = 200  # characters of a server's message
_GO_ON = "the answers so far are in the store; run again to go on"


class ServerEngine:
    """Keeps `concurrency` requests running."""

    def __init__(self, params: GenerateParams, server: ServerParams, model: Path, source: str, end_ids: Sequence[int]):
        """Find the model on the server; raises UserError if the server has another model."""
        self._params, self._server, self._end_ids = params, server, list(end_ids)
        self._tokenizer: Any = Prompter.load(model).tokenizer
        self._reader = Reader(self._encode, frozenset(end_ids), params.store_logprobs)
        self._client = openai.OpenAI(
            base_url=server.url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            max_retries=server.retries,
            timeout=_TIMEOUT_S,
        )
        self._model = self._find_model(source, model)
        self.name = f"server {self._version()}"
        self.hardware = server.url

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[int, Answer]]:
        """See Engine.generate."""
        return self._ask(self._answer, requests)

    def score(self, pairs: Iterable[PromptAndAnswer]) -> Iterator[tuple[int, float]]:
        """See Engine.score."""
        return self._ask(self._score, pairs)

    def _ask(self, ask: Callable[[Question], Reply], questions: Iterable[Question]) -> Iterator[tuple[int, Reply]]:
        """Ask several questions at a time; yield each question's position with its reply."""
        waiting, running = enumerate(questions), dict[Future[Reply], int]()
        failure: BaseException | None = None
        with ThreadPoolExecutor(self._server.concurrency) as pool:
            while True:
                if failure is None:
                    for position, question in itertools.islice(waiting, self._server.concurrency - len(running)):
                        running[pool.submit(ask, question)] = position
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    position = running.pop(future)
                    if error := future.exception():
                        failure = failure or error  # running requests may still succeed
                    else:
                        yield position, future.result()
        if failure is not None:
            raise failure

    def _score(self, pair: PromptAndAnswer) -> float:
        prompt, answer = pair
        given = self._complete(prompt=[*prompt, *answer], max_tokens=1, temperature=0.0, logprobs=0, echo=True).logprobs
        if given is None or len(given.token_logprobs or []) < len(prompt) + len(answer):
            raise UserError(
                f"generate.server.url: {self._server.url}: expected log-probabilities of the prompt, found none; "
                "set generate.agreement to null"
            )
        assert given.token_logprobs is not None
        return sum(given.token_logprobs[len(prompt) : len(prompt) + len(answer)])

    def _answer(self, request: Request) -> Answer:
        schema = {"structured_outputs": {"json": request.json_schema}} if request.json_schema else {}
        choice = self._complete(
            prompt=list(request.prompt_ids),
            logprobs=self._params.store_logprobs,
            **sampling(self._params, request.seed),
            extra_body=vllm_fields(self._end_ids) | schema,
        )
        return self._reader.completion(choice)

    def _complete(self, **request: Any) -> "CompletionChoice":
        """Ask for a completion; a reply without a whole answer counts as a temporary failure."""
        for number in range(self._server.retries + 1):
            if number:
                time.sleep(min(_FIRST_PAUSE_S * 2 ** (number - 1), _MAX_PAUSE_S))
            try:
                choice: CompletionChoice = first_choice(self._client.completions.create(model=self._model, **request))
            except openai.OpenAIError as error:
                raise self._error(self._describe(error), _GO_ON) from None
            except NoAnswerError as error:
                found = str(error)
            else:
                return choice
        raise self._error(f"{found} after {self._server.retries} retries", _GO_ON)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _find_model(self, source: str, folder: Path) -> str:
        """Return the server's name for the LLM."""
        try:
            reply = self._client.get("/models", cast_to=object)
            served = [Model.model_validate(each) for each in reply["data"]]  # type: ignore[index]
        except openai.OpenAIError as error:
            raise self._error(self._describe(error), "expected a server of OpenAI's protocol") from None
        except (TypeError, KeyError, ValidationError):
            raise self._error(
                "no list of models", "expected the address of an OpenAI server, which usually ends in /v1"
            ) from None
        for model in served:
            if {model.id, getattr(model, "root", None)} & {source, str(folder), str(folder.resolve())}:
                return model.id
        found = ", ".join(model.id for model in served) or "none"
        raise UserError(f"generate.server.url: {self._server.url} serves {found}; expected {source} or {folder}")

    def _version(self) -> str:
        """Return the server's version; only vLLM has an address for it."""
        try:
            answer = httpx.get(httpx.URL(self._server.url).copy_with(path="/version"), timeout=10)
            return f"vllm {answer.json()['version']}"
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return "of unknown version"

    def _describe(self, error: openai.OpenAIError) -> str:
        """Describe an error, and how often the request was repeated."""
        retried = f" after {self._server.retries} retries"
        if isinstance(error, openai.APIConnectionError):
            return f"no connection{retried}"
        if not isinstance(error, openai.APIStatusError):
            return f"{error}{retried}"
        status, body = error.status_code, error.body
        said = body.get("message") if isinstance(body, dict) else body
        found = f"status {status}" + (f" ({' '.join(str(said).split())[:_MAX_SAID]})" if said else "")
        if status in (401, 403):
            return f"{found}; set the key in $OPENAI_API_KEY"
        return found + (retried if status in (408, 409, 429) or status >= 500 else "")

    def _error(self, found: str, more: str) -> UserError:
        return UserError(f"generate.server.url: {self._server.url}: found {found}; {more}")
