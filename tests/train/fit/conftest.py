"""Fixtures of the tests of training."""

from pathlib import Path

import pytest

from train.fit import run
from train.fit.run import RunFolders


@pytest.fixture(autouse=True)
def without_counted_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the count of a step's memory, which takes a second for each run, in all tests but its own."""
    if request.path.name != "test_preflight.py":
        monkeypatch.setattr(run, "check_memory", lambda *_: None)


@pytest.fixture
def folders(tmp_path: Path, packed_folder: Path) -> RunFolders:
    """The folders of a run of stage 1 on made-up rows."""
    return RunFolders(
        data=packed_folder,
        init=None,
        output=tmp_path / "models" / "semantic",
        checkpoints=tmp_path / "checkpoints",
        logs=tmp_path / "logs",
    )
