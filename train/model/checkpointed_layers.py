"""Activation checkpointing: layers that keep only their input, and are computed again when the gradient needs the rest.

The checkpointing of transformers does nothing while a model is in evaluation mode, as the frozen LLM always is, and it
drops the keys and values of the shared start. What surrounds a layer, such as P-LoRA's mask, has ended when it is
computed again. So it is entered for each computation here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.stage import UserError


class StartCache(Cache):
    """The keys and values of the shared start; layers see their own after them, but do not store them here.

    A layer that is computed again finds the start as it was.
    """

    def update(
        self, key_states: Float[Tensor, "b g l c"], value_states: Float[Tensor, "b g l c"], layer_idx: int, *_: Any
    ) -> tuple[Float[Tensor, "b g p c"], Float[Tensor, "b g p c"]]:
        """Return the keys and values of the start and those of a layer."""
        start: Any = copy(self.layers[layer_idx])
        keys, values = start.update(key_states, value_states)
        return keys, values


def decoder_layers(llm: PreTrainedModel, parameter: str = "checkpoint_layers") -> list[nn.Module]:
    """Return the LLM's layers in their order; raises UserError if they are not found, which `fit.*.parameter` needs."""
    found: list[nn.Module] = [module for module in llm.modules() if isinstance(module, GradientCheckpointingLayer)]
    expected = llm.config.get_text_config().num_hidden_layers
    if len(found) != expected:
        raise UserError(
            f"fit.*.{parameter}: found true, expected false: {type(llm).__name__} has {len(found)} layers that can be "
            f"computed one by one, and {expected} in all"
        )
    return found


@contextmanager
def checkpointed(
    layers: Sequence[nn.Module], surroundings: Callable[[nn.Module], AbstractContextManager[None]]
) -> Iterator[None]:
    """Make layers that need a gradient keep only their input.

    `surroundings` returns the context in which a layer is computed, now and again. The random numbers of dropout are
    the same again.
    """
    before = [vars(layer).get("forward") for layer in layers]  # that of a compiled layer
    try:
        for layer in layers:
            layer.forward = _checkpointed(layer, surroundings)
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            vars(layer).pop("forward", None)
            vars(layer).update({} if forward is None else {"forward": forward})


def _checkpointed(
    layer: nn.Module, surroundings: Callable[[nn.Module], AbstractContextManager[None]]
) -> Callable[..., Any]:
    forward = layer.forward

    def compute(*inputs: Any, **more_inputs: Any) -> Any:
        with surroundings(layer):
            return forward(*inputs, **more_inputs)

    def compute_again_later(*inputs: Any, **more_inputs: Any) -> Any:
        if not torch.is_grad_enabled() or not _needs_gradient(layer, [*inputs, *more_inputs.values()]):
            return forward(*inputs, **more_inputs)
        return checkpoint(compute, *inputs, use_reentrant=False, **more_inputs)

    return compute_again_later


def _needs_gradient(layer: nn.Module, inputs: Sequence[Any]) -> bool:
    tensors = [*layer.parameters(), *(value for value in inputs if isinstance(value, Tensor))]
    return any(tensor.requires_grad for tensor in tensors)
