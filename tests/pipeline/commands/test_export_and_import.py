import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline.__main__ import app
from pipeline.commands import export as batch_files
from pipeline.generate import __main__ as generate
from pipeline.generate import choices
from pipeline.generate.run import keys_of, make_requests, open_run, read_utterances
from pipeline.stage import UserError
from pipeline.tables import continuations
from tests.builders import change_params, read_continuations
from tests.doubles import RecordingEngine, let_runs_start_none

Line = dict[str, Any]
BATCH, ANSWERS = Path("batch.jsonl"), Path("answers.jsonl")
END = 0  # of the tiny LLM's tokenizer


@pytest.fixture(autouse=True)
def _work_in(project: Path) -> None:
    """Work in a project of three distinct prompts: a and d have the same transcript, e has none."""


@pytest.fixture
def model(llm: Path) -> str:
    return str(llm)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def export(*arguments: str, kind: str = "semantic") -> list[Line]:
    result = run("export", kind, "--output", str(BATCH), *arguments)
    assert result.exit_code == 0, result.exception
    return [json.loads(line) for line in BATCH.read_text().splitlines()]


def write_answers(lines: Iterable[Line | str], file: Path = ANSWERS) -> None:
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


def import_(*arguments: str, kind: str = "semantic", files: Sequence[Path] = (ANSWERS,)) -> dict[str, Any]:
    result = run("import", kind, *map(str, files), "--json", *arguments)
    assert result.stdout, result.exception
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def as_vllm(request: Line, **choice: Any) -> Line:
    """Answer a request as vLLM does, with token ids."""
    ids = [50, 51, 52, END]
    logprobs = {"token_logprobs": [-0.25] * 4, "top_logprobs": [{"token_id:50": -0.25, "token_id:60": -2.0}] * 4}
    told = {"prompt_token_ids": request["body"]["prompt"], "token_ids": ids, "logprobs": logprobs}
    body = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": request["body"]["model"]}
    body["choices"] = [{"index": 0, "text": "x", "finish_reason": "stop", **told, **choice}]
    return as_output(request, body)


def as_openai(request: Line, content: str = " And so on.", reason: str = "stop", **body: Any) -> Line:
    """Answer messages as OpenAI does, as text alone."""
    message = {"role": "assistant", "content": content, "refusal": None}
    steps = [{"token": "x", "logprob": -0.5, "bytes": None, "top_logprobs": []}]
    choice = {"index": 0, "message": message, "logprobs": {"content": steps}, "finish_reason": reason}
    about = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": request["body"]["model"]}
    return as_output(request, {**about, "choices": [choice], "system_fingerprint": None, **body})


def as_output(request: Line, body: Line | None, status: int = 200, error: Any = None) -> Line:
    response = {"status_code": status, "request_id": "r1", "body": body}
    return {"id": "batch_req_1", "custom_id": request["custom_id"], "response": response, "error": error}


def taken(kind: str = "semantic") -> list[dict[str, Any]]:
    """Run the stage without an engine; return its rows."""
    generate.main("semantic", Path(f"manifests/{kind}.parquet"), Path("c.parquet"), choices.FILE)
    return read_continuations(Path("c.parquet"))


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    let_runs_start_none(monkeypatch)


def test_a_batch_asks_for_what_the_store_lacks_as_the_server_engine_does(model: str, engine: RecordingEngine) -> None:
    lines = export()
    assert [line["method"] for line in lines] == ["POST"] * 3
    assert {line["url"] for line in lines} == {"/v1/completions"}
    opened = open_run("semantic", Path("params.yaml"))
    utterances = read_utterances(Path("manifests/semantic.parquet"))
    keys = keys_of(utterances, opened)
    requests = make_requests(utterances, keys, keys[:3], opened)
    name = opened.signature.name
    assert [line["custom_id"] for line in lines] == [f"{name}-{request.key.hex()}" for request in requests]
    assert [tuple(line["body"].pop("prompt")) for line in lines] == [request.prompt_ids for request in requests]
    assert lines[0]["body"] == {
        "model": model, "logprobs": 0, "max_tokens": 12, "temperature": 0.0, "top_p": 1.0,
        "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True,
        "return_tokens_as_token_ids": True, "add_special_tokens": False,
        "stop_token_ids": [END],
    }  # fmt: skip
    run("generate", "semantic", "--id", "a")
    assert len(export()) == 2
    assert len(export("--force")) == 3
    assert len(export("--id", "b", "--model", "other")) == 1


def test_messages_hold_what_the_chat_template_gets_and_plain_ones_what_every_service_knows(model: str) -> None:
    (line,) = export("--chat", "--plain", "--id", "a", kind="emotion")
    assert line["url"] == "/v1/chat/completions"
    system, user = line["body"].pop("messages")
    assert system["role"] == "system"
    assert system["content"].startswith("You are a helpful assistant.")
    said = "Continue the following sentence that reflects a 'sad' emotion tone in a coherent style: kids are talking"
    assert user == {"role": "user", "content": said}
    assert line["body"] == {
        "model": model, "logprobs": True, "top_logprobs": 0, "max_tokens": 12, "temperature": 0.0, "top_p": 1.0,
    }  # fmt: skip
    (line,) = export("--chat", "--id", "a")
    assert line["body"]["stop_token_ids"] == [END]
    assert line["body"]["chat_template_kwargs"] == {"enable_thinking": False}


