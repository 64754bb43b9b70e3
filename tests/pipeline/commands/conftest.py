"""A project in which the commands that generate, choose and show answers work."""

from pathlib import Path

import pytest

from pipeline.generate.engines.interface import Answer, Request
from pipeline.tables import continuations
from tests.builders import utterance, write_generate_params, write_table
from tests.doubles import RecordingEngine, let_runs_start

TEXTS = {"a": "kids are talking", "b": "dogs are sitting", "c": "yes"}


def next_number(_request: Request, count: int) -> Answer:
    """Answer with a number that grows, so that no answer is like the one before."""
    return Answer((50 + count,), continuations.STOP, -1.0)


@pytest.fixture
def numbers(tmp_path: Path, llm: Path, monkeypatch: pytest.MonkeyPatch) -> RecordingEngine:
    """The engine of a project of three utterances, in which a test works; its answers are numbers."""
    monkeypatch.chdir(tmp_path)
    write_generate_params(Path("params.yaml"), llm)
    rows = [
        utterance(key, text=text, emotion="sad", corpus="x", duration_s=len(text) / 10) for key, text in TEXTS.items()
    ]
    write_table(Path("manifests/semantic.parquet"), rows)
    return let_runs_start(monkeypatch, RecordingEngine(next_number))
