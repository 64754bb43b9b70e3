"""Progress of a task that may take longer than half a minute: a bar on a terminal, a line every minute in a log."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Self, TypeVar

from tqdm import tqdm

from pipeline.stage import printable

FIRST_LINE_S = 30.0
LINE_EVERY_S = 60.0

T = TypeVar("T")


class Task:
    """Counts the finished items of a task. It shows them on standard error, so that results can be piped."""

    def __init__(self, name: str, total: float | None = None, unit: str = "rows", initial: float = 0) -> None:
        """Start a task of `total` items (None if unknown), of which `initial` were finished before."""
        self.name, self.total, self.unit = name, total, unit
        self.done = self._initial = initial
        self._started = time.monotonic()
        self._next_line = self._started + FIRST_LINE_S
        self._bar = tqdm(total=total, initial=initial, desc=name, unit=f" {unit}", disable=None)

    def advance(self, count: float = 1, note: str = "") -> None:
        """Count finished items; `note`, such as a rate, is shown beside the count."""
        self.done += count
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        if self._bar.disable and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            _print(self._line(note))

    def _line(self, note: str) -> str:
        seconds = time.monotonic() - self._started
        of_total = "" if self.total is None else f" of {self.total:,.0f}"
        line = f"{self.name}: {self.done:,.0f}{of_total} {self.unit} after {duration(seconds)}"
        if self.total is not None and self.done > self._initial:
            left_s = seconds / (self.done - self._initial) * (self.total - self.done)
            line += f", about {duration(left_s)} left"
        return f"{line}, {note}" if note else line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.close()


def track(items: Iterable[T], name: str, total: int | None = None, unit: str = "rows") -> Iterator[T]:
    """Yield the items, and show the progress."""
    with Task(name, total, unit) as task:
        for item in items:
            yield item
            task.advance()


@contextmanager
def heartbeat(name: str, state: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Print a line every minute during a call that prints nothing itself.

    `state` returns a text about how much the call has done.
    """
    done = threading.Event()
    started = time.monotonic()

    def beat() -> None:
        pause_s = FIRST_LINE_S
        while not done.wait(pause_s):
            pause_s = LINE_EVERY_S
            _print(", ".join(filter(None, [f"{name}: {duration(time.monotonic() - started)}", state()])))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _print(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
