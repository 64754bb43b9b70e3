"""Fixtures of the tests of train."""

from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def forget_precision() -> Iterator[None]:
    """Let each run choose its precision: accelerate keeps that of the first run of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
