"""An engine in a process of its own: `python -m pipeline.generate.engines.local_worker FD`.

FD is this process's end of the pipe to the process that writes the store (local_engines.py). This process asks for
prompts whenever the engine has room for some, and ends when the pipe is closed.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from pipeline.generate.engines import choose
from pipeline.generate.engines.interface import Engine
from pipeline.generate.engines.local_messages import Done, Failed, Load, Loaded, More, Numbered, Task
from pipeline.prompts import Prompter
from pipeline.stage import UserError


def serve(parent: Connection) -> None:
    """Load an engine, then do the tasks that come through the pipe until it is closed."""
    try:
        load: Load = parent.recv()
        try:
            llm = _start(load)
            parent.send(Loaded(llm.name, llm.hardware))
            while True:
                task: Task = parent.recv()
                _answer(llm, task, parent, by_batch=load.params.engine == "transformers")
                parent.send(Done())
        except UserError as error:
            parent.send(Failed(str(error)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the other process has ended, or needs this one no longer


def _start(load: Load) -> Engine:
    if load.share.cores:
        os.sched_setaffinity(0, load.share.cores)
    choose.prepare(load.params)
    return choose.start(load.params, load.llm, load.model, Prompter.load(load.model), load.share)


def _answer(llm: Engine, task: Task, parent: Connection, *, by_batch: bool) -> None:
    """Answer prompts until there are none left, and send each answer with the position of its prompt.

    With `by_batch`, each of the parent's batches is answered alone. Otherwise the engine takes from the next one as
    soon as it has room.
    """
    batches = _batches(parent)
    for taken in ([batch] for batch in batches) if by_batch else [batches]:
        positions: list[int] = []
        items = _items(taken, positions)
        for place, given in llm.generate(items) if task == "generate" else llm.score(items):
            parent.send((positions[place], given))


def _batches(parent: Connection) -> Iterator[Sequence[Numbered]]:
    while True:
        parent.send(More())
        batch: Sequence[Numbered] = parent.recv()
        if not batch:
            return
        yield batch


def _items(batches: Any, positions: list[int]) -> Iterator[Any]:
    """Yield the items of batches, and note their positions."""
    for batch in batches:
        for position, item in batch:
            positions.append(position)
            yield item


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process gets Ctrl-C too, and closes the pipe
    serve(Connection(int(sys.argv[1])))
