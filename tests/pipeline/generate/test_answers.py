"""From an engine's answers to the store and to the table of continuations."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.generate import run
from pipeline.generate.engines.interface import Answer, Request
from pipeline.generate.store import store_folder
from pipeline.prompts import Prompter
from pipeline.stage import UserError
from pipeline.tables import continuations, parquet
from tests.builders import TEXTS, run_generate, write_texts
from tests.doubles import (
    AnswerOf,
    RecordingEngine,
    end_of_prompt,
    let_runs_start,
)


def test_an_engine_that_fails_half_way_loses_nothing_that_it_answered(
    tmp_path: Path, llm: Path, engine: RecordingEngine
) -> None:
    write_texts(tmp_path / "manifest.parquet", ["a", "b", "c", "d"])
    engine.fails_at = 2
    with pytest.raises(UserError, match="the engine failed"):
        run_generate(tmp_path, llm)
    engine.fails_at = None
    run_generate(tmp_path, llm)
    assert len(engine.asked) == 4


def test_what_another_process_answers_meanwhile_is_not_asked_again(
    tmp_path: Path, llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[RecordingEngine] = []

    def answer(request: Request, count: int) -> Answer:
        """Before the second answer, another process answers the last two requests."""
        if count == 2:
            others.append(let_runs_start(monkeypatch, RecordingEngine()))
            (tmp_path / "other").mkdir()
            write_texts(tmp_path / "other" / "manifest.parquet", ["c", "d"])
            run_generate(tmp_path / "other", llm)
        return end_of_prompt(request, count)

    write_texts(tmp_path / "manifest.parquet", ["a", "b", "c", "d"])
    ours = let_runs_start(monkeypatch, RecordingEngine(answer))
    rows = run_generate(tmp_path, llm)
    assert [len(each.asked) for each in (ours, *others)] == [2, 2]
    assert all(row["finish_reason"] == continuations.STOP for row in rows)


def test_the_likeliest_tokens_are_kept_at_each_position(tmp_path: Path, llm: Path) -> None:
    write_texts(tmp_path / "manifest.parquet", ["yes"])
    run_generate(tmp_path, llm, store_logprobs=3)
    opened = run.open_run("semantic", tmp_path / "params.yaml")
    (kept,) = opened.store.history(opened.signature.key("yes", None))
    num_steps = len(kept["token_ids"]) + (kept["finish_reason"] == continuations.STOP)
    assert [len(step) for step in kept["top_ids"]] == [3] * num_steps
    assert [ids[0] for ids in kept["top_ids"]][: len(kept["token_ids"])] == kept["token_ids"]
    assert sum(step[0] for step in kept["top_logprobs"]) == pytest.approx(kept["logprob"], abs=1e-4)


def test_an_engine_that_leaves_prompts_out_is_told(
    tmp_path: Path, llm: Path, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "manifest.parquet")
    generate_all = engine.generate
    monkeypatch.setattr(engine, "generate", lambda requests: itertools.islice(generate_all(requests), 1))
    with pytest.raises(
        UserError, match=rf"recorder 1: no answer to {len(set(TEXTS)) - 1} of {len(set(TEXTS))} prompts"
    ):
        run_generate(tmp_path, llm)


def with_likeliest(num_top: int) -> AnswerOf:
    """Answer with likeliest tokens as vLLM does: the answer's own comes first, though it is not among the others."""
    likeliest = {100 + i: -0.5 - i for i in range(num_top)}

    def answer(request: Request, count: int) -> Answer:
        given = end_of_prompt(request, count)
        return replace(given, top=[{token: -20.0, **likeliest} for token in (*given.token_ids, 0)])

    return answer


def read_signals(path: Path) -> list[Any]:
    rows = parquet.rows_by_id(path, continuations.SCHEMA, optional=continuations.SIGNALS_SCHEMA)
    return [row["top_ids"] for row in rows if "top_ids" in row]


