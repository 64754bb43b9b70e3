"""Several engines on this machine, each in a process of its own with its own GPUs or cores.

This process sends them prompts and alone writes the store. All engines take from one sequence of prompts, a few at a
time, so a slow engine takes fewer. Each request brings its own seed, and the engine transformers gets the batches that
it would make alone. So an answer does not depend on the number of engines, but for the rounding of vLLM's batches.
"""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from pipeline.generate.engines import local_worker, transformers_engine
from pipeline.generate.engines.interface import Answer, PromptAndAnswer, Request
from pipeline.generate.engines.local_messages import Done, Failed, Load, Loaded, More, Numbered, Task
from pipeline.generate.engines.shares import Share
from pipeline.generate.params import GenerateParams
from pipeline.stage import UserError
from pipeline.weights.source import Weights

CHUNK = 16  # prompts that an engine gets at a time
PATIENCE_S = 10.0
"""Time that a process has to end by itself after its pipe is closed."""


@dataclass(frozen=True, slots=True, eq=False)
class Worker:
    """A process with an engine."""

    share: Share
    process: "subprocess.Popen[bytes]"
    pipe: Connection
    errors: IO[str]
    """What the process has written to standard error."""


class LocalEngines:
    """Sends prompts to the engines of this machine."""

    def __init__(self, params: GenerateParams, llm: Weights, model: Path, shares: Sequence[Share]) -> None:
        """Start an engine for each share, and wait until all are ready."""
        self._by_batch = params.engine == "transformers"
        self._workers: list[Worker] = []
        self._end = weakref.finalize(self, _end, self._workers)
        for share in shares:
            self._workers.append(_start(share))
            self._send(self._workers[-1], Load(params, llm, model, share))
        loaded = [self._receive(worker) for worker in self._workers]
        self._loaded: list[Loaded] = loaded

    @property
    def name(self) -> str:
        """Name and version of the engines."""
        return self._loaded[0].name

    @property
    def hardware(self) -> str:
        """Hardware of the engines."""
        return "; ".join(sorted({loaded.hardware for loaded in self._loaded}))

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[int, Answer]]:
        """See Engine.generate."""
        return self._run(
            "generate", transformers_engine.request_batches(requests) if self._by_batch else _cut(requests)
        )

    def score(self, pairs: Iterable[PromptAndAnswer]) -> Iterator[tuple[int, float]]:
        """See Engine.score."""
        return self._run("score", transformers_engine.pair_batches(pairs) if self._by_batch else _cut(pairs))

    def _run(self, task: Task, batches: Iterator[Sequence[Numbered]]) -> Iterator[tuple[int, Any]]:
        """Yield each prompt's position with its answer or score."""
        busy = list(self._workers)
        try:
            for worker in busy:
                self._send(worker, task)
            while busy:
                ready = wait([worker.pipe for worker in busy])
                for worker in [worker for worker in busy if worker.pipe in ready]:
                    match message := self._receive(worker):
                        case More():
                            self._send(worker, next(batches, []))
                        case Done():
                            busy.remove(worker)
                        case _:
                            yield message
        finally:
            if busy:  # the engines hold prompts that nobody waits for
                self._end()

    def _send(self, worker: Worker, message: object) -> None:
        try:
            worker.pipe.send(message)
        except BrokenPipeError:
            raise UserError(self._describe_end(worker)) from None

    def _receive(self, worker: Worker) -> Any:
        """Return the next message of an engine; raises UserError if there is none, or if the engine cannot go on."""
        try:
            message = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise UserError(self._describe_end(worker)) from None
        if isinstance(message, Failed):
            raise UserError(message.message)
        return message

    def _describe_end(self, worker: Worker) -> str:
        status = worker.process.wait()
        if status > 0:  # an error in the code, or in a library
            worker.errors.seek(0)
            sys.stderr.write(worker.errors.read())
        ended = f"ended with status {status}" if status >= 0 else f"was killed by {signal.Signals(-status).name}"
        number = f"engine {self._workers.index(worker) + 1} of {len(self._workers)}"
        return f"generate: {number} ({worker.share}) {ended}; the answers so far are in the store; run again to go on"


def _cut(items: Iterable[Any]) -> Iterator[Sequence[Numbered]]:
    numbered = enumerate(items)
    while chunk := list(itertools.islice(numbered, CHUNK)):
        yield chunk


def _start(share: Share) -> Worker:
    ours, theirs = multiprocessing.Pipe()
    number = theirs.fileno()
    gpus = {"CUDA_VISIBLE_DEVICES": ",".join(share.gpus)} if share.gpus else {}
    errors = TemporaryFile("w+")  # noqa: SIM115 (_end closes it)
    process = subprocess.Popen(
        [sys.executable, "-m", local_worker.__name__, str(number)],
        env={**os.environ, **gpus},
        pass_fds=[number],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
    )
    theirs.close()
    return Worker(share, process, ours, errors)


def _end(workers: Sequence[Worker]) -> None:
    """End the processes: they end by themselves when their pipes are closed, or are killed after a while."""
    for worker in workers:
        worker.pipe.close()
    for worker in workers:
        try:
            worker.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.errors.close()