def test_what_was_exported_is_told_and_no_file_is_written_for_nothing(model: str) -> None:
    said = run("export", "semantic", "--output", str(BATCH)).stdout
    assert said == f"export semantic: wrote 3 prompts for {model} to batch.jsonl, 1 rows left out\n"
    write_answers(map(as_vllm, export()))
    import_()
    BATCH.unlink()
    said = run("export", "semantic", "--output", str(BATCH)).stdout
    assert said.startswith("export semantic: nothing to answer, no file written; --force")
    assert not BATCH.exists()


def test_answers_with_token_ids_are_those_of_an_engine(no_engine: None, model: str) -> None:
    change_params({"generate.store_logprobs": 2})
    write_answers(map(as_vllm, export()))
    assert import_("--hardware", "two H100") == {
        "lines": 3, "written": 3, "known": 0, "reasons": {}, "refused": []
    }  # fmt: skip
    opened = open_run("semantic", Path("params.yaml"))
    (kept,) = opened.store.history(opened.signature.key("yes", None))
    assert (kept["token_ids"], kept["logprob"], kept["finish_reason"]) == ([50, 51, 52], -1.0, "stop")
    assert (kept["top_ids"], len(kept["top_logprobs"])) == ([[50, 60]] * 4, 4)
    assert (kept["engine"], kept["hardware"]) == (f"batch {model}", "two H100")
    assert [row["finish_reason"] for row in taken()] == ["stop"] * 4 + [continuations.NO_TRANSCRIPT]


def test_answers_as_text_are_tokenised_and_say_whether_they_were_cut(no_engine: None) -> None:
    first, second, third = export("--chat", "--plain")
    write_answers([as_openai(first, " Go."), as_openai(second, "On", "length"), as_openai(third)])
    assert import_()["written"] == 3
    rows = taken()
    assert [row["continuation"] for row in rows[:4]] == ["Go.", "On", "And so on.", "Go."]
    assert [row["finish_reason"] for row in rows[:4]] == ["stop", "length", "stop", "stop"]
    prompter = open_run("semantic", Path("params.yaml")).prompter
    assert rows[1]["token_ids"] == list(prompter.content_ids("On"))


def test_the_same_file_again_changes_nothing_but_by_force_which_adds_an_attempt(store: Path, no_engine: None) -> None:
    write_answers(map(as_vllm, export()))
    import_()
    before = sorted(store.rglob("*.parquet"))
    again = import_()
    assert (again["written"], again["known"]) == (0, 3)
    assert sorted(store.rglob("*.parquet")) == before
    assert not choices.FILE.exists()
    assert import_("--force")["written"] == 3
    assert [row["generation"] for row in taken()] == [2, 2, 2, 2, None]
    told = json.loads(run("history", "a", "--kind", "semantic", "--json").stdout)
    assert [(entry["attempt"], entry["is_used"]) for entry in told] == [(1, False), (2, True)]


def test_an_answer_that_the_store_has_stays_and_the_others_are_added(engine: RecordingEngine) -> None:
    lines = export()
    run("generate", "semantic", "--id", "a")
    write_answers(map(as_vllm, lines))
    found = import_()
    assert (found["written"], found["known"]) == (2, 1)
    assert [row["engine"].partition(" ")[0] for row in taken()[:4]] == ["recorder", "batch", "batch", "recorder"]


