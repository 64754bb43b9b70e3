"""The stage: its rows, its prompts, and what it generates again."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pipeline.generate import answers, choices, run
from pipeline.prompts import Prompter
from pipeline.stage import UserError
from pipeline.tables import continuations
from tests import builders
from tests.builders import run_generate, utterance, write_table, write_texts
from tests.doubles import (
    RecordingEngine,
    let_runs_start_none,
)


def test_rows_come_by_id_and_say_which_engine_wrote_them(
    tmp_path: Path, llm: Path, engine: RecordingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(tmp_path / "manifest.parquet")
    rows = run_generate(tmp_path, llm)
    assert [row["id"] for row in rows] == [f"corpus/{i}" for i in range(4)]
    # the prompt ends with "assistant\n", and a new line is space
    assert {row["continuation"] for row in rows} == {"nt"}
    assert {(row["engine"], row["logprob"], row["generation"]) for row in rows} == {("recorder 1", -0.5, 1)}
    plan, done = capsys.readouterr().out.splitlines()
    assert plan == (
        "generate semantic: 3 prompts to answer (0 are in the store), 146 prompt tokens, at most 36 new tokens; "
        "the time is unknown, because nothing has been generated yet"
    )
    assert done == "generate semantic: 4 rows, 3 distinct prompts, 3 generated (recorder 1); 0 answers cut"


def test_only_what_is_missing_goes_to_the_engine_which_is_not_started_for_nothing(
    tmp_path: Path,
    llm: Path,
    engine: RecordingEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_texts(tmp_path / "manifest.parquet", ["a", "b", "c", "a"])
    first = run_generate(tmp_path, llm)
    assert len(engine.asked) == 3
    write_texts(tmp_path / "manifest.parquet", ["a", "edited", "c", "a"])
    run_generate(tmp_path, llm)
    assert len(engine.asked) == 4
    capsys.readouterr()
    let_runs_start_none(monkeypatch)
    write_texts(tmp_path / "manifest.parquet", ["a", "b", "c", "a"])
    assert run_generate(tmp_path, llm) == first
    expected = "generate semantic: 4 rows, 3 distinct prompts, none generated; 0 answers cut\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("setting", "again"),
    [("engine", 0), ("rows_per_part", 0), ("max_model_len", 0), ("seed", 0), ("max_new_tokens", 3)],
)
def test_what_changes_an_answer_is_generated_again_and_nothing_else(
    tmp_path: Path, llm: Path, engine: RecordingEngine, setting: str, again: int
) -> None:
    write_texts(tmp_path / "manifest.parquet")
    run_generate(tmp_path, llm)
    changed: dict[str, Any] = {
        "engine": "vllm",
        "rows_per_part": 5,
        "max_model_len": 170,
        "seed": 2,
        "max_new_tokens": 11,
    }
    run_generate(tmp_path, llm, **{setting: changed[setting]})
    assert len(engine.asked) == 3 + again


def test_a_request_is_the_same_read_alone_and_in_turn(tmp_path: Path, llm: Path) -> None:
    write_texts(tmp_path / "manifest.parquet", ["a", "bc", "def", "a"])
    opened = run.open_run("emotion", builders.write_generate_params(tmp_path / "params.yaml", llm, temperature=1.0))
    utterances = run.read_utterances(tmp_path / "manifest.parquet")
    keys = run.keys_of(utterances, opened)
    requests = run.make_requests(utterances, keys, keys[:3], opened)
    assert [request.transcript for request in requests] == ["a", "bc", "def"]
    assert [requests[i] for i in range(3)] == list(requests) == [*requests[:2], requests[-1]]
    assert {(request.emotion, request.seed) for request in requests} == {("sad", 1)}
    assert [len(request.prompt_ids) for request in requests] == requests.table["num_prompt_tokens"].to_pylist()
    assert [request.seed for request in requests.with_seeds([5, 6, 7])] == [5, 6, 7]


def test_a_chosen_attempt_counts(tmp_path: Path, llm: Path, engine: RecordingEngine) -> None:
    write_texts(tmp_path / "manifest.parquet", ["a", "b"])
    run_generate(tmp_path, llm)
    opened = run.open_run("semantic", tmp_path / "params.yaml")
    utterances = run.read_utterances(tmp_path / "manifest.parquet")
    keys = run.keys_of(utterances, opened)
    first = run.make_requests(utterances, keys, keys[:1], opened)
    assert answers.answer_requests(first, opened, engine, anew=True) == 1
    choices.add(tmp_path / "choices.csv", opened.signature.name, {keys[0].as_py(): 2})
    assert [row["generation"] for row in run_generate(tmp_path, llm)] == [2, 1]


def test_utterances_that_no_prompt_can_be_made_of_do_not_go_to_the_engine(
    tmp_path: Path, llm: Path, engine: RecordingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [("yes", "sad"), (None, "sad"), ("", "sad"), ("yes", None), ("yes", "fear")]
    rows = [utterance(f"{i}", text=text, emotion=emotion) for i, (text, emotion) in enumerate(cases)]
    write_table(tmp_path / "manifest.parquet", rows)
    reasons = [row["finish_reason"] for row in run_generate(tmp_path, llm, "emotion")]
    no_text, no_emotion = continuations.NO_TRANSCRIPT, continuations.NO_EMOTION
    assert reasons == [continuations.STOP, no_text, no_text, no_emotion, no_emotion]
    assert len(engine.asked) == 1
    assert "2 left out (no transcript), 2 left out (no emotion)" in capsys.readouterr().out
    assert [row["finish_reason"] for row in run_generate(tmp_path, llm)] == ["stop", no_text, no_text, "stop", "stop"]


def test_the_emotion_stands_in_the_prompt(tmp_path: Path, llm: Path, engine: RecordingEngine) -> None:
    write_texts(tmp_path / "manifest.parquet", emotion="happy")
    run_generate(tmp_path, llm, "emotion")
    prompt = AutoTokenizer.from_pretrained(llm).decode(list(engine.asked[0].prompt_ids))
    assert "Go on, happy: kids are talking<|im_end|>" in prompt


def test_a_manifest_that_no_prompt_can_be_made_of_is_told(tmp_path: Path, llm: Path) -> None:
    write_texts(tmp_path / "manifest.parquet", emotion=None)
    with pytest.raises(UserError, match="no utterance to answer; expected at least one, found 4 no emotion"):
        run_generate(tmp_path, llm, "emotion")


def test_a_long_prompt_is_counted_and_a_manifest_of_them_refused(
    tmp_path: Path, llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(tmp_path / "manifest.parquet", ["yes", "x" * 200])
    rows = run_generate(tmp_path, llm)
    assert rows[1]["finish_reason"] == continuations.PROMPT_TOO_LONG
    assert (rows[1]["continuation"], rows[1]["token_ids"]) == ("", [])
    assert "1 left out (prompt too long)" in capsys.readouterr().out
    write_texts(tmp_path / "manifest.parquet", ["x" * 200])
    with pytest.raises(UserError, match="no utterance to answer; expected at least one, found 1 prompt too long"):
        run_generate(tmp_path, llm)


def test_the_same_answers_make_the_same_bytes_however_the_store_got_them(
    tmp_path: Path, llm: Path, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "manifest.parquet")
    run_generate(tmp_path, llm)
    before = (tmp_path / "continuations.parquet").read_bytes()
    monkeypatch.setenv("BLSP_STORE", str(tmp_path / "other"))
    run_generate(tmp_path, llm, rows_per_part=1)
    assert (tmp_path / "continuations.parquet").read_bytes() == before


def test_another_model_than_the_one_trained_must_be_allowed(
    tmp_path: Path, llm: Path, llm_for_vllm: Path, engine: RecordingEngine
) -> None:
    write_texts(tmp_path / "manifest.parquet", ["yes"])
    generator = builders.weights(llm_for_vllm)
    message = f"generate.generator: found {llm_for_vllm}, expected {llm}: the trained LLM learns to continue speech"
    with pytest.raises(UserError, match=re.escape(message)):
        run_generate(tmp_path, llm, generator=generator)
    run_generate(tmp_path, llm, generator={**generator, "source": str(llm)})
    assert len(engine.asked) == 1
    (row,) = run_generate(tmp_path, llm, generator=generator, allow_foreign_generator=True)
    assert len(engine.asked) == 2
    assert tuple(row["token_ids"]) == Prompter.load(llm).content_ids(row["continuation"])
