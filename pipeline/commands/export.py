"""Files of OpenAI's batch format: prompts for a service that answers them all in its own time, and its answers.

A line's custom_id is the recipe and the key of the answer, and the seed where it is not the recipe's, so that no answer
to another prompt, of another model or with other sampling passes for one. https://developers.openai.com/api/docs/guides/batch
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from openai.types import Completion
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.commands import selection
from pipeline.commands.options import Ids, KindArgument, Reason, Where
from pipeline.generate import plan, run
from pipeline.generate.engines import interface
from pipeline.generate.engines.openai_protocol import NoAnswerError, first_choice, sampling, vllm_fields
from pipeline.generate.plan import Work
from pipeline.generate.run import Job, Request
from pipeline.params import ParamsFile
from pipeline.prompts import TEMPLATE_SWITCHES, as_messages
from pipeline.stage import say
from pipeline.tables import parquet
from pipeline.weights.source import PYPI

NOT_JSON = "not JSON"
NO_OUTPUT = "no batch output"
"""JSON, but no line of an output file, or of one that was not written here."""
FAILED = "failed"
"""The service says so."""
NO_ANSWER = "no answer"


_TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class NotTakenError(Exception):
    """Why a line is not taken: a reason, and what was found."""


class _Response(BaseModel):
    status_code: int
    body: Any = None


class _Line(BaseModel):
    """A line of an output file, or of the error file beside it."""

    custom_id: str
    response: _Response | None = None
    error: Any = None


class _Ids(BaseModel):
    """What vLLM adds to a completion and to its choices."""

    model_config = ConfigDict(strict=True)

    token_ids: list[_TokenId] | None = None
    prompt_token_ids: list[_TokenId] | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """What a line says."""

    recipe: str
    key: bytes
    seed: int | None
    """None for the recipe's."""
    line: _Line

    def completion(self) -> Completion | ChatCompletion:
        """Return the answer; raises NotTakenError where there is none."""
        response = self.line.response
        if response is None and not self.line.error:
            raise NotTakenError(NO_OUTPUT, "neither a response nor an error")
        if self.line.error or response is None or response.status_code != 200:
            status = "no response" if response is None else f"status {response.status_code}"
            error = self.line.error or (response and response.body)
            raise NotTakenError(FAILED, f"{status}: {_message(error)}" if error else status)
        is_chat = isinstance(response.body, dict) and response.body.get("object") == "chat.completion"
        try:
            answer = (ChatCompletion if is_chat else Completion).model_validate(response.body)
            for place in (answer, *answer.choices):
                _Ids.model_validate(place.model_extra)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise NotTakenError(NO_ANSWER, f"a body that is no completion: {where or type(response.body)}") from None
        try:
            first_choice(answer)
        except NoAnswerError as error:
            raise NotTakenError(NO_ANSWER, str(error)) from None
        return answer


def parse(line: bytes) -> Output:
    """Read a line; raises NotTakenError where it is none of an output file."""
    try:
        read = _Line.model_validate_json(line.strip())
        recipe, key, *seed = read.custom_id.split("-", 2)
        return Output(recipe, bytes.fromhex(key), int(seed[0]) if seed else None, read)
    except ValidationError as error:
        mistake = error.errors()[0]
        if mistake["type"] == "json_invalid":
            found = mistake["msg"].removeprefix("Invalid JSON: ").replace("line 1 column", "column")
            raise NotTakenError(NOT_JSON, found) from None
        where = ".".join(map(str, mistake["loc"])) or "line"
        raise NotTakenError(NO_OUTPUT, f"{where}: {mistake['msg']}") from None
    except ValueError:
        raise NotTakenError(NO_OUTPUT, f"custom_id {read.custom_id}") from None


