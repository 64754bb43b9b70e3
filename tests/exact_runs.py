"""Trainings in float64, in this process or in several: `python -m tests.exact_runs FILE` runs those that FILE lists."""

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import nn
from torch.distributed.tensor import DTensor

from pipeline.weights.source import ModelsParams
from tests import builders
from train import launch
from train.data.log_mel import LogMel
from train.fit import run, sharded_llm, stage_model, trainer
from train.fit.params import EmotionFitParams, SemanticFitParams
from train.fit.run import RunFolders
from train.fit.trainer import Trainer
from train.model import SpeechLLM

STOPPED_AT = 7
_SETTINGS: dict[str, Any] = {
    "batches": {"max_frames": 60, "per_step": 3},  # a row is a batch, so two processes have a spare one in each step
    "epochs": 5.0,
    "evaluate_every": 10,
    "save_every": 100,
    "keep_checkpoints": 1,
}


@dataclass(frozen=True, kw_only=True)
class ExactRun:
    """A training; without `init` it is one of stage 1."""

    folder: Path
    data: Path
    llm: Path
    encoder: Path
    init: Path | None = None
    layout: str = "padded"
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the section of the stage."""
    exact: bool = True
    """False: in the precision of the section."""
    stops: Literal["in a step", "in an evaluation"] | None = None
    """Where a signal to the last process stops the training, which may go on later."""
    reduces: bool = True
    """False: the processes keep their gradients to themselves, which is wrong."""

    @property
    def held(self) -> Path:
        """The file of the number of the LLM's weights that a process holds after `shard_llm`."""
        return self.folder / "held.json"

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "model"

    def run(self) -> None:
        """Train in this process; a run that has been stopped continues."""
        kind, settings = self._settings()
        models = {name: builders.weights(folder) for name, folder in (("encoder", self.encoder), ("llm", self.llm))}
        folders = RunFolders(
            data=self.data,
            init=self.init,
            output=self.model,
            checkpoints=self.folder / "checkpoints",
            logs=self.folder / f"logs-{kind}",
        )
        AcceleratorState._reset_state()
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(run, "shard_llm", partial(_shard_and_count, self.held)))
            if self.exact:
                stack.enter_context(_in_float64())
            if self.stops:
                stack.enter_context(_stopped(self.stops))
                stack.callback(self._note_stop)
                stack.enter_context(suppress(SystemExit))
            if not self.reduces:
                stack.enter_context(mock.patch.object(trainer, "prepare_model", _without_reduction))
            run.fit(settings, ModelsParams.model_validate(models), ["sad", "happy"], folders, resume=True)

    def stopped_after(self) -> list[int]:
        """Return the steps after which signals have stopped the training."""
        return [int(line) for line in (self.folder / "stops.txt").read_text().splitlines()]

    def _note_stop(self) -> None:
        if PartialState().is_main_process:
            (last,) = self.folder.glob("checkpoints/*/step-*")
            with (self.folder / "stops.txt").open("a") as stops:
                stops.write(f"{last.name.removeprefix('step-')}\n")

    def _settings(self) -> tuple[str, SemanticFitParams | EmotionFitParams]:
        batches = builders.batch_section(**_SETTINGS["batches"], layout=self.layout)
        changes = {**_SETTINGS, "batches": batches, **self.changes}
        if self.init is None:
            return "semantic", SemanticFitParams.model_validate(builders.semantic_fit_section(**changes))
        section = builders.emotion_fit_section(**changes)
        section["plora"]["dropout"] = 0.0
        return "emotion", EmotionFitParams.model_validate(section)


def run_in_processes(runs: Sequence[ExactRun], num_processes: int, file: Path) -> None:
    """Run trainings one after another in several processes, which all start once."""
    file.write_text(json.dumps([asdict(each) for each in runs], default=str))
    with mock.patch.dict(os.environ, {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}):
        assert launch.run(num_processes, "tests.exact_runs", [str(file)]) == 0


@contextmanager
def _in_float64() -> Iterator[None]:
    build, log_mel = stage_model.build_model, LogMel.__call__

    def build_in_float64(*arguments: Any) -> Any:
        model, config = build(*arguments)
        return model.double(), config

    with (
        mock.patch.object(run, "build_model", build_in_float64),
        mock.patch.object(LogMel, "__call__", lambda *arguments: log_mel(*arguments).double()),
    ):
        yield


@contextmanager
def _stopped(where: str) -> Iterator[None]:
    """Send a signal to the last process at the start of step `STOPPED_AT`, or at the first evaluation."""
    take_step, evaluate = Trainer.step, Trainer.evaluate
    num_evaluations = count()

    def stop(of: Trainer, now: bool) -> None:
        if now and of.accelerator.process_index == of.accelerator.num_processes - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def take_step_or_stop(self: Trainer, step: int, *arguments: Any) -> Any:
        stop(self, where == "in a step" and step == STOPPED_AT - 1)
        return take_step(self, step, *arguments)

    def evaluate_or_stop(self: Trainer, *arguments: Any) -> Any:
        stop(self, where == "in an evaluation" and next(num_evaluations) == 0)
        return evaluate(self, *arguments)

    with (
        mock.patch.object(Trainer, "step", take_step_or_stop),
        mock.patch.object(Trainer, "evaluate", evaluate_or_stop),
    ):
        yield


def _shard_and_count(file: Path, model: SpeechLLM, device: torch.device) -> None:
    sharded_llm.shard_llm(model, device)
    weights = [w.to_local() if isinstance(w, DTensor) else w for w in model.llm.parameters()]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(str(sum(weight.numel() for weight in weights)))


def _without_reduction(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    prepared: nn.Module = accelerator.prepare_model(model, evaluation_mode=True)
    return prepared


if __name__ == "__main__":
    torch.set_num_threads(1)
    _PATHS = ("folder", "data", "llm", "encoder", "init")
    for values in json.loads(Path(sys.argv[1]).read_text()):
        paths = {name: Path(values[name]) for name in _PATHS if values[name] is not None}
        ExactRun(**{**values, **paths}).run()
