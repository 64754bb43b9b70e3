"""A run of generate that is killed at any moment, and two at once: the store is whole, no answer is written twice."""

import itertools
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.tables import continuations
from tests.builders import change_params, read_continuations, utterance, write_generate_params, write_table

ROWS_PER_PART, KILLS = 20, 10


@pytest.fixture
def project(tmp_path: Path, llm_for_vllm: Path) -> Path:
    """Parameters by which the real vLLM answers with a random model."""
    write_generate_params(
        tmp_path / "params.yaml", llm_for_vllm, engine="vllm", max_new_tokens=48, rows_per_part=ROWS_PER_PART
    )
    return tmp_path


def write_manifest(project: Path, num_rows: int) -> None:
    rows = [utterance(f"{i:04}", text=f"sentence number {i}") for i in range(num_rows)]
    write_table(project / "manifest.parquet", rows)


def start(project: Path, output: str = "c.parquet") -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pipeline.generate", "--kind", "semantic", "--params", "params.yaml"]
    command += ["--manifest", "manifest.parquet", "--output", output]
    return subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True)


def shards(store: Path) -> list[Path]:
    return list(store.glob("continuations/*/parts/[0-9]*.parquet"))


def check(project: Path, store: Path, num_rows: int, output: str = "c.parquet") -> None:
    rows = read_continuations(project / output)
    assert [row["id"] for row in rows] == [f"{i:04}" for i in range(num_rows)]
    assert {row["finish_reason"] for row in rows} <= {continuations.STOP, continuations.LENGTH}
    keys = [key for shard in shards(store) for key in pq.read_table(shard)["key"].to_pylist()]
    assert len(keys) == len(set(keys)) == num_rows


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_that_is_killed_again_and_again_loses_and_doubles_nothing(project: Path, store: Path) -> None:
    num_rows = 3_000  # more than vLLM answers between ten starts and the kills that follow
    write_manifest(project, num_rows)
    moments = random.Random(1)
    stored = [0]
    for _ in range(KILLS):
        seen = len(shards(store))
        process = start(project)
        while len(shards(store)) == seen and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        stored.append(sum(pq.read_metadata(shard).num_rows for shard in shards(store)))
    assert all(before < after for before, after in itertools.pairwise(stored))
    assert stored[-1] < num_rows, "the last run was not killed half way"
    assert all(count % ROWS_PER_PART == 0 for count in stored)  # whole shards: of what was ready, less than one is lost
    asked = re.search(r"([\d,]+) prompts to answer", start(project).communicate()[0])
    assert asked
    assert int(asked[1].replace(",", "")) == num_rows - stored[-1]
    check(project, store, num_rows)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_runs_at_once_make_one_store(project: Path, store: Path) -> None:
    num_rows = 600
    write_manifest(project, num_rows)
    change_params({"generate.engine": "transformers"}, project / "params.yaml")
    outputs = ("a.parquet", "b.parquet")
    processes = [start(project, output) for output in outputs]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    written = [int(match[1]) for out in said if (match := re.search(r"(\d+) generated", out))]
    assert sum(written) == num_rows
    for output in outputs:
        check(project, store, num_rows, output)
    assert (project / "a.parquet").read_bytes() == (project / "b.parquet").read_bytes()
