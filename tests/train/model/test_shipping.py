"""A batch travels between processes whole, and only its large tensors in shared memory."""

from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.tables import packed
from pipeline.weights.source import ModelsParams, fetch
from train.data.dataset import Collator, Examples
from train.data.log_mel import LogMel
from train.model import Batch
from train.model.inputs import packed_sequences, sequences


def tensors(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    batch._changed(note)
    return found


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_batch_arrives_as_it_was_sent(packed_folder: Path, tiny_models: ModelsParams, is_packed: bool) -> None:
    lay_out: Any = (lambda *given: packed_sequences(*given, shares_start=True)) if is_packed else sequences
    examples = Examples(packed.load(packed_folder, "train"), LogMel(fetch(tiny_models.encoder), False), ["sad"])
    collate = Collator(packed.load_shell(packed_folder), with_teacher=True, lay_out=lay_out)
    batch = collate([examples[i] for i in range(12)])
    message = ForkingPickler.dumps(batch)
    arrived: Batch = ForkingPickler.loads(message)
    sent = tensors(batch)
    assert len(sent) == (41 if is_packed else 12)
    for one, other in zip(sent, tensors(arrived), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert arrived.ids == batch.ids
    assert bytes(message).count(b"rebuild_storage_fd") == 1  # the log-mel
