"""Memory and FLOPs of a training step, counted while the step runs on tensors without values (FakeTensorMode).

The model, the loss and the backward pass are those of training, so there is no formula to keep in step with the model.
Only the batch's indices have values. Memory is the sum of all storages that are alive, each counted once; weights do
not count. An allocator that rounds sizes or leaves gaps needs more.
"""

import copy
import gc
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from train import losses
from train.model import Batch, SpeechLLM, packing
from train.model.speech_llm import Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """What a training step on one device needs; memory in bytes."""

    weights: int
    """All weights and buffers, trained or not."""
    trained_weights: int
    """Number of trained weights; they are float32."""
    gradients: int
    optimizer: int
    """AdamW's two moments of each trained weight."""
    activations: int
    """What the forward pass keeps for the backward pass, without weights."""
    loss: int
    """What the loss needs on top of the activations while it runs: the logits of some rows, and what it keeps."""
    largest: int
    """The most that is alive at once in a step besides weights and optimizer: activations and loss, then activations
    and gradients, then what the optimizer needs."""
    flops: float
    """Executed FLOPs of forward and backward; a product of an (a, b) and a (b, c) matrix counts 2abc."""

    @property
    def peak(self) -> int:
        """The most memory that the step needs at once."""
        return self.weights + self.optimizer + self.largest


class Loss(Protocol):
    """An objective of training (train/fit/objectives.py)."""

    def sums(self, outputs: Outputs, batch: Batch) -> Mapping[str, Tensor]:
        """Return the sum of each term over the units of a batch."""
        ...


def outline_of_model(model: SpeechLLM) -> SpeechLLM:
    """Return a copy of a model on the device meta: its shapes, and which weights are trained, without its values."""
    tensors = [*model.parameters(), *model.buffers()]
    known: dict[int, Any] = {id(tensor): _outline_of(tensor) for tensor in tensors}
    return copy.deepcopy(model, known)


def _outline_of(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def run_step(
    model: SpeechLLM, objective: Callable[[SpeechLLM], Loss], batch: Batch, device: str, foreach: bool = False
) -> StepFacts:
    """Run a training step of a model on the device meta (`outline_of_model`), without values.

    `device` is cuda or cpu, which attend in different ways. With `foreach`, AdamW updates all weights at once, as on a
    GPU, and so needs a copy of them.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    without_values(model, mode)
    held = [*model.parameters(), *model.buffers()]
    weights = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in held}
    trained = [p for p in model.parameters() if p.requires_grad]
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    live = LiveMemory(weights)
    is_bfloat16 = model.token_embeddings.weight.dtype == torch.bfloat16
    model.train()
    with _choices_of(device), _without_collector(), live, _KnownMasks():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
                outputs = model(batch)
            activations, alive = sum(kept.values()), live.now
            whole, live.peak = live.peak, live.now
            sums = objective(model).sums(outputs, batch)
            loss = torch.stack([total.float() for total in sums.values()]).sum()
        during_loss = live.peak - alive
        live.peak = max(whole, live.peak)
        del outputs, sums
        loss.backward()
    gradients = sum(p.grad.nbytes for p in trained if p.grad is not None)
    return StepFacts(
        weights=sum(weights.values()),
        trained_weights=sum(p.numel() for p in trained),
        gradients=gradients,
        optimizer=2 * gradients,
        activations=activations,
        loss=during_loss,
        largest=max(live.peak, gradients + (gradients if foreach else 0)),
        flops=live.flops,
    )


class LiveMemory(TorchDispatchMode):
    """Follows the storages that operations make: how many bytes are alive, and the most so far. Counts FLOPs."""

    def __init__(self, known: Mapping[int, int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = known
        self.now = self.peak = 0
        self.flops = 0.0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        self.flops += _flops(func, args, kwargs or {}, result)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or key in self.known:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


class _KnownMasks(TorchFunctionMode):
    """Turns masks that have values into indices: the size of a selection by a mask is unknown without values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__:
            mask = args[1]
            if isinstance(mask, Tensor) and mask.dtype == torch.bool and not isinstance(mask, FakeTensor):
                args = (args[0], mask.nonzero(as_tuple=True))
        return func(*args, **(kwargs or {}))


@contextmanager
def _choices_of(device: str) -> Iterator[None]:
    """Let packed attention and losses choose as on a device; they would ask the device itself, which is not here."""
    is_cuda = device == "cuda"
    rows_at_once = losses.ROWS_AT_ONCE_ON_GPU if is_cuda else losses.ROWS_AT_ONCE
    with (
        mock.patch.object(packing, "_varlen_runs", lambda query: is_cuda and query.dtype == torch.bfloat16),
        mock.patch.object(packing, "_loops_over_rows", return_value=not is_cuda),
        mock.patch.object(losses, "ROWS_AT_ONCE", rows_at_once),
    ):
        yield


@contextmanager
def _without_collector() -> Iterator[None]:
    """Switch Python's collector of cycles off, which takes a third of the time; what is alive is then certain, too."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> float:
    """Return the FLOPs of an operation; attention counts the pairs of positions of each row, also masked ones."""
    name = func._schema.name.partition("::")[2]
    if func._overloadpacket in flop_registry:
        return float(flop_registry[func._overloadpacket](*args, **kwargs, out_val=result))
    if "attention" in name or "varlen_attn" in name:
        products = 5 if "backward" in name else 2
        tensors = [tensor for tensor in args if isinstance(tensor, Tensor)]
        query, key = tensors[1:3] if "backward" in name else tensors[:2]
        return 2.0 * products * _pairs(query, key, tensors)
    return 0.0


def _pairs(query: Tensor, key: Tensor, tensors: list[Tensor]) -> float:
    """Return the pairs of a query's and a key's position, times all features."""
    if query.ndim == 4:
        return float(query.numel() * key.shape[2])
    starts = [t.diff().double() for t in tensors if t.ndim == 1 and not isinstance(t, FakeTensor) and len(t) > 1]
    rows = [lengths for lengths in starts if int(lengths.sum()) in (len(query), len(key))][:2]
    pairs = float((rows[0] * rows[-1]).sum()) if rows else float(len(query) * len(key))
    return pairs * query.shape[1] * query.shape[2]


def without_values(model: nn.Module, mode: FakeTensorMode) -> None:
    """Put tensors of `mode` in place of all weights and buffers of a model on the device meta; shared ones stay so."""
    made: dict[int, Tensor] = {}

    def make(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            fake = torch.empty_like(tensor, device="cpu")
            trained = tensor.requires_grad
            made[id(tensor)] = nn.Parameter(fake, trained) if isinstance(tensor, nn.Parameter) else fake
        return made[id(tensor)]

    with mode:
        for module in model.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        table[name] = make(tensor)  # type: ignore[assignment]