def test_the_output_has_as_many_likeliest_tokens_as_the_parameters_say_and_none_without(
    tmp_path: Path, llm: Path, engine: RecordingEngine
) -> None:
    engine.answer = with_likeliest(5)
    output = tmp_path / "continuations.parquet"
    write_texts(tmp_path / "manifest.parquet", ["yes", None, "no"])
    run_generate(tmp_path, llm, store_logprobs=5)
    of_five = output.read_bytes()
    assert read_signals(output) == [[[100, 101, 102, 103, 104]] * 4, None, [[100, 101, 102, 103, 104]] * 4]
    run_generate(tmp_path, llm, store_logprobs=2)
    assert read_signals(output) == [[[100, 101]] * 4, None, [[100, 101]] * 4]
    run_generate(tmp_path, llm)
    assert parquet.columns(output) == continuations.SCHEMA.names
    run_generate(tmp_path, llm, store_logprobs=5)
    assert output.read_bytes() == of_five
    assert len(engine.asked) == 2


def test_answers_kept_without_likeliest_tokens_are_given_again_where_these_are_wanted(
    tmp_path: Path, llm: Path, engine: RecordingEngine
) -> None:
    write_texts(tmp_path / "manifest.parquet")
    run_generate(tmp_path, llm)
    before = (tmp_path / "continuations.parquet").read_bytes()
    engine.answer = with_likeliest(2)
    assert {row["generation"] for row in run_generate(tmp_path, llm, store_logprobs=2)} == {2}
    assert len(engine.asked) == 6
    run_generate(tmp_path, llm, store_logprobs=2)
    assert len(engine.asked) == 6
    run_generate(tmp_path, llm)
    assert (tmp_path / "continuations.parquet").read_bytes() == before


def test_stage_2_keeps_no_likeliest_tokens(tmp_path: Path, llm: Path, engine: RecordingEngine) -> None:
    write_texts(tmp_path / "manifest.parquet")
    run_generate(tmp_path, llm, "emotion", store_logprobs=2)
    assert parquet.columns(tmp_path / "continuations.parquet") == continuations.SCHEMA.names


def test_an_engine_that_does_not_tell_likeliest_tokens_is_named(
    tmp_path: Path, llm: Path, engine: RecordingEngine
) -> None:
    write_texts(tmp_path / "manifest.parquet")
    with pytest.raises(UserError, match=r"store_logprobs: recorder 1 did not return the 2 likeliest tokens"):
        run_generate(tmp_path, llm, store_logprobs=2)


@pytest.mark.parametrize("logprob", [float("nan"), float("-inf")])
def test_a_log_probability_that_is_not_finite_stops_and_names_the_transcript(
    tmp_path: Path, llm: Path, monkeypatch: pytest.MonkeyPatch, logprob: float
) -> None:
    def answer(request: Request, count: int) -> Answer:
        return replace(end_of_prompt(request, count), logprob=logprob if request.transcript == "c" else -1.0)

    engine = let_runs_start(monkeypatch, RecordingEngine(answer))
    write_texts(tmp_path / "manifest.parquet", ["a", "b", "c", "d"])
    with pytest.raises(UserError, match=r"generate: recorder 1: 'c': found the log-probability (nan|-inf), expected"):
        run_generate(tmp_path, llm)
    assert len(engine.asked) == 3
    let_runs_start(monkeypatch, engine)
    engine.answer = end_of_prompt
    run_generate(tmp_path, llm)
    assert len(engine.asked) == 5  # the answers before it were kept


def test_stored_answers_need_no_tokenizer(
    tmp_path: Path, llm: Path, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "manifest.parquet", ["a", "bc"])
    first = run_generate(tmp_path, llm)
    monkeypatch.setattr(Prompter, "load", None)
    assert run_generate(tmp_path, llm) == first
    assert [len(row["text_ids"]) for row in first] == [1, 2]


def test_answers_that_an_earlier_version_has_stored_get_the_token_ids_of_their_transcripts(
    tmp_path: Path, llm: Path, engine: RecordingEngine
) -> None:
    write_texts(tmp_path / "manifest.parquet", ["a", "bc"])
    first = run_generate(tmp_path, llm)
    for shard in store_folder().glob("continuations/*/parts/*.parquet"):
        table = pq.read_table(shard)
        pq.write_table(table.drop_columns("text_ids"), shard)
    assert run_generate(tmp_path, llm) == first
    assert len(engine.asked) == 2
