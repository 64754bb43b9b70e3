"""The device of a run, the file with a part's figures, and measurements on a GPU, which are None on a CPU."""

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

Out = Annotated[Path, typer.Option(help="Folder of the figures.")]
Tiny = Annotated[bool, typer.Option("--tiny", help="Tiny shapes, to try the part on a CPU.")]

DEVICE = best_device()


class Figures:
    """The JSON file of a part; it is written again after each figure, so a failure loses no earlier figure."""

    def __init__(self, folder: Path, part: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.part = part
        self.started = time.monotonic()
        self.path = folder / f"{part}.json"
        self.values: dict[str, Any] = {"device": on_card(torch.cuda.get_device_name)}
        self.path.unlink(missing_ok=True)

    def add(self, **values: Any) -> None:
        """Print figures and write them to the file."""
        self.values |= values
        for name, value in values.items():
            print(f"{self.part}, {time.monotonic() - self.started:.0f} s: {name}: {json.dumps(value)}", flush=True)
        write_json(self.values, self.path)


def on_card(measure: Callable[[], T]) -> T | None:
    """Return the result of `measure` on a GPU; on a CPU, return None without a call."""
    return measure() if DEVICE.type == "cuda" else None


def wait() -> None:
    """Wait until the GPU has finished its work."""
    on_card(torch.cuda.synchronize)


def seconds(run: Callable[[], object]) -> float:
    """Return the seconds of `run`, including its work on the GPU."""
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def reset_peak() -> None:
    """Reset the peak of the memory in use."""
    on_card(torch.cuda.reset_peak_memory_stats)


def peak_gib() -> float:
    """Return the peak of the memory in use, in GiB; 0 on a CPU."""
    return on_card(lambda: torch.cuda.max_memory_allocated() / 2**30) or 0.0


def allocations() -> int:
    """Return the number of allocations and releases of memory by the driver since the start; 0 on a CPU."""
    return on_card(lambda: sum(torch.cuda.memory_stats()[f"num_device_{what}"] for what in ("alloc", "free"))) or 0


def synchronisations(run: Callable[[], object]) -> dict[str, int] | None:
    """Call `run`; return the Python lines at which the host waits for the GPU, with the number of waits."""

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
    """Call `run`; return the time in kernels and the ten kernels with the most time."""

    def count() -> dict[str, Any]:
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            run()
            wait()
        # a named range, such as the optimizer's step, also has a time on the GPU, but it is not a kernel
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
