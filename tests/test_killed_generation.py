"""A generation that is killed at any moment, and two at once: the store is whole, and no answer is written twice."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pipeline import continuations, manifest, tables
from pipeline.weights import ModelsParams

NUM_ROWS, ROWS_PER_PART, KILLS = 600, 20, 10


@pytest.fixture
def project(tmp_path: Path, tiny_models: ModelsParams) -> Path:
    """A manifest, and parameters by which the real vLLM answers it with a random model."""
    import torch

    llm = tmp_path / "llm"
    AutoTokenizer.from_pretrained(tiny_models.llm.source).save_pretrained(llm)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=128, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=None, eos_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(llm)
    source = {"source": str(llm), "revision": None, "sha256": None}
    prompt = {"system": "S", "text": "Go on: ", "speech": "Go on: "}
    settings = {
        "engine": "vllm", "server": None, "dtype": "float32", "max_new_tokens": 48, "max_model_len": 160,
        "temperature": 0.0, "top_p": 1.0, "seed": 1, "store_logprobs": 0, "rows_per_part": ROWS_PER_PART,
    }  # fmt: skip
    sections = {
        "models": {"encoder": source, "llm": source},
        "emotions": ["sad", "happy"],
        "prompts": {"semantic": prompt, "emotion": prompt},
        "generate": settings,
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(sections))
    empty = dict.fromkeys(manifest.SCHEMA.names)
    rows = [{**empty, "id": f"{i:04}", "text": f"sentence number {i}"} for i in range(NUM_ROWS)]
    tables.write(tables.from_rows(rows, manifest.SCHEMA), tmp_path / "manifest.parquet")
    return tmp_path


def start(project: Path, output: str = "c.parquet") -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pipeline.generate", "--kind", "semantic", "--params", "params.yaml"]
    command += ["--manifest", "manifest.parquet", "--output", output]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, cwd=project, env=env, stdout=subprocess.PIPE, text=True)


def parts(store: Path) -> list[Path]:
    return list(store.glob("continuations/*/parts/[0-9]*.parquet"))


def check(project: Path, store: Path, output: str = "c.parquet") -> None:
    rows = tables.read(project / output, continuations.SCHEMA).to_pylist()
    assert [row["id"] for row in rows] == [f"{i:04}" for i in range(NUM_ROWS)]
    assert {row["finish_reason"] for row in rows} <= {continuations.STOP, continuations.LENGTH}
    keys = [key for part in parts(store) for key in pq.read_table(part)["key"].to_pylist()]
    assert len(keys) == len(set(keys)) == NUM_ROWS


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_generation_that_is_killed_again_and_again_loses_and_doubles_nothing(project: Path, store: Path) -> None:
    moments = random.Random(1)
    stored: list[int] = []
    for _ in range(KILLS):
        seen = len(parts(store))
        process = start(project)
        while len(parts(store)) == seen and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        stored.append(sum(pq.read_metadata(part).num_rows for part in parts(store)))
    assert stored == sorted(stored)
    assert 0 < stored[0] < stored[-2] <= NUM_ROWS
    said = start(project).communicate()[0]
    asked = re.search(r"(\d+) to answer", said)
    assert int(asked[1] if asked else 0) == NUM_ROWS - stored[-1]
    assert all(
        count % ROWS_PER_PART == 0 for count in stored if count < NUM_ROWS
    )  # whole parts, so less than one is lost
    check(project, store)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_generations_at_once_make_one_store(project: Path, store: Path) -> None:
    params_file = project / "params.yaml"
    params_file.write_text(params_file.read_text().replace("engine: vllm", "engine: transformers"))
    outputs = ("a.parquet", "b.parquet")
    processes = [start(project, output) for output in outputs]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    written = [int(match[1]) for out in said if (match := re.search(r"(\d+) generated", out))]
    assert sum(written) == NUM_ROWS
    for output in outputs:
        check(project, store, output)
    assert (project / "a.parquet").read_bytes() == (project / "b.parquet").read_bytes()