MISTAKES: dict[str, tuple[Callable[[Line], Line | str], str, str]] = {
    "half a line": (lambda request: json.dumps(as_vllm(request))[:-9], "not JSON", "EOF while parsing"),
    "no object": (lambda request: "[1]", "no batch output", "line: Input should be an object"),
    "no id": (lambda request: {"response": None}, "no batch output", "custom_id: Field required"),
    "not ours": (lambda request: {"custom_id": "request-1"}, "no batch output", "custom_id request-1"),
    "other signature": (
        lambda request: as_vllm({**request, "custom_id": "0" * 32 + "-" + "1" * 32}),
        "other signature",
        "0" * 32 + ", expected ",
    ),
    "unknown key": (
        lambda request: as_vllm({**request, "custom_id": request["custom_id"].partition("-")[0] + "-" + "1" * 32}),
        "no such utterance",
        "1" * 32,
    ),
    "a request": (lambda request: request, "no batch output", "neither a response nor an error"),
    "refused by the service": (
        lambda request: as_output(request, {"error": {"message": "slow down", "code": "rate"}}, 429),
        "failed",
        "status 429: slow down",
    ),
    "refused by vLLM": (
        lambda request: as_output(request, None, 404, {"error": {"error": {"message": "no such model", "code": 404}}}),
        "failed",
        "status 404: no such model",
    ),
    "expired": (
        lambda request: {
            "custom_id": request["custom_id"],
            "response": None,
            "error": {"code": "batch_expired", "message": "too late"},
        },
        "failed",
        "no response: too late",
    ),
    "no body": (lambda request: as_output(request, None), "no answer", "a body that is not a completion"),
    "ids that are none": (
        lambda request: as_vllm(request, token_ids=[50, "x"]),
        "no answer",
        "a body that is not a completion: token_ids.1",
    ),
    "no choice": (
        lambda request: as_output(request, {**as_vllm(request)["response"]["body"], "choices": []}),
        "no answer",
        "a reply without choices",
    ),
    "filtered": (lambda request: as_openai(request, reason="content_filter"), "no answer", "an answer ended by"),
    "other vocabulary": (lambda request: as_vllm(request, token_ids=[10**9]), "no answer", "token id 1000000000, "),
    "other model": (lambda request: as_openai(request, model="gpt"), "other model", "gpt, expected "),
    "other prompt": (
        lambda request: as_vllm(request, prompt_token_ids=[1]),
        "other prompt",
        "the prompt has 1 token ids that differ from the expected ",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_line_that_cannot_be_taken_is_named_and_the_others_are(mistake: str) -> None:
    make, reason, found = MISTAKES[mistake]
    first, second, third = export()
    write_answers([as_vllm(first), "", make(second), as_vllm(third)])
    told = import_()
    assert (told["lines"], told["written"], told["reasons"]) == (3, 2, {reason: 1})
    (refused,) = told["refused"]
    assert (refused["file"], refused["line"]) == (str(ANSWERS), 3)
    assert refused["found"].startswith(found)
    nameless = ("not JSON", "no batch output", "other signature", "no such utterance")
    assert refused["id"] == (None if reason in nameless and mistake != "a request" else "b")


def test_an_error_file_is_read_beside_the_output_and_a_second_answer_is_not_taken() -> None:
    first, second, third = export()
    errors = Path("errors.jsonl")
    write_answers([as_vllm(first), as_vllm(first, token_ids=[60, END]), as_vllm(second)])
    write_answers([as_output(third, {"error": {"message": "busy"}}, 503), as_vllm(third)], errors)
    told = import_(files=[ANSWERS, errors])
    assert (told["lines"], told["written"], told["reasons"]) == (5, 3, {"answered twice": 1, "failed": 1})
    assert [(each["file"], each["line"], each["id"]) for each in told["refused"]] == [
        (str(ANSWERS), 2, "a"),
        (str(errors), 1, "c"),
    ]
    assert taken()[0]["token_ids"] == [50, 51, 52]


def test_what_became_of_the_lines_stands_in_80_columns(model: str) -> None:
    lines = export()
    write_answers([as_vllm(lines[0]), *(as_output(line, {"error": {"message": "busy " * 30}}, 503) for line in lines)])
    out = run("import", "semantic", str(ANSWERS), "-n", "2").stdout
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"^failed +3$", out, re.MULTILINE)
    assert "2 of 3 lines that were not imported; -n shows more" in out
    assert "status 503: busy" in out


def test_answers_given_anew_are_drawn_with_another_seed_which_comes_back(model: str) -> None:
    change_params({"generate.temperature": 1.0, "generate.seed": 7})
    first = export()
    write_answers(map(as_vllm, first))
    import_()
    anew = export("--force")
    assert [line["body"]["seed"] for line in (*first, *anew)] == [7] * 3 + [8] * 3
    write_answers(map(as_vllm, anew))
    assert import_("--force")["written"] == 3
    told = json.loads(run("history", "a", "--kind", "semantic", "--json").stdout)
    assert [entry["seed"] for entry in told] == [7, 8]


def test_the_command_by_which_vllm_answers_is_told(model: str) -> None:
    out = run("export", "semantic", "--output", str(BATCH), "--chat").stdout
    assert f"--model {model} --dtype float32 --max-model-len 400 --generation-config vllm" in out


def test_the_name_that_a_service_has_for_the_llm_is_taken_where_it_is_given(model: str) -> None:
    lines = export("--model", "smol")
    write_answers(map(as_vllm, lines))
    assert run("import", "semantic", str(ANSWERS)).exit_code == 1
    assert import_("--model", "smol")["written"] == 3
    assert {row["engine"] for row in taken()[:4]} == {"batch smol"}


def test_a_run_that_is_stopped_keeps_what_it_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = export()
    write_answers(map(as_vllm, lines))
    parse = batch_files.parse

    def stop(line: bytes) -> batch_files.Output:
        if lines[0]["custom_id"].encode() not in line:
            raise KeyboardInterrupt
        return parse(line)

    monkeypatch.setattr(batch_files, "parse", stop)
    run("import", "semantic", str(ANSWERS))
    assert len(export()) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "answers.jsonl: no such file; expected the output or error file of a batch"),
        ("", "answers.jsonl: no lines; expected the output or error file of a batch"),
        ("{}\n{}\n", "import: none of the 2 lines is an answer made with these parameters; expected at least one"),
    ],
)
def test_a_file_without_answers_is_told(content: str | None, message: str) -> None:
    if content is not None:
        ANSWERS.write_text(content)
    result = run("import", "semantic", str(ANSWERS))
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == message
