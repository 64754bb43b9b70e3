"""A process that hangs is named, and ends the training of all."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.weights.source import ModelsParams
from tests.builders import batch_section, semantic_fit_section
from train.fit import hang
from train.fit.hang import HangWatch, describe

LIMIT_S = 30.0
SLEEPER = """
import os, sys, time
from pipeline.stage import run_stage
from train import launch
from train.fit import trainer, __main__ as fit
launch.PATIENCE_S = 10.0
run_step = trainer.Trainer.step
def step(trainer, step, *args):
    if step == 3 and os.environ.get("RANK") == "1":
        time.sleep(3600)
    return run_step(trainer, step, *args)
trainer.Trainer.step = step
run = launch.run
launch.run = lambda count, module, arguments: run(count, "sleeper", arguments)
if __name__ == "__main__":
    run_stage(fit.main)
"""


class SharedStore(dict[str, str]):
    """A store of one process."""

    def set(self, key: str, value: str, /) -> None:
        self[key] = value

    def get(self, key: str, /) -> bytes:  # type: ignore[override]
        if key not in self:
            raise RuntimeError("the store does not answer")
        return self[key].encode()


def stopped(watch: HangWatch, ends: list[int]) -> bool:
    """Wait a while; return whether the watch has ended its process."""
    deadline = time.monotonic() + 10
    while not ends and time.monotonic() < deadline and watch.thread.is_alive():
        time.sleep(0.01)
    return bool(ends)


def test_the_process_that_is_behind_is_named_by_the_first_of_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "GRACE_S", 0.0)
    store, ends = SharedStore(), list[int]()
    store |= {"fit/0": "1 12"}
    with HangWatch(store, 2, 3, 0.2, ends.append) as hung_as_well:
        hung_as_well.begins(12)
        store["fit/1"] = "2 12"
        assert stopped(hung_as_well, ends)
    assert capsys.readouterr().err == ""  # process 1 tells it
    told = list[int]()
    with HangWatch(store, 1, 3, 0.2, told.append) as teller:
        teller.begins(12)
        assert stopped(teller, told)
    assert capsys.readouterr().err == (
        "error: fit: step 12: process 0 of 3 has made no progress for 0.00333 minutes; the others wait for it; look at "
        "its machine and GPU, then run again with --resume; the last checkpoint is kept\n"
    )
    assert ends == told == [69]


def test_progress_within_a_step_keeps_a_process_alive() -> None:
    ends: list[int] = []
    with HangWatch(SharedStore(), 0, 1, 1.0, ends.append) as watch:
        for _ in range(15):
            watch.alive()
            time.sleep(0.1)
    assert ends == []
    assert not watch.thread.is_alive()


def test_one_process_is_not_watched() -> None:
    with HangWatch(None, 0, 1, 0.001) as watch:
        watch.begins(1)
        time.sleep(0.05)
        assert not watch.thread.is_alive()


def test_a_hang_of_all_and_a_store_that_is_gone_are_told_as_such() -> None:
    assert "step 7: none of 2 processes has made progress for 30 minutes, and none is" in describe(None, 7, 2, 1800)
    assert "process 0 of 2 does not answer, and the others wait for it for 30 minutes" in describe(0, -1, 2, 1800)


@pytest.mark.slow
def test_a_process_that_sleeps_ends_both_with_its_number(
    tmp_path: Path, tiny_models: ModelsParams, packed_folder: Path
) -> None:
    fit = semantic_fit_section(
        batches=batch_section(max_frames=60, per_step=4), epochs=3.0, save_every=1, hang_minutes=LIMIT_S / 60
    )
    sections = {
        "models": tiny_models.model_dump(), "emotions": ["sad", "happy"], "fit": {"semantic": fit}, "processes": 2
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(sections))
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    done = subprocess.run(
        [sys.executable, "sleeper.py", "--kind", "semantic", "--data", str(packed_folder), "--output", "model"],
        cwd=tmp_path,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "PYTHONPATH": f"{os.environ['PYTHONPATH']}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 69, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert told == [f"error: {describe(1, 4, 2, LIMIT_S)}"]
    assert any((tmp_path / "checkpoints").glob("*/step-*3"))
