"""Batch files in OpenAI's format: prompts for a service that answers them later, and the service's answers.

The custom_id of a line holds the signature, the key of the answer, and the seed if it differs from the signature's. So
import can detect and refuse answers that belong to another prompt, model or sampling.
https://developers.openai.com/api/docs/guides/batch
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
from pipeline.generate.engines import interface
from pipeline.generate.engines.interface import Request
from pipeline.generate.engines.openai_protocol import NoAnswerError, first_choice, sampling, vllm_fields
from pipeline.generate.plan import Plan, make_plan
from pipeline.generate.run import Run, keys_of, open_run
from pipeline.params import ParamsFile
from pipeline.prompts import TEMPLATE_SWITCHES, as_messages
from pipeline.stage import say
from pipeline.tables import parquet
from pipeline.weights.source import PYPI

NOT_JSON = "not JSON"
NO_OUTPUT = "no batch output"
"""The line is JSON, but it is not from an output file, or its batch was not written by export."""
FAILED = "failed"
"""The service reports an error."""
NO_ANSWER = "no answer"

_TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class NotTakenError(Exception):
    """A line that is not imported: the reason, and what was found."""


class _Response(BaseModel):
    status_code: int
    body: Any = None


class _Line(BaseModel):
    """A line of an output file or of its error file."""

    custom_id: str
    response: _Response | None = None
    error: Any = None


class _Ids(BaseModel):
    """The fields that vLLM adds to a completion and to its choices."""

    model_config = ConfigDict(strict=True)

    token_ids: list[_TokenId] | None = None
    prompt_token_ids: list[_TokenId] | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """The content of a line."""

    signature: str
    key: bytes
    seed: int | None
    """None means the seed of the signature."""
    line: _Line

    def completion(self) -> Completion | ChatCompletion:
        """Return the answer; raises NotTakenError if there is none."""
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
            raise NotTakenError(NO_ANSWER, f"a body that is not a completion: {where or type(response.body)}") from None
        try:
            first_choice(answer)
        except NoAnswerError as error:
            raise NotTakenError(NO_ANSWER, str(error)) from None
        return answer


def parse(line: bytes) -> Output:
    """Read a line; raises NotTakenError if it is not a line of an output file."""
    try:
        read = _Line.model_validate_json(line.strip())
        signature, key, *seed = read.custom_id.split("-", 2)
        return Output(signature, bytes.fromhex(key), int(seed[0]) if seed else None, read)
    except ValidationError as error:
        mistake = error.errors()[0]
        if mistake["type"] == "json_invalid":
            found = mistake["msg"].removeprefix("Invalid JSON: ").replace("line 1 column", "column")
            raise NotTakenError(NOT_JSON, found) from None
        where = ".".join(map(str, mistake["loc"])) or "line"
        raise NotTakenError(NO_OUTPUT, f"{where}: {mistake['msg']}") from None
    except ValueError:
        raise NotTakenError(NO_OUTPUT, f"custom_id {read.custom_id}") from None


def write(plan: Plan, model: str, output: Path, *, chat: bool, plain: bool) -> None:
    """Write the requests as token ids, or as messages with `chat`; `plain` leaves out fields that only vLLM knows."""
    run = plan.run
    more = {} if plain else vllm_fields(end_ids(run)) | ({"chat_template_kwargs": TEMPLATE_SWITCHES} if chat else {})
    with parquet.whole(output) as partial, partial.open("w", encoding="utf-8") as file:
        for request in plan.requests:
            own_seed = [] if request.seed == run.signature.seed else [request.seed]
            body = {"model": model, **_ask(request, run, chat=chat), **sampling(run.settings, request.seed), **more}
            url = "/v1/chat/completions" if chat else "/v1/completions"
            custom_id = "-".join(map(str, [run.signature.name, request.key.hex(), *own_seed]))
            line = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def command(run: Run, model: str, batch: Path) -> str:
    """Return the vLLM command that answers a batch with these parameters."""
    settings = run.settings
    options = f"--dtype {settings.dtype} --max-model-len {settings.max_model_len} --generation-config vllm"
    return f"vllm run-batch -i {batch} -o answers.jsonl --model {model} {options}"


def model_name(run: Run) -> str:
    """Return the name that a service gives the LLM by default: its hub id, or its folder."""
    return str(run.model) if run.llm.source.startswith(PYPI) else run.llm.source


def end_ids(run: Run) -> list[int]:
    """Return the ids of the tokens that end an answer."""
    return interface.find_end_ids(run.model, run.prompter.end_id)


def count_retokenized(plan: Plan) -> int:
    """Count the prompts whose token ids differ when they are sent as messages."""
    return sum(chat_ids(request, plan.run) != request.prompt_ids for request in plan.requests)


def chat_ids(request: Request, run: Run) -> tuple[int, ...]:
    """Return the token ids of a prompt sent as messages.

    The service tokenizes the whole prompt at once, so these ids may differ from request.prompt_ids.
    """
    return run.prompter.message_ids(_messages(request, run))


def _messages(request: Request, run: Run) -> list[dict[str, str]]:
    return as_messages(run.prompt, request.transcript, emotion=request.emotion)


def _ask(request: Request, run: Run, *, chat: bool) -> dict[str, Any]:
    num_top = run.settings.store_logprobs
    if chat:
        return {"messages": _messages(request, run), "logprobs": True, "top_logprobs": num_top}
    return {"prompt": request.prompt_ids, "logprobs": num_top}


def _message(error: Any) -> str:
    """Return the message of an error, which may be nested."""
    while isinstance(error, dict):
        error = error.get("error") or error.get("message") or error.get("code") or json.dumps(error)
    return str(error)


def main(
    kind: KindArgument,
    output: Annotated[Path, typer.Option(help="The JSONL file to write.")],
    where: Where = None,
    ids: Ids = None,
    reason: Reason = None,
    force: Annotated[bool, typer.Option("--force", help="Include prompts that have an answer in the store.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Send prompts as messages instead of token ids.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Leave out the fields that only vLLM knows.")] = False,
    model: Annotated[
        str | None, typer.Option(help="The service's name for the LLM, if it differs from the source.")
    ] = None,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Write the prompts without an answer to a batch file.

    The file has OpenAI's format. It is for services that answer later, and for machines without a network.
    By default the prompts are token ids for /v1/completions, the same ids that other engines get. vllm run-batch
    and some services take only messages (--chat). They tokenize a prompt in one piece; the command prints how
    many prompts get other token ids that way. OpenAI needs --plain, and accepts at most 50,000 lines in a file.

    \b
    python -m pipeline export emotion --output batch.jsonl --chat
    vllm run-batch -i batch.jsonl -o answers.jsonl … (as export prints it)
    python -m pipeline import emotion answers.jsonl --hardware "one H100"
    """
    selected = selection.select(selection.manifest_of(kind), where, ids or [], reason, selection.dropped_of(kind))
    run = open_run(kind, params_file)
    plan = make_plan(selected, keys_of(selected, run), run, anew=force)
    if not plan.requests:
        return say(f"export {kind}: nothing to answer, no file written; --force includes prompts with a stored answer")
    name = model or model_name(run)
    write(plan, name, output, chat=chat, plain=plain)
    left_out = f", {plan.counts.left_out:,} rows left out" if plan.counts.left_out else ""
    others = count_retokenized(plan) if chat else 0
    retokenized = f"; for {others:,} prompts the token ids change when they are sent as messages" if others else ""
    say(f"export {kind}: wrote {len(plan.requests):,} prompts for {name} to {output}{left_out}{retokenized}")
    if chat and not plain:
        say(command(run, name, output))
