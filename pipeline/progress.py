"""Progress of a task that may take longer than half a minute: a bar on a terminal, lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Self, TypeVar

from tqdm import tqdm

FIRST_LINE_S = 30.0
LINE_EVERY_S = 60.0

T = TypeVar("T")


class Task:
    """Count the finished items of a task. Standard error shows them, so that results can be piped."""

    def __init__(self, name: str, total: int | None = None, unit: str = "rows") -> None:
        """Start a task of `total` items; None if their number is unknown."""
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self._started = time.monotonic()
        self._next_line = self._started + FIRST_LINE_S
        self._bar = tqdm(total=total, desc=name, unit=f" {unit}", disable=None)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count finished items; `note` is shown beside them, such as a rate."""
        self.done += count
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        if self._bar.disable and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            print(self._line(note), file=sys.stderr, flush=True)

    def _line(self, note: str) -> str:
        seconds = time.monotonic() - self._started
        of_total = "" if self.total is None else f" of {self.total:,}"
        line = f"{self.name}: {self.done:,}{of_total} {self.unit} after {_duration(seconds)}"
        if self.total is not None and self.done:
            line += f", about {_duration(seconds / self.done * (self.total - self.done))} left"
        return f"{line}, {note}" if note else line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.close()


def track(items: Iterable[T], name: str, total: int | None = None, unit: str = "rows") -> Iterator[T]:
    """Yield the items and show how many have been taken."""
    with Task(name, total, unit) as task:
        for item in items:
            yield item
            task.advance()


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
