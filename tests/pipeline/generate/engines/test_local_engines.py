"""Several engines on this machine write what one would write, and the loss of one is told."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.generate import __main__ as generate
from pipeline.generate.engines import machine
from pipeline.generate.engines.local_engines import LocalEngines
from pipeline.generate.engines.shares import divide_cores
from pipeline.prompts import Prompter
from pipeline.stage import UserError
from pipeline.weights.source import Weights
from tests import builders
from tests.builders import answers_in_order, change_params, requests, utterance, write_generate_params, write_table


def start_engines(llm: Path, count: int, **settings: Any) -> LocalEngines:
    shares = divide_cores(count, sorted(os.sched_getaffinity(0)))
    return LocalEngines(builders.generate_params(**settings), Weights(**builders.weights(llm)), llm, shares)


def write_project(folder: Path, llm: Path, num_rows: int, processes: int, **settings: Any) -> Path:
    """Write the parameters and a manifest of sentences with different lengths."""
    folder.mkdir(exist_ok=True)
    write_generate_params(folder / "params.yaml", llm, **settings)
    change_params({"processes": processes}, folder / "params.yaml")
    rows = [utterance(f"{i:05}", text=f"{'very ' * (i % 7)}long sentence {i}") for i in range(num_rows)]
    write_table(folder / "manifest.parquet", rows)
    return folder


def start_stage(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pipeline.generate", "--kind", "semantic", "--params", "params.yaml"]
    command += ["--manifest", "manifest.parquet", "--output", "continuations.parquet"]
    env = os.environ | {"BLSP_STORE": str(folder / "store")}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def engine_ids(stage: int) -> list[int]:
    """Return the process ids of a stage's engines."""
    found = subprocess.run(["pgrep", "-P", str(stage), "-f", "local_worker"], stdout=subprocess.PIPE, text=True)
    return [int(number) for number in found.stdout.split()]


def shards(folder: Path) -> list[Path]:
    return list(folder.glob("store/continuations/*/parts/[0-9]*.parquet"))


def test_answers_do_not_depend_on_the_number_of_engines(
    tmp_path: Path, llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = []
    for count in (1, 2):
        monkeypatch.setenv("BLSP_STORE", str(tmp_path / f"store {count}"))
        folder = write_project(tmp_path / str(count), llm, 100, count, temperature=1.0, rows_per_part=30)
        output = folder / "continuations.parquet"
        generate.main("semantic", folder / "manifest.parquet", output, params_file=folder / "params.yaml")
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1]
    rows = builders.read_continuations(tmp_path / "1" / "continuations.parquet")
    assert len({row["continuation"] for row in rows}) > 20  # the batches differ


def test_scores_do_not_depend_on_the_number_of_engines(llm: Path) -> None:
    pairs = [((20, 21, 22 + i % 5), (40 + i,)) for i in range(40)]
    prompter, weights = Prompter.load(llm), Weights(**builders.weights(llm))
    alone = machine.start(builders.generate_params(), 1, weights, llm, prompter)
    together = machine.start(builders.generate_params(), 2, weights, llm, prompter)
    assert isinstance(together, LocalEngines)
    assert together.name == alone.name
    assert dict(together.score(pairs)) == pytest.approx(dict(alone.score(pairs)), abs=1e-5)


def test_a_slow_engine_does_not_hold_up_the_others(llm: Path) -> None:
    llms = start_engines(llm, 3, engine="echo")
    slow = llms._workers[1].process
    slow.send_signal(signal.SIGSTOP)
    answers = llms.generate(requests([(20, 21)] * 200))
    first = [next(answers)[0] for _ in range(200)]  # the stopped engine has asked for none
    assert sorted(first) == list(range(200))
    slow.send_signal(signal.SIGCONT)
    assert list(answers) == []
    assert len(answers_in_order(llms, requests([(20, 21)] * 200))) == 200


def test_an_engine_that_cannot_start_says_why_in_one_line(tmp_path: Path, llm: Path) -> None:
    for file in llm.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(UserError, match=f"{tmp_path}: "):
        start_engines(tmp_path, 2)


def test_an_engine_that_is_killed_ends_the_work_with_one_line(llm: Path) -> None:
    llms = start_engines(llm, 2, engine="echo")
    llms._workers[1].process.kill()
    message = r"generate: engine 2 of 2 \(core \d+\) was killed by SIGKILL; the answers so far are in the store; run"
    with pytest.raises(UserError, match=message):
        list(llms.generate(requests([(20, 21)] * 200)))
    assert llms._workers[0].process.poll() is not None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stage_that_loses_an_engine_keeps_its_answers_and_goes_on_from_there(tmp_path: Path, llm: Path) -> None:
    num_rows = 3_000
    folder = write_project(tmp_path / "run", llm, num_rows, 2, max_new_tokens=24, rows_per_part=64)
    stage = start_stage(folder)
    while not shards(folder) and stage.poll() is None:
        time.sleep(0.02)
    os.kill(engine_ids(stage.pid)[1], signal.SIGKILL)
    _, errors = stage.communicate()
    assert stage.returncode == 1
    (line,) = errors.splitlines()
    assert re.fullmatch(
        r"error: generate: engine \d of 2 \(core \d\) was killed by SIGKILL; .*; run again to go on", line
    )
    kept = sum(pq.read_metadata(shard).num_rows for shard in shards(folder))
    assert 0 < kept < num_rows
    output, _ = start_stage(folder).communicate()
    assert f"{num_rows - kept:,} prompts to answer ({kept:,} are in the store)" in output
    keys = [key for shard in shards(folder) for key in pq.read_table(shard)["key"].to_pylist()]
    assert len(keys) == len(set(keys)) == num_rows


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_engines_end_when_their_stage_is_killed(tmp_path: Path, llm: Path) -> None:
    folder = write_project(tmp_path / "run", llm, 3_000, 2, max_new_tokens=24, rows_per_part=64)
    stage = start_stage(folder)
    while not shards(folder) and stage.poll() is None:
        time.sleep(0.02)
    started = engine_ids(stage.pid)
    assert len(started) == 2
    stage.kill()
    stage.communicate()
    deadline = time.monotonic() + 300
    while any(Path(f"/proc/{number}").exists() for number in started) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{number}").exists() for number in started)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_vllm_write_what_one_writes(tmp_path: Path, llm_for_vllm: Path) -> None:
    outputs = []
    for count in (1, 2):
        folder = write_project(tmp_path / str(count), llm_for_vllm, 200, count, engine="vllm", temperature=1.0)
        stage = start_stage(folder)
        _, errors = stage.communicate()
        assert stage.returncode == 0, errors
        outputs.append(builders.read_continuations(folder / "continuations.parquet"))
    assert [row["continuation"] for row in outputs[0]] == [row["continuation"] for row in outputs[1]]
