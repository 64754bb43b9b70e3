"""A batch travels between processes whole, and only its large tensors in shared memory."""

from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.tables import packed
from pipeline.weights.source import ModelsParams, fetch
from train.data.dataset import Collator, Examples
from train.data.log_mel import LogMel
from train.model import Batch
from train.model.inputs import packed_sequences, sequences


@pytest.fixture(params=[True, False], ids=["packed", "padded"])
def batch(packed_folder: Path, tiny_models: ModelsParams, request: pytest.FixtureRequest) -> Batch:
    lay_out: Any = (lambda *given: packed_sequences(*given, shares_start=True)) if request.param else sequences
    examples = Examples(packed.load(packed_folder, "train"), LogMel(fetch(tiny_models.encoder), False), ["sad"])
    collate = Collator(packed.load_shell(packed_folder), with_teacher=True, lay_out=lay_out)
    return collate([examples[i] for i in range(12)])


def check_equal(one: Batch, other: Batch) -> None:
    for ours, theirs in zip(one.tensors(), other.tensors(), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    assert other.ids == one.ids


def test_a_batch_arrives_as_it_was_sent(batch: Batch) -> None:
    message = ForkingPickler.dumps(batch)
    assert len(batch.tensors()) == (41 if batch.clips is not None else 12)
    check_equal(batch, ForkingPickler.loads(message))
    assert bytes(message).count(b"rebuild_storage_fd") == 1  # the log-mel


class Copies(TorchDispatchMode):
    """Counts copies between devices."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def test_a_batch_in_one_piece_of_memory_goes_to_a_device_in_one_copy(batch: Batch) -> None:
    joined = batch.joined(pin=False)
    check_equal(batch, joined)
    check_equal(batch, joined.to(torch.device("cpu")))
    for each, expected in ((joined, 1), (batch, len(batch.tensors()))):
        with Copies() as copies:  # type: ignore[no-untyped-call]
            there = each.to(torch.device("meta"))
        assert copies.count == expected
        assert [tensor.shape for tensor in there.tensors()] == [tensor.shape for tensor in batch.tensors()]
        assert not any(tensor._is_view() for tensor in there.tensors())
