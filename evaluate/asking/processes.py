"""Divide the test rows over the processes of a run (train/launch.py), and put their answers together again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

from evaluate.asking.finished import FinishedBatches
from pipeline.progress import Task
from train.precision import training_device

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def join() -> bool:
    """Join the other processes of the run, if there are any; return whether this process writes the output."""
    training_device()
    return bool(PartialState().is_main_process)


def by_length(lengths: Sequence[Any], batch_size: int) -> list[list[int]]:
    """Return the places of items in batches, from the longest items to the shortest."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def ask_all(
    name: str,
    items: Sequence[Item],
    batch_size: int,
    ask: Callable[[list[Item]], Sequence[Answer]],
    unit: str,
    *,
    lengths: Sequence[Any],
    finished: FinishedBatches,
) -> list[Answer]:
    """Return the answers to all items, in their order; what an earlier run has answered is not asked for again.

    The items of a batch have similar `lengths`, and the longest come first, so that memory runs out early or never.
    Each process asks for its own batches. The batches depend neither on the number of processes nor on what is
    finished, so neither do the answers. `name` is "respond STAGE: TASK". The progress is that of all processes before,
    and of this one.
    """
    batches = by_length(lengths, batch_size)
    state, task_name = PartialState(), name.split(": ")[-1]
    answers = _gathered(finished.read(task_name, list(map(len, batches))))
    missing = [number for number in range(len(batches)) if number not in answers]
    own = missing[state.process_index :: state.num_processes]
    found: dict[int, Sequence[Answer]] = {}
    num_known = sum(map(len, answers.values()))
    with Task(name, num_known + sum(len(batches[number]) for number in own), unit, initial=num_known) as task:
        for number in own:
            found[number] = list(ask([items[place] for place in batches[number]]))
            finished.write(task_name, number, list(found[number]))
            task.advance(len(found[number]))
    answers |= _gathered(found)
    by_item = {
        place: answer
        for number, batch in enumerate(batches)
        for place, answer in zip(batch, answers[number], strict=True)
    }
    return [by_item[place] for place in range(len(items))]


def _gathered(answers: Mapping[int, Sequence[Answer]]) -> dict[int, Sequence[Answer]]:
    """Return the answers of all processes."""
    return {number: batch for share in gather_object([answers]) for number, batch in share.items()}
