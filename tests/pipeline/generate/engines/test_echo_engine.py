"""The engine echo, which answers every transcript with itself, to try the graph without an LLM."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.generate import __main__ as generate
from pipeline.generate import choices, run
from pipeline.generate.engines.echo_engine import EchoEngine
from pipeline.stage import UserError
from pipeline.tables import continuations
from tests.builders import change_params, read_continuations, requests


@pytest.fixture(autouse=True)
def _work_in(project: Path) -> None:
    """Work in a project of five utterances, the last without a transcript."""


def generated(**settings: object) -> list[dict[str, Any]]:
    """Run the stage; return its rows."""
    change_params({f"generate.{name}": value for name, value in settings.items()})
    generate.main("semantic", Path("manifests/semantic.parquet"), Path("c.parquet"), choices.FILE)
    return read_continuations(Path("c.parquet"))


def test_every_transcript_is_answered_with_itself() -> None:
    rows = generated(engine="echo", max_new_tokens=100, max_model_len=500)
    transcripts = ["kids are talking", "dogs are sitting", "yes", "kids are talking", ""]
    assert [row["continuation"] for row in rows] == transcripts
    assert [row["finish_reason"] for row in rows] == [continuations.STOP] * 4 + [continuations.NO_TRANSCRIPT]
    prompter = run.open_run("semantic", Path("params.yaml")).prompter
    assert [row["token_ids"] for row in rows] == [list(prompter.content_ids(text)) for text in transcripts]
    assert {(row["engine"], row["logprob"]) for row in rows[:4]} == {("echo 1", None)}


def test_a_transcript_with_as_many_tokens_as_an_answer_may_have_is_cut_there() -> None:
    rows = generated(engine="echo", max_new_tokens=3)
    assert [row["continuation"] for row in rows[:3]] == ["kid", "dog", "yes"]
    assert {row["finish_reason"] for row in rows[:4]} == {continuations.LENGTH}


def test_an_echo_and_the_answer_of_an_llm_never_stand_for_each_other() -> None:
    echoes = generated(engine="echo")
    assert run.open_run("semantic", Path("params.yaml")).signature.model == "echo"
    answers = generated(engine="transformers")
    assert {row["engine"] for row in echoes[:4]}.isdisjoint(row["engine"] for row in answers[:4])
    assert {row["generation"] for row in answers[:4]} == {1}
    assert generated(engine="echo") == echoes
    assert generated(engine="transformers") == answers
    told = json.loads(CliRunner().invoke(app, ["history", "a", "--kind", "semantic", "--json"]).stdout)
    assert [(entry["model"] == "echo", entry["is_used"]) for entry in told] == [(True, False), (False, True)]


def test_likeliest_tokens_cannot_be_stored_of_an_echo() -> None:
    with pytest.raises(UserError, match=r"generate: expected store_logprobs = 0 for the engine echo, which has no log"):
        generated(engine="echo", store_logprobs=1)


def test_every_scored_answer_is_equally_likely() -> None:
    llm = EchoEngine(lambda text: [len(text)], 5)
    assert list(llm.score([([1, 2], [3]), ([1], [4, 5])])) == [(0, 0.0), (1, 0.0)]
    assert [position for position, _ in llm.generate(requests([[1], [2]]))] == [0, 1]
