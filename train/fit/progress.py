"""Report the progress of training: log lines, a bar on a terminal, JSONL files and trackers."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from accelerate.tracking import GeneralTracker
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from pipeline.stage import say
from train.fit.live_plots import LivePlots
from train.fit.preflight import Forecast
from train.fit.speed import Speed
from train.fit.trackers import open_trackers
from train.model import Batch


class Progress:
    """Reports the steps of one training run; only the main process reports.

    A record is a dictionary of the numbers of one logged step. `records` holds all records, including those from before
    a resume. Records contain no speed or time, because these differ from run to run.
    """

    def __init__(
        self,
        name: str,
        log_folder: Path,
        speed: Speed,
        forecast: Forecast,
        records: list[dict[str, float]],
        earlier_s: float = 0.0,
        is_main_process: bool = True,
        trackers: Sequence[str] = ("tensorboard",),
        parameters: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.is_main_process = is_main_process
        self.forecast = forecast
        first_step, num_steps = forecast.first_step, forecast.num_steps
        self.first_step, self.num_steps = first_step, num_steps
        self.done = first_step
        self.evaluations: list[float] = []
        self.records = records
        self.earlier_s = earlier_s
        self.started = time.monotonic()
        self.speed = speed
        log_folder.mkdir(parents=True, exist_ok=True)
        self.jsonl = (log_folder / "steps.jsonl" if is_main_process else Path(os.devnull)).open("w")
        self.jsonl.writelines(json.dumps(record) + "\n" for record in records)
        on_board = is_main_process and "tensorboard" in trackers
        self.board = SummaryWriter(str(log_folder), purge_step=first_step + 1) if on_board else None
        self.trackers: list[GeneralTracker] = []
        self.plots: LivePlots | None = None
        if is_main_process:
            self.trackers = open_trackers(trackers, log_folder, log_folder.name, parameters or {})
            self.plots = LivePlots(log_folder.parent, name, records)
        hidden = not (is_main_process and sys.stderr.isatty())
        self.bar = tqdm(total=num_steps, initial=first_step, desc=name, unit="step", disable=hidden)

    @property
    def seconds(self) -> float:
        """Time of training so far, with the `earlier_s` of the checkpoint from which it continues."""
        return self.earlier_s + time.monotonic() - self.started

    def step(self, batches: Sequence[Batch], num_clips: int, waited_s: float) -> None:
        """Count a finished optimizer step (`Speed.add`), and its wait for data."""
        self.speed.add(batches, num_clips, waited_s)
        self.bar.update()
        self.done += 1
        self.tell(self.forecast.describe(self.done, time.monotonic() - self.started, self.evaluations))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Report the values of a step, the speed since the last report, and the time left."""
        speed, told = self.speed.report()
        left_s = (time.monotonic() - self.started) / (step - self.first_step) * (self.num_steps - step)
        self._record({"step": step, **values}, speed)
        shown = "  ".join(f"{key} {value:.3g}" for key, value in values.items())
        self._say(f"{self.name} {step}/{self.num_steps}  {shown}  {told}  ETA {_clock(left_s)}")

    def has_dev(self, step: int) -> bool:
        """Return whether the losses on the dev split after `step` steps are among the records."""
        return any(record["step"] == step and "loss" not in record for record in reversed(self.records[-2:]))

    def log_dev(self, step: int, values: dict[str, float], seconds: float) -> None:
        """Report the losses on the dev split; the speed excludes the `seconds` of this evaluation."""
        self.speed.leave_out(seconds)
        self.evaluations.append(seconds)
        self._record({"step": step, **values}, {})
        shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
        self._say(f"{self.name} {step}/{self.num_steps}  {shown}")

    def tell(self, line: str | None) -> None:
        """Print a line, if there is one."""
        if line is not None:
            self._say(f"fit: {self.name}: {line}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.bar.close()
        self.jsonl.close()
        if self.board is not None:
            self.board.close()
        if self.plots is not None:
            self.plots.close()
        for tracker in self.trackers:
            tracker.finish()

    def _say(self, line: str) -> None:
        if self.is_main_process:
            with tqdm.external_write_mode():
                say(line)

    def _record(self, record: dict[str, float], speed: dict[str, float]) -> None:
        self.records.append(record)
        self.jsonl.write(json.dumps(record | speed) + "\n")
        self.jsonl.flush()
        if self.plots is not None:
            self.plots.add(record)
        numbers = {key: value for key, value in (record | speed).items() if key != "step"}
        for tracker in self.trackers:
            tracker.log(numbers, step=int(record["step"]))
        for key, value in numbers.items():
            if self.board is not None:
                self.board.add_scalar(key, value, int(record["step"]))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
