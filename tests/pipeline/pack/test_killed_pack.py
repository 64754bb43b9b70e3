"""A pack that is killed leaves no half folder, and packing again gives the bytes of an undisturbed pack."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.pack.conftest import Inputs

# kills its own process at call N of a function
KILLED = """
import os, signal, sys
from pipeline.pack import __main__ as pack
from pipeline.stage import run_stage
from pipeline.tables import packed

name, number = sys.argv.pop(1), int(sys.argv.pop(1))
owner = {"_write": packed._Split, "_describe": packed, "replace": os}[name]
called, function = [], getattr(owner, name)

def dies(*arguments):
    called.append(name)
    if len(called) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments)

setattr(owner, name, dies)
run_stage(pack.main)
"""


def killed(inputs: Inputs, name: str, number: int) -> None:
    command = [sys.executable, "-c", KILLED, name, str(number), "--kind", "semantic"]
    for option in ("manifest", "kept", "dropped"):
        command += [f"--{option}", str(inputs.folder / f"{option}.parquet")]
    command += ["--output", str(inputs.folder / "packed"), "--params", str(inputs.folder / "params.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_a_killed_pack_leaves_nothing_half(inputs: Inputs) -> None:
    expected = content(inputs.run())
    assert len(expected) == 11
    shutil.rmtree(inputs.folder / "packed")
    for name, number in [("_write", 1), ("_write", 3), ("_describe", 2), ("replace", 1), ("replace", 2)]:
        killed(inputs, name, number)
        if (inputs.folder / "packed").exists():
            assert content(inputs.folder / "packed") == expected
        assert content(inputs.run()) == expected
    assert sorted(path.name for path in inputs.folder.iterdir() if path.is_dir()) == ["packed"]
