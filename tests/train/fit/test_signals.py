"""A signal to stop loses no finished step, and a resumed run equals a run without a signal bit for bit."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.weights.source import ModelsParams
from tests.builders import batch_section, semantic_fit_section
from train.fit import run, signals
from train.fit.params import SemanticFitParams
from train.fit.run import RunFolders
from train.fit.trainer import Trainer

STOPPED_AT = 4  # of 9 steps
FIT = {"epochs": 3.0, "save_every": 100}  # only a signal makes a checkpoint
SENDER = """
import os, signal, sys
from pipeline.stage import run_stage
from train.fit import trainer, __main__ as fit
run_step = trainer.Trainer.step
def step(trainer, step, *args):
    if step == {step} - 1 and os.environ.get("RANK", "0") == os.environ.get("SIGNALLED", "0"):
        {send}
    return run_step(trainer, step, *args)
trainer.Trainer.step = step
run_stage(fit.main)
"""
TO_ITSELF = "os.kill(os.getpid(), signal.{name})"
TO_ITS_GROUP = "os.killpg(os.getpgid(0), signal.{name})"


def start(
    folder: Path, models: ModelsParams, data: Path, how: list[str], num_processes: int = 1, **changes: Any
) -> "subprocess.CompletedProcess[str]":
    folder.mkdir(exist_ok=True)
    fit = semantic_fit_section(**FIT, **changes)
    sections = {"models": models.model_dump(), "emotions": ["sad", "happy"], "fit": {"semantic": fit}}
    (folder / "params.yaml").write_text(yaml.safe_dump(sections))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    command = [sys.executable, *(launch if num_processes > 1 else []), *how, "--kind", "semantic", "--data", str(data)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "SIGNALLED": str(num_processes - 1)}
    return subprocess.run(
        [*command, "--output", "model", "--resume"], cwd=folder, env=env, capture_output=True, text=True,
        start_new_session=True, check=False,
    )  # fmt: skip


def sender(folder: Path, send: str, name: str = "SIGTERM") -> list[str]:
    script = folder.parent / "sender.py"
    script.write_text(SENDER.format(step=STOPPED_AT, send=send.format(name=name)))
    return [str(script)]


def assert_equal_results(folder: Path, expected: Path) -> None:
    for name in ("adapter.safetensors", "losses.jsonl"):
        assert (folder / "model" / name).read_bytes() == (expected / "model" / name).read_bytes()


def test_a_run_that_two_signals_stop_equals_the_whole_run(
    tmp_path: Path, tiny_models: ModelsParams, packed_folder: Path
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    done = start(whole, tiny_models, packed_folder, ["-m", "train.fit"])
    assert done.returncode == 0, done.stderr
    stopped = start(folder, tiny_models, packed_folder, sender(folder, TO_ITSELF))
    assert stopped.returncode == 75, stopped.stderr
    assert f"fit: semantic: stopped by SIGTERM after step {STOPPED_AT} of 9; --resume" in stopped.stdout
    assert "Traceback" not in stopped.stderr
    assert not (folder / "model").exists()
    # a scheduler sends the second signal to all processes, also to the worker that reads the data
    again = sender(folder, TO_ITS_GROUP, "SIGUSR1")
    script = Path(again[0])
    script.write_text(script.read_text().replace(f"{STOPPED_AT} - 1", "6 - 1"))
    stopped = start(folder, tiny_models, packed_folder, again, workers=1)
    assert stopped.returncode == 75, stopped.stderr
    assert f"continues after step {STOPPED_AT} of 9" in stopped.stdout
    assert "stopped by SIGUSR1 after step 6 of 9" in stopped.stdout
    resumed = start(folder, tiny_models, packed_folder, ["-m", "train.fit"], workers=1)
    assert resumed.returncode == 0, resumed.stderr
    assert "continues after step 6 of 9" in resumed.stdout
    assert_equal_results(folder, whole)


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(
    tmp_path: Path, tiny_models: ModelsParams, packed_folder: Path
) -> None:
    batches = batch_section(max_frames=60, per_step=4)
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    done = start(whole, tiny_models, packed_folder, ["-m", "train.fit"], 2, batches=batches, log_every=100)
    assert done.returncode == 0, done.stderr
    how = sender(folder, TO_ITSELF)
    stopped = start(folder, tiny_models, packed_folder, how, 2, batches=batches, log_every=100)
    assert stopped.returncode == 1  # the status of the launcher
    assert "stopped by a signal to another process after step 5 of 9" in stopped.stdout
    resumed = start(folder, tiny_models, packed_folder, ["-m", "train.fit"], 2, batches=batches, log_every=100)
    assert resumed.returncode == 0, resumed.stderr
    assert "continues after step 5 of 9" in resumed.stdout
    assert_equal_results(folder, whole)


@pytest.mark.parametrize("during", ["evaluate", "step"])
def test_a_signal_during_the_last_step_or_an_evaluation_is_obeyed_and_nothing_is_lost(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    settings = SemanticFitParams.model_validate(semantic_fit_section())
    run.fit(settings, tiny_models, ["sad", "happy"], replace(folders, output=tmp_path / "whole"), resume=False)
    called = getattr(Trainer, during)
    calls = 0

    def call(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == {"evaluate": 2, "step": 6}[during]:
            os.kill(os.getpid(), signal.SIGTERM)
        return called(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, during, call)
        with pytest.raises(SystemExit) as stopped:
            run.fit(settings, tiny_models, ["sad", "happy"], folders, resume=True)
    assert stopped.value.code == signals.EXIT_STATUS
    run.fit(settings, tiny_models, ["sad", "happy"], folders, resume=True)
    for name in ("adapter.safetensors", "losses.jsonl"):
        assert (folders.output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [json.loads(line)["step"] for line in (folders.output / "losses.jsonl").read_text().splitlines()] == [
        0, 1, 2, 3, 3, 4, 5, 6, 6,
    ]  # fmt: skip


def test_after_training_the_signals_do_again_what_they_did_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals.StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (stop.arrived(), stop.name) == (True, "SIGUSR1")
    assert signal.getsignal(signal.SIGTERM) is before
