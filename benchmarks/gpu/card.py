"""The device of a run, the file of a part's figures, and what only a card can tell: None on a CPU."""

import json
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.results_file import ROOT, write_json
from train.precision import best_device

T = TypeVar("T")

Out = Annotated[Path, typer.Option(help="The folder of the figures.")]
Tiny = Annotated[bool, typer.Option("--tiny", help="Tiny shapes, to try the part on a CPU.")]

DEVICE = best_device()


class Figures:
    """The JSON file of a part, written anew with each figure: what ran before a failure is kept."""

    def __init__(self, folder: Path, part: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.part = part
        self.started = time.monotonic()
        self.path = folder / f"{part}.json"
        self.values: dict[str, Any] = {"device": on_card(torch.cuda.get_device_name)}
        self.path.unlink(missing_ok=True)

    def add(self, **values: Any) -> None:
        """Print figures and write them down."""
        self.values |= values
        for name, value in values.items():
            print(f"{self.part}, {time.monotonic() - self.started:.0f} s: {name}: {json.dumps(value)}", flush=True)
        write_json(self.values, self.path)


def on_card(measure: Callable[[], T]) -> T | None:
    """Return what `measure` finds on a card; None on a CPU, where it is not asked."""
    return measure() if DEVICE.type == "cuda" else None


def wait() -> None:
    """Wait until the card has done all that it was given."""
    on_card(torch.cuda.synchronize)


def seconds(run: Callable[[], object]) -> float:
    """Return how long `run` takes, the work on the card included."""
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def reset_peak() -> None:
    """Begin anew to look for the largest memory held at a time."""
    on_card(torch.cuda.reset_peak_memory_stats)


def peak_gib() -> float:
    """Return the largest memory held at a time, in GiB; 0 on a CPU."""
    return on_card(lambda: torch.cuda.max_memory_allocated() / 2**30) or 0.0


def allocations() -> int:
    """Return how often memory was asked of the driver, or given back to it, since the start; 0 on a CPU."""
    return on_card(lambda: sum(torch.cuda.memory_stats()[f"num_device_{what}"] for what in ("alloc", "free"))) or 0


def synchronisations(run: Callable[[], object]) -> dict[str, int] | None:
    """Run and return the lines of Python at which the host waits for the card, with how often."""

    def count() -> dict[str, int]:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits = (w for w in caught if "synchronizing" in str(w.message))
        return dict(Counter(f"{_short(w.filename)}:{w.lineno}" for w in waits).most_common())

    return on_card(count)


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else "/".join(path.parts[-3:])


def kernels(run: Callable[[], object]) -> dict[str, Any] | None:
    """Run and return the time in kernels and the ten dearest ones."""

    def count() -> dict[str, Any]:
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            run()
            wait()
        # a named range, such as the optimizer's step, has a time on the card, too, and is no kernel
        events = [e for e in found.key_averages() if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
        events.sort(key=lambda event: event.self_device_time_total, reverse=True)
        return {
            "kernels_s": sum(event.self_device_time_total for event in events) / 1e6,
            "num_kernels": sum(event.count for event in events),
            "dearest": [
                {"name": event.key[:120], "s": event.self_device_time_total / 1e6, "calls": event.count}
                for event in events[:10]
            ],
        }

    return on_card(count)
