"""Layers under torch.compile: one graph for all layers of a kind and all lengths.

A layer is compiled only in the packed layout, whose attention needs no cache of keys: a cache knows the number of each
layer, so each layer would have a graph of its own. The keys and values of the shared start come as tensors instead.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import config as dynamo_config
from torch.fx.experimental import _config as shapes_config
from transformers import Cache

Backend = str | Callable[..., Any]
"""The compiler of torch.compile: its name, or a function of a graph and its inputs."""


def compile_layers(layers: Sequence[nn.Module], backend: Backend) -> None:
    """Compile layers in place, for calls with `segments` (train/model/packing.py); other calls stay as they are.

    Changes two settings of torch in this process: P-LoRA's mask, which a hook of a module reads, may have any length,
    and sizes that are equal in the first batch may differ in the next one.
    """
    dynamo_config.force_nn_module_property_static_shapes = False
    shapes_config.use_duck_shape = False
    for layer in layers:
        layer.forward = _compiled(layer.forward, backend)


def _compiled(forward: Callable[..., Any], backend: Backend) -> Callable[..., Any]:
    compiled = torch.compile(forward, dynamic=True, backend=backend)

    def run(*inputs: Any, **more_inputs: Any) -> Any:
        chosen = compiled if "segments" in more_inputs else forward
        return chosen(*inputs, **more_inputs)

    return run


@contextmanager
def given_start(layers: Sequence[nn.Module], start: Cache) -> Iterator[None]:
    """Give each layer the keys and values of the shared start, which `attend` puts before its own."""
    of_layers: list[Any] = start.layers
    hooks = [
        layer.register_forward_pre_hook(partial(_add_start, (cached.keys, cached.values)), with_kwargs=True)
        for layer, cached in zip(layers, of_layers, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _add_start(
    start: tuple[Tensor, Tensor], _layer: nn.Module, inputs: tuple[Any, ...], more_inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return inputs, {**more_inputs, "start": start}
