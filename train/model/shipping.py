"""How batches travel from the worker processes of a loader: small tensors as bytes.

torch opens a shared-memory file for each tensor of a message, which takes longer than the copy of a small tensor. A
packed batch has about thirty tensors, all of them small but the log-mel.
"""

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

SMALL_BYTES = 65_536


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
