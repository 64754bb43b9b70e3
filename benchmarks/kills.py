"""Kill trainings at random steps and compare them with an uninterrupted one: python -m benchmarks.kills DIR

DIR has parameters and packed data, as after `make demo`: DIR/params.yaml and DIR/data/packed. Both stages train STEPS
steps with the recipe's models and rows. SIGKILL ends a training KILLS times, each time some moment after a random step,
and --resume continues it. Another training in float64 without dropout is stopped by SIGTERM and continued on two
processes: in float32, Adam turns the rounding of the smallest gradients into steps. Losses and final weights are
compared.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from safetensors.torch import load_file

from benchmarks.results_file import ROOT, recorded
from pipeline.params import Alignment
from pipeline.stage import UserError, say

STEPS, KILLS, SAVE_EVERY = 15, 5, 4
STAGES: tuple[Alignment, ...] = ("semantic", "emotion")
FEW_CLIPS = {"max_frames": 700, "max_positions": 500, "per_step": 2}  # of two batches, one for each process
POLL_S = 0.005
FLOAT64 = """
from dataclasses import replace
from pipeline.stage import run_stage
from train.fit import __main__ as fit, run
from train.model import Batch
build, to = run.build_model, Batch.to
def build_in_float64(*of):
    model, config = build(*of)
    return model.double(), config
def to_in_float64(batch, device):
    moved = to(batch, device)
    return replace(moved, features=moved.features.double())
run.build_model, Batch.to = build_in_float64, to_in_float64
run_stage(fit.main)
"""
LOSSES = "losses.jsonl"
LOGS = "logs/*/steps.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A stage with its parameters and its packed rows, in a folder of its own."""

    folder: Path
    kind: Alignment
    params: Mapping[str, Any]
    data: Path
    init: Path | None
    in_float64: bool = False

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "model"

    def start(self, num_processes: int = 1) -> "subprocess.Popen[str]":
        """Start or continue the training; its output goes to a file."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "params.yaml").write_text(yaml.safe_dump(dict(self.params), allow_unicode=True))
        (self.folder / "float64.py").write_text(FLOAT64)
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
        what = ["float64.py"] if self.in_float64 else ["-m", "train.fit"]
        init = [] if self.init is None else ["--init", str(self.init)]
        options = ["--kind", self.kind, "--data", str(self.data), *init, "--output", str(self.model), "--resume"]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "1"}
        with (self.folder / "output.txt").open("a") as output:
            return subprocess.Popen(
                [sys.executable, *(launch if num_processes > 1 else []), *what, *options],
                cwd=self.folder, env=env, text=True, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def finish(self, num_processes: int = 1) -> None:
        """Start or continue the training, and wait for its end; raises UserError if it fails."""
        if status := self.start(num_processes).wait():
            raise UserError(f"{self.folder}: found exit status {status}, expected 0; {self._last_line()}")

    def interrupt(self, number: signal.Signals, step: int, delay_s: float) -> int:
        """Start or continue the training, and send a signal some time after a step; return its exit status.

        Raises UserError if the training ends before.
        """
        for log in self.folder.glob(LOGS):  # of the steps before the last signal
            log.unlink()
        process = self.start()
        while self.last_step() < step:
            if process.poll() is not None:
                raise UserError(f"{self.folder}: ended before step {step}: {self._last_line()}")
            time.sleep(POLL_S)
        time.sleep(delay_s)
        process.send_signal(number)
        return process.wait()

    def last_step(self) -> int:
        """Return the last step in the log of the run; -1 if there is none."""
        steps = [-1]
        for log in self.folder.glob(LOGS):
            whole_lines = log.read_text().rpartition("\n")[0]
            steps += [json.loads(line)["step"] for line in whole_lines.splitlines() if line]
        return max(steps)

    def saved_step(self) -> int:
        """Return the step of the last complete checkpoint."""
        return max(int(path.name.removeprefix("step-")) for path in self.folder.glob("checkpoints/*/step-*"))

    def records(self) -> list[dict[str, float]]:
        """Return the losses of a finished training."""
        return [json.loads(line) for line in (self.model / LOSSES).read_text().splitlines()]

    def _last_line(self) -> str:
        return ["no message", *(self.folder / "output.txt").read_text().splitlines()][-1]


def kill(training: Training, expected: Training, generator: random.Random, step_s: float) -> dict[str, Any]:
    """Kill a training KILLS times and let it finish; say which of its results equal those of another bit for bit."""
    steps = sorted(generator.sample(range(1, STEPS), KILLS))
    for step in steps:
        # a kill also meets the middle of a later step, or the thread that writes a checkpoint
        delay_s = generator.uniform(0, 2 * step_s) if step < STEPS // 2 else 0.0
        status = training.interrupt(signal.SIGKILL, step, delay_s)
        if status != -signal.SIGKILL:
            raise UserError(f"{training.folder}: found exit status {status}, expected a killed training")
    training.finish()
    files = [file for file in sorted(expected.model.rglob("*")) if file.name == LOSSES or file.suffix == ".safetensors"]
    equal = [
        file.read_bytes() == (training.model / file.relative_to(expected.model)).read_bytes()
        for file in files
    ]  # fmt: skip
    return {
        "killed_after_steps": steps,
        "steps": len({record["step"] for record in training.records() if "loss" in record}),
        "files": [str(file.relative_to(expected.model)) for file in files],
        "equal_bit_for_bit": all(equal),
    }


def stop_and_go_on_with_two(training: Training, expected: Training, generator: random.Random) -> dict[str, Any]:
    """Stop a training by SIGTERM, and continue it on two processes; return how far it is from the uninterrupted one."""
    step = generator.randrange(3, STEPS - 3)
    status = training.interrupt(signal.SIGTERM, step, 0.0)
    logged, saved = training.last_step(), training.saved_step()
    training.finish(num_processes=2)
    losses = [
        abs(found[name] - whole[name]) / max(1.0, abs(whole[name]))
        for found, whole in zip(training.records(), expected.records(), strict=True)
        for name in whole
    ]
    weights = [
        float((found[name] - tensor).abs().max())
        for file in sorted(expected.model.rglob("*.safetensors"))
        for found in [load_file(training.model / file.relative_to(expected.model))]
        for name, tensor in load_file(file).items()
    ]
    return {
        "sigterm_after_step": step,
        "exit_status": status,
        "finished_steps_lost": logged - saved,
        "largest_difference_of_losses": max(losses),
        "largest_difference_of_weights": max(weights),
    }


def prepared(params: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Return parameters of short trainings of both stages, with `changes` to both."""
    short = deepcopy(dict(params))
    for kind in STAGES:
        few = {**short["fit"][kind]["batches"], **FEW_CLIPS}
        short["fit"][kind] |= {"batches": few, "epochs": 1000, "max_steps": STEPS, "warmup_steps": 2, "log_every": 1}
        short["fit"][kind] |= {"save_every": SAVE_EVERY, "evaluate_every": 10 * STEPS, "workers": 0, **changes}
    short["fit"]["semantic"]["warm_start"] = None
    return {**short, "processes": 1}


