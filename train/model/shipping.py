"""How batches travel: from the worker processes of a loader with small tensors as bytes, to a GPU in one copy.

torch opens a shared-memory file for each tensor of a message, which takes longer than the copy of a small tensor. A
packed batch has about forty tensors, all of them small but the log-mel. A copy to a GPU costs some microseconds of the
CPU, however small it is, so all tensors lie in one piece of pinned memory.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

SMALL_BYTES = 65_536
ALIGNMENT = 256
"""Bytes; what is aligned like this can be read with any type, and as fast as memory that torch reserves."""


class Shipped:
    """A frozen dataclass whose small tensors are pickled as arrays."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), {field.name: _light(getattr(self, field.name)) for field in fields(self)})  # type: ignore[arg-type]


def _light(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.device.type != "cpu" or value.nbytes > SMALL_BYTES:
        return value
    return value if value.dtype == torch.bfloat16 else value.numpy()  # NumPy has no bfloat16


def _rebuilt(kind: type[Any], values: dict[str, Any]) -> Any:
    return kind(**{k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in values.items()})


def joined(tensors: Sequence[Tensor], *, pin: bool) -> list[Tensor]:
    """Return copies of tensors of the CPU that lie in one piece of memory; `pin` makes it pinned memory."""
    starts = [0]
    for tensor in tensors:
        starts.append(starts[-1] + -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT)
    storage = torch.empty(starts.pop(), dtype=torch.uint8, pin_memory=pin).untyped_storage()
    return [
        _within(storage, tensor.dtype, start, tensor.shape).copy_(tensor)
        for tensor, start in zip(tensors, starts, strict=True)
    ]


def copied(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors on a device; those that lie in one piece of memory are copied at once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    if len({storage.data_ptr() for storage in storages}) > 1:
        return [tensor.to(device, non_blocking=True) for tensor in tensors]
    whole = _within(storages[0], torch.uint8, 0, torch.Size([storages[0].nbytes()])).to(device, non_blocking=True)
    starts = (int(tensor.storage_offset()) * tensor.itemsize for tensor in tensors)
    return [
        _within(whole.untyped_storage(), tensor.dtype, start, tensor.shape)
        for tensor, start in zip(tensors, starts, strict=True)
    ]


def _within(storage: torch.UntypedStorage, dtype: torch.dtype, start: int, shape: torch.Size) -> Tensor:
    """Return a contiguous tensor that lies at byte `start` of a piece of memory."""
    empty = torch.empty(0, dtype=dtype, device=storage.device)
    stride = torch.empty(shape, device="meta").stride()
    return empty.set_(storage, start // empty.itemsize, shape, stride)