def write(work: Work, model: str, output: Path, *, chat: bool, plain: bool) -> None:
    """Write the requests, as token ids or, for `chat`, as messages; `plain` leaves out what vLLM alone has."""
    job, settings = work.job, work.job.settings
    more = {} if plain else vllm_fields(end_ids(job)) | ({"chat_template_kwargs": TEMPLATE_SWITCHES} if chat else {})
    with parquet.whole(output) as partial, partial.open("w", encoding="utf-8") as file:
        for request in work.requests:
            drawn = {"seed": request.seed} if request.seed != job.recipe.seed else {}
            body = {"model": model, **_ask(request, job, chat=chat), **sampling(settings), **drawn, **more}
            url = "/v1/chat/completions" if chat else "/v1/completions"
            custom_id = "-".join(map(str, [job.recipe.name, request.key.hex(), *drawn.values()]))
            line = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def command(job: Job, model: str, batch: Path) -> str:
    """Return the command by which vLLM answers a batch as the parameters say."""
    settings = job.settings
    options = f"--dtype {settings.dtype} --max-model-len {settings.max_model_len} --generation-config vllm"
    return f"vllm run-batch -i {batch} -o answers.jsonl --model {model} {options}"


def model_name(job: Job) -> str:
    """Return what a service calls the LLM where nothing else is said: its hub id, or its folder."""
    return str(job.model) if job.llm.source.startswith(PYPI) else job.llm.source


def end_ids(job: Job) -> list[int]:
    """Return the tokens that end an answer."""
    return interface.find_end_ids(job.model, job.prompter.end_id)


def count_retokenised(work: Work) -> int:
    """Count the prompts that are other token ids as messages."""
    return sum(chat_ids(request, work.job) != request.prompt_ids for request in work.requests)


def chat_ids(request: Request, job: Job) -> tuple[int, ...]:
    """Return the token ids of a prompt as messages: a service tokenises it as one piece, so they may be others."""
    return job.prompter.message_ids(_messages(request, job))


def _messages(request: Request, job: Job) -> list[dict[str, str]]:
    return as_messages(job.prompt, request.transcript, emotion=request.emotion)


def _ask(request: Request, job: Job, *, chat: bool) -> dict[str, Any]:
    num_top = job.settings.store_logprobs
    if chat:
        return {"messages": _messages(request, job), "logprobs": True, "top_logprobs": num_top}
    return {"prompt": request.prompt_ids, "logprobs": num_top}


def _message(error: Any) -> str:
    """Return what an error says, however deep it lies."""
    while isinstance(error, dict):
        error = error.get("error") or error.get("message") or error.get("code") or json.dumps(error)
    return str(error)


def main(
    kind: KindArgument,
    output: Annotated[Path, typer.Option(help="The JSONL file to write.")],
    where: Where = None,
    ids: Ids = None,
    reason: Reason = None,
    force: Annotated[bool, typer.Option("--force", help="What the store answers, too.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="As messages; without, as token ids.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Without the fields that vLLM alone has.")] = False,
    model: Annotated[str | None, typer.Option(help="What the service calls the LLM, if not by its source.")] = None,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Write the prompts that lack an answer to a batch file.

    In OpenAI's format, for services that answer in their own time, and for machines that are not connected.
    /v1/completions takes the prompts as the other engines do. vllm run-batch and some services take messages
    alone; they tokenise a prompt as one piece, and how many are other token ids then is told. OpenAI wants
    --plain and takes 50,000 lines a file.

    \b
    python -m pipeline export emotion --output batch.jsonl --chat
    vllm run-batch -i batch.jsonl -o answers.jsonl … (as export prints it)
    python -m pipeline import emotion answers.jsonl --hardware "one H100"
    """
    selected = selection.select(selection.manifest_of(kind), where, ids or [], reason, selection.dropped_of(kind))
    opened = run.open_job(kind, params_file)
    work = plan.make(selected, run.keys_of(selected, opened), opened, anew=force)
    if not work.requests:
        return say(f"export {kind}: nothing to answer, no file written; --force takes what the store answers, too")
    name = model or model_name(opened)
    write(work, name, output, chat=chat, plain=plain)
    left_out = f", {work.plan.left_out:,} rows left out" if work.plan.left_out else ""
    others = count_retokenised(work) if chat else 0
    retokenised = f"; {others:,} are other token ids as messages" if others else ""
    say(f"export {kind}: wrote {len(work.requests):,} prompts for {name} to {output}{left_out}{retokenised}")
    if chat and not plain:
        say(command(opened, name, output))
