import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.generate.engines.interface import Answer
from pipeline.generate.engines.server_engine import ServerEngine
from pipeline.generate.params import ServerParams
from pipeline.prompts import Prompter
from pipeline.stage import UserError
from pipeline.tables import continuations
from tests.builders import generate_params, requests

Reply = Callable[[list[int]], tuple[int, dict[str, Any]]]


class Server:
    """Speaks as much of OpenAI's protocol as the engine needs; `reply` answers a prompt with status and choice."""

    def __init__(self, model: str, reply: Reply, port: int = 0) -> None:
        self.asked: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.page: tuple[str, str] | None = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                models = {"object": "list", "data": [{"id": model, "object": "model", "created": 0, "owned_by": "x"}]}
                self.send(200, {"version": "9.9"} if self.path == "/version" else models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append(body)
                status, choice = reply(body["prompt"])
                server.statuses.append(status)
                completion = {"id": "1", "object": "text_completion", "created": 0, "model": model, "choices": [choice]}
                self.send(status, completion if status == 200 else {"error": {"message": "no"}})

            def send(self, status: int, content: dict[str, Any]) -> None:
                page, kind = server.page or (json.dumps(content), "application/json")
                data = page.encode()
                self.send_response(200 if server.page else status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "10")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @contextmanager
    def serving(self, page: str, kind: str) -> Iterator[None]:
        """Give one page for everything, as a proxy does."""
        self.page = (page, kind)
        yield
        self.page = None

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def echo(prompt: list[int]) -> tuple[int, dict[str, Any]]:
    logprobs = {"token_logprobs": [-0.5, -0.25], "top_logprobs": [{"token_id:7": -0.5, "token_id:8": -2.0}] * 2}
    ids = [prompt[-1], 0]
    return 200, {"index": 0, "text": "x", "finish_reason": "stop", "token_ids": ids, "logprobs": logprobs}


@pytest.fixture
def serve(llm: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(reply: Reply = echo, model: str = str(llm), port: int = 0) -> Server:
        servers.append(Server(model, reply, port))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def connect(llm: Path, server: Server, retries: int = 3, **settings: Any) -> ServerEngine:
    where = {"url": f"http://127.0.0.1:{server.port}/v1", "concurrency": 2, "retries": retries}
    params = generate_params(engine="server", server=where, **settings)
    assert params.server is not None
    return ServerEngine(params, params.server, llm, "the hub's name", [0])


def test_prompts_go_there_as_ids_and_come_back_with_ids_and_log_probabilities(
    llm: Path, serve: Callable[..., Server]
) -> None:
    server = serve()
    engine = connect(llm, server, store_logprobs=2)
    assert (engine.name, engine.hardware) == ("server vllm 9.9", f"http://127.0.0.1:{server.port}/v1")
    answers = dict(engine.generate(requests([[1, i] for i in range(20, 30)])))
    top = ({7: -0.5, 8: -2.0},) * 2
    assert answers == {i: Answer((20 + i,), continuations.STOP, -0.75, list(top), end_id=0) for i in range(10)}
    sent = server.asked[0]
    assert sorted(body["prompt"] for body in server.asked) == [[1, i] for i in range(20, 30)]
    assert (sent["max_tokens"], sent["temperature"], sent["stop_token_ids"], sent["logprobs"]) == (12, 0.0, [0], 2)


def test_each_prompt_goes_there_with_its_own_seed_and_a_greedy_one_with_none(
    llm: Path, serve: Callable[..., Server]
) -> None:
    server = serve()
    dict(connect(llm, server).generate([*requests([[1]]), *requests([[2]], 7), *requests([[3]], 8)]))
    assert {body["prompt"][0]: body.get("seed", "none") for body in server.asked} == {1: "none", 2: 7, 3: 8}


def test_a_form_of_the_answer_goes_there_as_a_json_schema(llm: Path, serve: Callable[..., Server]) -> None:
    server = serve(echo)
    (request,) = requests([[1]])
    dict(connect(llm, server).generate([request, replace(request, json_schema='{"type": "integer"}')]))
    sent = [body.get("structured_outputs", "none") for body in server.asked]
    assert sorted(sent, key=str) == ["none", {"json": '{"type": "integer"}'}]


def test_a_server_that_answers_in_text_alone_is_understood(llm: Path, serve: Callable[..., Server]) -> None:
    def reply(prompt: list[int]) -> tuple[int, dict[str, Any]]:
        return 200, {"index": 0, "text": "hi", "finish_reason": ("length", "stop")[prompt[0] % 2], "logprobs": None}

    engine = connect(llm, serve(reply))
    ids = Prompter.load(llm).content_ids("hi")
    assert dict(engine.generate(requests([[0], [1]]))) == {0: Answer(ids, "length"), 1: Answer(ids, "stop")}


def test_given_answers_are_scored_as_the_end_of_a_prompt(llm: Path, serve: Callable[..., Server]) -> None:
    def reply(prompt: list[int]) -> tuple[int, dict[str, Any]]:
        logprobs = [None, *(-float(token) for token in prompt[1:]), -100.0]
        return 200, {"index": 0, "text": "x", "finish_reason": "length", "logprobs": {"token_logprobs": logprobs}}

    server = serve(reply)
    assert dict(connect(llm, server).score([([1, 2], [3]), ([1], [4, 5])])) == {0: -3.0, 1: -9.0}
    assert {(body["echo"], body["max_tokens"]) for body in server.asked} == {(True, 1)}


def test_a_server_that_scores_no_prompt_is_told(llm: Path, serve: Callable[..., Server]) -> None:
    with pytest.raises(
        UserError, match=r"expected log-probabilities of the prompt, found none; set generate.agreement"
    ):
        list(connect(llm, serve()).score([([1, 2, 3], [4])]))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_request_that_fails_for_now_is_repeated(llm: Path, serve: Callable[..., Server], status: int) -> None:
    left = [2]

    def reply(prompt: list[int]) -> tuple[int, dict[str, Any]]:
        left[0] -= 1
        return echo(prompt) if left[0] < 0 else (status, {})

    server = serve(reply)
    assert len(dict(connect(llm, server).generate(requests([[1], [2], [3]])))) == 3
    assert server.statuses.count(status) == 2


@pytest.mark.parametrize("status", [429, 500])
def test_a_server_that_keeps_failing_is_named_after_all_that_it_did_answer(
    llm: Path, serve: Callable[..., Server], status: int
) -> None:
    server = serve(lambda prompt: echo(prompt) if prompt[0] < 5 else (status, {}))
    answers: list[int] = []
    message = rf"url: http://127.0.0.1:\d+/v1: found status {status} \(no\) after 1 retries; the answers so far are in"
    with pytest.raises(UserError, match=message):
        answers += [
            position for position, _ in connect(llm, server, retries=1).generate(requests([[i] for i in range(20)]))
        ]
    asked = {body["prompt"][0] for body in server.asked}
    assert asked >= set(range(6))
    assert len(asked) <= 7  # what was under way, and no more


@pytest.mark.parametrize("broken", [{"finish_reason": "abort"}, {"finish_reason": None}])
def test_an_answer_that_is_broken_off_is_asked_for_again(
    llm: Path, serve: Callable[..., Server], broken: dict[str, Any]
) -> None:
    left = [2]

    def reply(prompt: list[int]) -> tuple[int, dict[str, Any]]:
        left[0] -= 1
        return 200, echo(prompt)[1] | (broken if left[0] >= 0 else {})

    server = serve(reply)
    answers = dict(connect(llm, server).generate(requests([[5], [6], [7]])))
    assert {answer.token_ids for answer in answers.values()} == {(5,), (6,), (7,)}
    assert len(server.asked) == 5
    left[0] = 99
    with pytest.raises(
        UserError, match=rf"found an answer ended by {broken['finish_reason']} after 1 retries; the answers so far"
    ):
        dict(connect(llm, server, retries=1).generate(requests([[5]])))


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (400, r"status 400 \(no\); the answers so far"),
        (401, r"status 401 \(no\); set the key in \$OPENAI_API_KEY; the answers so far"),
    ],
)
def test_what_is_not_repeated_is_told_with_the_servers_own_words(
    llm: Path, serve: Callable[..., Server], status: int, found: str
) -> None:
    server = serve(lambda prompt: (status, {}))
    with pytest.raises(UserError, match=found):
        dict(connect(llm, server).generate(requests([[1]])))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "page", ["<html>hello</html>", '{"error": {"message": "no"}}', '{"data": 3}', '{"data": [{"name": "x"}]}']
)
def test_a_page_that_is_no_protocol_is_told(
    llm: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    server = serve()
    engine = connect(llm, server, retries=0)
    kind = "text/html" if page.startswith("<") else "application/json"
    with server.serving(page, kind):
        with pytest.raises(UserError, match=r"/v1: found no list of models; expected the address of an OpenAI server"):
            connect(llm, server)
        with pytest.raises(UserError, match=r"/v1: found a reply without choices after 0 retries"):
            dict(engine.generate(requests([[1]])))


@pytest.mark.parametrize("url", ["localhost:8000/v1", "", "ftp://host/v1", "http:///v1"])
def test_an_address_without_protocol_or_host_is_told(url: str) -> None:
    with pytest.raises(ValidationError, match=r"an address with its protocol, such as http://localhost:8000/v1"):
        ServerParams.model_validate({"url": url, "concurrency": 1, "retries": 0})


def test_a_server_that_is_restarted_in_the_middle_loses_nothing(
    llm: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    engine = connect(llm, server, retries=20)
    answers = {}
    for position, answer in engine.generate(requests([[i] for i in range(20)])):
        answers[position] = answer
        if len(answers) == 5:
            server.stop()
            threading.Timer(1.0, lambda: serve(port=server.port)).start()
    assert sorted(answers) == list(range(20))


def test_a_server_of_another_model_and_none_at_all_are_told(llm: Path, serve: Callable[..., Server]) -> None:
    server = serve(model="other")
    with pytest.raises(UserError, match=r"/v1 serves other; expected the hub's name or /"):
        connect(llm, server)
    server.stop()
    with pytest.raises(UserError, match=r"/v1: found no connection after 0 retries"):
        connect(llm, server, retries=0)


def test_the_name_of_the_weights_will_do(llm: Path, serve: Callable[..., Server]) -> None:
    assert dict(connect(llm, serve(model="the hub's name")).generate(requests([[1]])))


def test_a_version_that_is_none_is_unknown(llm: Path, serve: Callable[..., Server], monkeypatch: Any) -> None:
    monkeypatch.setattr("httpx.get", lambda *_, **__: (_ for _ in ()).throw(ValueError))
    assert connect(llm, serve()).name == "server of unknown version"
