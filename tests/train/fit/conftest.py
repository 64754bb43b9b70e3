"""Fixtures of the tests of training."""

from pathlib import Path

import pytest

from train.fit.run import RunFolders


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
