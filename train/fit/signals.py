"""Signals that ask training to stop: SIGTERM, and SIGUSR1, which SLURM sends before a job's time ends.

Training then ends the running step, writes a checkpoint and exits with status 75 (EX_TEMPFAIL of sysexits.h: try
again). A process that a signal kills has status 143 instead, and perhaps no checkpoint.
"""

import os
import signal
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_STATUS = os.EX_TEMPFAIL


class StopSignal:
    """Remembers the signal that asks to stop; within its context, none of SIGNALS ends the process."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.before: dict[signal.Signals, Any] = {}

    def arrived(self) -> bool:
        """Whether a signal has arrived in this process."""
        return self.name is not None

    def __enter__(self) -> Self:
        self.before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name


def ignore(_worker: int) -> None:
    """Ignore SIGNALS in a worker of a data loader: a scheduler sends them to all processes, but the step goes on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
