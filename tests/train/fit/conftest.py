"""Fixtures of the tests of training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from train.fit import checkpoint, run
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


class Killed(BaseException):
    """Ends a run as a signal would."""


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Any]:
    """Return a context that ends the run in it directly after the checkpoint of a step."""

    @contextmanager
    def context(step: int) -> Iterator[None]:
        save = checkpoint.save

        def save_and_die(folder: Path, state: checkpoint.Checkpoint, keep: int) -> None:
            save(folder, state, keep)
            if state.step == step:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save", save_and_die)
            with pytest.raises(Killed):
                yield

    return context
