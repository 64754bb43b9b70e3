"""Stand-ins for an LLM: an engine that records what it is asked, and helpers that let runs start it or none."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from pipeline.generate.engines import machine
from pipeline.generate.engines.interface import Answer, PromptAndAnswer, Request
from pipeline.generate.params import GenerateParams
from pipeline.params import Processes
from pipeline.prompts import Prompter
from pipeline.stage import UserError
from pipeline.tables.continuations import STOP
from pipeline.weights.source import Weights

AnswerOf = Callable[[Request, int], Answer]
"""Answers a request; the number says how many requests the engine has been asked, this one included."""


def end_of_prompt(request: Request, _count: int) -> Answer:
    """Answer with the prompt's last three ids."""
    return Answer(request.prompt_ids[-3:], STOP, -0.5)


class RecordingEngine:
    """Answers requests by a function, and scores pairs by the length of their answers."""

    name = "recorder 1"
    hardware = "none"

    def __init__(self, answer: AnswerOf = end_of_prompt) -> None:
        self.answer = answer
        self.started_on: list[Path] = []
        """The folder of the LLM at each start."""
        self.asked: list[Request] = []
        self.scored: list[PromptAndAnswer] = []
        self.fails_at: int | None = None
        """Number of requests or pairs after which the engine fails."""

    def start(
        self, _params: GenerateParams, _processes: Processes, _llm: Weights, model: Path, _prompter: Prompter
    ) -> "RecordingEngine":
        """Stand for `machine.start`."""
        self.started_on.append(model)
        return self

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[int, Answer]]:
        for position, request in enumerate(requests):
            self._fail_after(len(self.asked))
            self.asked.append(request)
            yield position, self.answer(request, len(self.asked))

    def score(self, pairs: Iterable[PromptAndAnswer]) -> Iterator[tuple[int, float]]:
        """Yield the scores in reverse order, as an engine may."""
        for position, pair in reversed(list(enumerate(pairs))):
            self._fail_after(len(self.scored))
            self.scored.append(pair)
            yield position, -float(len(pair[1]))

    def _fail_after(self, count: int) -> None:
        if count == self.fails_at:
            raise UserError("the engine failed")


def let_runs_start(monkeypatch: pytest.MonkeyPatch, engine: RecordingEngine) -> RecordingEngine:
    """Let every run start this engine, whatever its parameters name."""
    monkeypatch.setattr(machine, "start", engine.start)
    return engine


def let_runs_start_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a run starts an engine."""
    started = "an engine was started, though nothing was missing"
    monkeypatch.setattr(machine, "start", lambda *_: pytest.fail(started))


def let_runs_load_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a run starts an engine or loads a tokenizer."""
    let_runs_start_none(monkeypatch)
    monkeypatch.setattr(Prompter, "load", lambda *_: pytest.fail("a tokenizer was loaded, though nothing was missing"))
