"""A process that makes no progress ends a training on several processes, which would otherwise wait for it for ever.

Each process says in the store that all processes share how far it has come. A thread looks whether this process still
makes progress. If it makes none for the time of `fit.*.hang_minutes`, the process that is furthest behind is named, and
all processes end. The thread also runs while a collective operation waits, on a CPU and on a GPU.
"""

import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from threading import Event, Thread
from typing import Protocol, Self

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pipeline.stage import printable

EXIT_STATUS = os.EX_UNAVAILABLE
"""69 of sysexits.h: another process does not answer. Run the command again with --resume."""
GRACE_S = 5.0
"""Time in which the process that reports ends first, so that a launcher shows its line."""
MARGIN = timedelta(minutes=2)
"""By which the time-out of torch's own collective operations is longer: its message names no process."""


class Store(Protocol):
    """What all processes read and write (torch.distributed.Store)."""

    def set(self, key: str, value: str, /) -> None:
        """Write a value."""
        ...

    def get(self, key: str, /) -> bytes:
        """Read a value."""
        ...


class HangWatch:
    """Ends this process if it makes no progress for some time; used as a context around the steps."""

    def __init__(
        self,
        store: Store | None,
        rank: int,
        num_processes: int,
        limit_s: float,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """Take the store that all processes share; without one, nothing is watched."""
        self.store, self.rank, self.num_processes = store, rank, num_processes
        self.limit_s, self.end = limit_s, end
        self.last = time.monotonic()
        self.places = self.current = 0
        self.ended = Event()
        self.thread = Thread(target=self._watch, daemon=True)

    def begins(self, step: int) -> None:
        """Say that this process begins a step."""
        self.current = step
        self.reached()

    def reached(self) -> None:
        """Say that this process is about to wait for the others; all processes reach equally many such places."""
        self.alive()
        self.places += 1
        if self.store is not None:
            self.store.set(f"fit/{self.rank}", f"{self.places} {self.current}")

    def alive(self) -> None:
        """Say that this process makes progress, wherever it is."""
        self.last = time.monotonic()

    def __enter__(self) -> Self:
        if self.store is not None:
            self.reached()
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join()

    def _watch(self) -> None:
        while not self.ended.wait(min(1.0, self.limit_s / 10)):
            if time.monotonic() - self.last > self.limit_s:
                self._stop()
                return

    def _stop(self) -> None:
        """Name the process that is furthest behind; the first of the others tells it, and ends first."""
        behind, step = self._furthest_behind()
        teller = next((rank for rank in range(self.num_processes) if rank != behind), 0)
        if self.rank == teller:
            print(f"error: {printable(describe(behind, step, self.num_processes, self.limit_s))}", file=sys.stderr)
            sys.stderr.flush()
        else:
            time.sleep(GRACE_S)
        self.end(EXIT_STATUS)

    def _furthest_behind(self) -> tuple[int | None, int]:
        """Return the process that alone has come least far, and its step; None if there is none.

        -1 in place of the step: the store does not answer, so the first process, which has it, does not.
        """
        assert self.store is not None
        try:
            told = [self.store.get(f"fit/{rank}").split() for rank in range(self.num_processes)]
        except RuntimeError:
            return 0, -1
        places = [int(place) for place, _ in told]
        behind = places.index(min(places))
        return behind if places.count(min(places)) == 1 else None, int(told[behind][1])


def describe(behind: int | None, step: int, num_processes: int, limit_s: float) -> str:
    """Say which process hangs, since when, and what to do."""
    since = f"for {limit_s / 60:.3g} minutes"
    if behind is None:
        who = f"step {step}: none of {num_processes} processes has made progress {since}, and none is behind the others"
    elif step < 0:
        who = f"process {behind} of {num_processes} does not answer, and the others wait for it {since}"
    else:
        who = f"step {step}: process {behind} of {num_processes} has made no progress {since}; the others wait for it"
    return f"fit: {who}; look at its machine and GPU, then run again with --resume; the last checkpoint is kept"


def shared_store(num_processes: int) -> TCPStore | None:
    """Connect to the store through which the processes found each other; None for one process."""
    if num_processes == 1 or not torch.distributed.is_initialized():
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=GRACE_S))
