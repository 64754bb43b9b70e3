"""Stages in several processes of one machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.stage import UserError
from train import launch

STAGE = """
import os, signal, sys, time
rank, mode = int(os.environ["RANK"]), sys.argv[1]
assert os.environ["WORLD_SIZE"] == "3" and os.environ["LOCAL_RANK"] == str(rank)
print("process", rank, flush=True)
if mode == "fails" and rank == 1:
    raise SystemExit("error: process 1 has no data")
if mode == "dies" and rank == 2:
    os.kill(os.getpid(), signal.SIGKILL)
if mode in ("fails", "dies"):
    time.sleep(60)
if mode == "stops":
    signal.signal(signal.SIGTERM, lambda *_: (time.sleep(rank == 0), print("stopped", flush=True), sys.exit(75)))
    open(f"ready{rank}", "w").close()
    time.sleep(60)
"""
LAUNCH = "import sys; from train import launch; sys.exit(launch.run(3, 'stage', sys.argv[1:]))"


def start(folder: Path, root: Path, mode: str) -> "subprocess.Popen[str]":
    (folder / "stage.py").write_text(STAGE)
    launcher = LAUNCH.replace("launch.run", "setattr(launch, 'PATIENCE_S', 1.0) or launch.run")
    return subprocess.Popen(
        [sys.executable, "-c", launcher, mode],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{root}:{folder}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_only_the_first_process_prints(tmp_path: Path, root: Path) -> None:
    output, errors = (launched := start(tmp_path, root, "works")).communicate(timeout=60)
    assert (launched.returncode, output, errors) == (0, "process 0\n", "")


def test_a_process_that_fails_ends_all_with_its_message_and_its_status(tmp_path: Path, root: Path) -> None:
    _, errors = (launched := start(tmp_path, root, "fails")).communicate(timeout=60)
    assert (launched.returncode, errors) == (1, "error: process 1 has no data\n")


def test_a_process_that_is_killed_ends_all_with_the_status_of_a_shell(tmp_path: Path, root: Path) -> None:
    (launched := start(tmp_path, root, "dies")).communicate(timeout=60)
    assert launched.returncode == 128 + signal.SIGKILL


def test_a_signal_reaches_all_processes_and_each_may_take_its_time(tmp_path: Path, root: Path) -> None:
    launched = start(tmp_path, root, "stops")
    while not all((tmp_path / f"ready{rank}").exists() for rank in range(3)):
        time.sleep(0.05)
    launched.send_signal(signal.SIGTERM)
    output, _ = launched.communicate(timeout=60)
    assert launched.returncode == 75
    assert output == "process 0\nstopped\n"


@pytest.mark.parametrize(("value", "expected"), [("auto", 1), ("1", 1), ("3", 3)])
def test_without_gpus_a_number_is_taken_and_auto_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: int
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    (tmp_path / "params.yaml").write_text(f"processes: {value}\n")
    assert launch.num_processes(tmp_path / "params.yaml") == expected
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert launch.num_processes(tmp_path / "params.yaml") == 1


def test_more_processes_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    (tmp_path / "params.yaml").write_text("processes: 3\n")
    with pytest.raises(UserError, match="processes: found 3, expected at most 2, the number of GPUs"):
        launch.num_processes(tmp_path / "params.yaml")


def test_auto_is_a_process_for_each_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    (tmp_path / "params.yaml").write_text("models: {}\n")
    assert launch.num_processes(tmp_path / "params.yaml") == 4
