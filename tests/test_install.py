"""What `make setup` says while it works, with a pip that only tells what it was asked: in a log, on a terminal, after a
failure, and where the disk has too little room."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from requirements import install

PIP = """
import json, os, sys
with open("calls.jsonl", "a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
if "--report" in sys.argv:
    found = [{"metadata": {"version": os.environ["TORCH"]}}] if "TORCH" in os.environ else []
    with open(sys.argv[sys.argv.index("--report") + 1], "w") as report:
        json.dump({"install": found}, report)
elif "--editable" not in sys.argv:
    print("Collecting one==1.0")
    print("pip's words")
    print("ERROR: pip's trouble", file=sys.stderr)
    sys.exit(int(os.environ.get("STATUS", "0")))
"""


class Checkout(NamedTuple):
    """A folder with the set-up scripts and a .venv whose pip is the one above."""

    folder: Path
    environment: Mapping[str, str]

    def pip_calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]

    def setup(self, hardware: str = "cpu", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", "requirements/setup.sh", hardware],
            cwd=self.folder, env={**self.environment, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Checkout:
    folder = tmp_path / "checkout"
    (folder / "requirements").mkdir(parents=True)
    for name in ("setup.sh", "install.py"):
        (folder / "requirements" / name).write_text((root / "requirements" / name).read_text())
    for hardware in ("cpu", "gpu"):
        lock = "one==1.0 ; python_full_version < '3.12'\none==1.1 ; python_full_version >= '3.12'\ntorch==2.13.0\n"
        (folder / f"requirements/{hardware}.txt").write_text(lock)
    python = Path(sys.base_prefix) / "bin/python3"
    subprocess.run([python, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    (folder / ".venv/bin/pip").touch()
    (tmp_path / "modules/pip").mkdir(parents=True)
    (tmp_path / "modules/pip/__main__.py").write_text(PIP)
    (tmp_path / "modules/pip/__init__.py").touch()
    return Checkout(folder, {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "modules")})


def test_setup_says_first_what_it_takes_then_each_step_and_at_last_what_to_do(checkout: Checkout) -> None:
    done = checkout.setup(TORCH="2.13.0+cpu")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0].startswith("setup: installs requirements/cpu.txt, about 2 packages, in .venv; ")
    assert re.search(r"2\.13\.0\+cpu .*: about 0\.9 GB to download, 3\.6 GB of disk; [\d.]+ GB are free", lines[2])
    assert [line for line in lines if re.match(r"setup: \d of \d", line)] == [
        "setup: 1 of 3: torch, with what it needs",
        "setup: 2 of 3: the other packages",
        "setup: 3 of 3: blsp-emo, as a link to this folder",
    ]
    assert re.fullmatch(r"setup: made \.venv with about 2 packages in \d+ s; next: make demo, or .*", lines[-1])
    assert (checkout.folder / ".venv/.ready-cpu").exists()


def test_setup_of_a_gpu_machine_installs_the_whole_lock_at_once(checkout: Checkout) -> None:
    done = checkout.setup("gpu", TORCH="2.13.0")
    assert "about 4.3 GB to download, 10.0 GB of disk" in done.stdout
    assert "setup: 1 of 2: all packages\n" in done.stdout
    assert checkout.pip_calls()[1][:4] == [
        "--disable-pip-version-check",
        "install",
        "--requirement",
        "requirements/gpu.txt",
    ]


def test_setup_names_the_cuda_build_where_pip_would_take_it(checkout: Checkout) -> None:
    done = checkout.setup(TORCH="2.13.0")
    assert "about 3.4 GB to download, 8.0 GB of disk" in done.stdout
    assert "setup: this is PyTorch's CUDA build; " in done.stdout


def test_setup_that_finds_pytorch_asks_for_no_room(checkout: Checkout) -> None:
    done = checkout.setup()
    assert done.returncode == 0
    assert "setup: .venv has PyTorch, pip adds the missing packages; " in done.stdout
    assert "to download" not in done.stdout


def test_a_log_has_no_bars_and_no_words_of_pip(checkout: Checkout) -> None:
    done = checkout.setup(TORCH="2.13.0+cpu")
    assert "\r" not in done.stdout
    assert "pip's words" not in done.stdout
    assert all(call[-3:] == ["--progress-bar", "off", "--no-color"] for call in checkout.pip_calls())
    assert not any("--quiet" in call for call in checkout.pip_calls())
    assert "ERROR: pip's trouble" in done.stderr


def test_a_terminal_has_the_words_and_bars_of_pip(checkout: Checkout) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        ["/bin/bash", "requirements/setup.sh", "cpu"],
        cwd=checkout.folder, env={**checkout.environment, "TORCH": "2.13.0+cpu"}, stdout=theirs, check=False,
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "pip's words" in shown
    assert not any("--progress-bar" in call for call in checkout.pip_calls())


def test_a_failure_of_pip_shows_its_words_and_ends_with_one_line(checkout: Checkout) -> None:
    done = checkout.setup(TORCH="2.13.0+cpu", STATUS="3")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "ERROR: pip's trouble",
        "Collecting one==1.0",
        "pip's words",
        "error: pip, 1 of 3: torch, with what it needs: found exit status 3, expected 0; its messages are above",
    ]
    assert not list((checkout.folder / ".venv").glob(".ready-*"))


def test_a_disk_with_too_little_room_is_one_line(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.chdir(checkout.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free=4_400_000_000))
    with pytest.raises(SystemExit, match=r"^error: disk of /.*/\.venv: found 4\.4 GB free, expected at least 4\.5 GB$"):
        install.check_room("cpu", "2.13.0+cpu")
    assert "4.4 GB are free" in capsys.readouterr().out


def test_a_step_that_goes_on_says_how_far_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import time\n"
        "for line in ('Collecting a==1', 'Collecting b', '  Downloading b-1.whl (90 MB)', 'Collecting b'):\n"
        "    print(line, flush=True)\n"
        "time.sleep(0.6)\n"
        "print('Installing collected packages: a, b', flush=True)\n"
        "time.sleep(0.6)\n"
    )
    assert install.follow([sys.executable, "-c", code], "1 of 3: torch", every_s=0.1) == 0
    told = capfd.readouterr().out.splitlines()
    assert any(re.fullmatch(r"setup: 1 of 3: torch: \d+ s, 2 packages found; Collecting b", line) for line in told)
    assert re.fullmatch(r"setup: 1 of 3: torch: \d+ s, unpacks 2 packages", told[-1])


def test_a_log_is_told_of_a_step_at_least_every_half_minute() -> None:
    assert install.EVERY_S <= 30


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (125, "2 min 5 s")])
def test_durations_are_in_minutes_and_seconds(seconds: float, said: str) -> None:
    assert install.clock(seconds) == said


@pytest.mark.parametrize("marker", [".ready-gpu", None])
def test_a_venv_for_other_hardware_or_without_pip_is_made_anew(checkout: Checkout, marker: str | None) -> None:
    if marker is None:
        (checkout.folder / ".venv/bin/pip").unlink()
    else:
        (checkout.folder / ".venv" / marker).touch()
    done = checkout.setup(TORCH="2.13.0+cpu")
    assert done.returncode == 0, done.stderr
    assert "setup: makes an empty .venv with Python 3." in done.stdout
    assert [file.name for file in (checkout.folder / ".venv").glob(".ready-*")] == [".ready-cpu"]
