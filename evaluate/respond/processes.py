"""Divide the test rows over the processes of a run (train/launch.py), and put their answers together again."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

from pipeline.progress import Task
from train.precision import training_device

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def join() -> bool:
    """Join the other processes of the run, if there are any; return whether this process writes the output."""
    training_device()
    return bool(PartialState().is_main_process)


def ask_all(
    name: str, items: list[Item], batch_size: int, ask: Callable[[list[Item]], Sequence[Answer]], unit: str
) -> list[Answer]:
    """Return the answers to all items, in their order.

    Each process asks for its own batches. The batches do not depend on the number of processes, so neither do the
    answers. The progress is that of this process.
    """
    state = PartialState()
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    own = batches[state.process_index :: state.num_processes]
    answers = []
    with Task(name, sum(map(len, own)), unit) as task:
        for batch in own:
            answers.append(list(ask(batch)))
            task.advance(len(batch))
    shares = gather_object([answers])
    return [answer for i in range(len(batches)) for answer in shares[i % len(shares)][i // len(shares)]]