def without_dropout(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters of short trainings without dropout, whose LLM is not cast to bfloat16."""
    plain = prepared(params, precision="float32")
    plain["fit"]["emotion"]["plora"]["dropout"] = 0.0
    return plain


def measure(params: Mapping[str, Any], packed: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Measure both stages; `packed` has the rows of each, and `folder` gets the trainings."""
    generator = random.Random(seed)
    semantic = Training(
        folder=folder / "semantic-whole", kind="semantic", params=prepared(params), data=packed / "semantic", init=None
    )
    emotion = replace(
        semantic, folder=folder / "emotion-whole", kind="emotion", data=packed / "emotion", init=semantic.model
    )
    return {whole.kind: measure_stage(whole, without_dropout(params), generator) for whole in (semantic, emotion)}


def measure_stage(whole: Training, plain_params: Mapping[str, Any], generator: random.Random) -> dict[str, Any]:
    """Measure a stage, given its uninterrupted training, which has not started, and parameters without dropout."""
    folder, started = whole.folder.parent, time.monotonic()
    whole.finish()
    step_s = (time.monotonic() - started) / (3 * STEPS)  # about: to load the models takes the larger part
    killed = kill(replace(whole, folder=folder / f"{whole.kind}-killed"), whole, generator, step_s)
    say(f"kills: {whole.kind}: {killed}")
    plain = replace(whole, folder=folder / f"{whole.kind}-plain", params=plain_params, in_float64=True)
    plain.finish()
    stopped = stop_and_go_on_with_two(replace(plain, folder=folder / f"{whole.kind}-stopped"), plain, generator)
    say(f"kills: {whole.kind}: {stopped}")
    return killed | stopped | {"seconds": time.monotonic() - started}


def main() -> None:
    """Run the benchmark."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m benchmarks.kills DIR")
    source = Path(sys.argv[1]).resolve()
    params = yaml.safe_load((source / "params.yaml").read_text())
    with recorded("kills") as figures, TemporaryDirectory() as folder:
        figures |= {"steps": STEPS, "save_every": SAVE_EVERY, **FEW_CLIPS}
        figures |= measure(params, source / "data" / "packed", Path(folder), seed=1)


if __name__ == "__main__":
    main()
