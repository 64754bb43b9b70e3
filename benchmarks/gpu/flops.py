"""The executed FLOPs of a training step; train/useful_flops.py counts the useful ones."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def counting_flops() -> FlopCounterMode:
    """Return the context that counts the executed FLOPs.

    Attention counts in full, including masked positions. torch 2.11's own count fails if the keys have fewer heads than
    the queries, and no version of torch counts attention on a CPU.
    """
    attention = torch.ops.aten
    kinds = [f"_scaled_dot_product_{kind}" for kind in ("flash_attention", "efficient_attention", "cudnn_attention")]
    kinds.append("_scaled_dot_product_flash_attention_for_cpu")
    forward = {getattr(attention, kind): _attention_flops for kind in kinds}
    backward = {getattr(attention, f"{kind}_backward"): _attention_backward_flops for kind in kinds}
    return FlopCounterMode(display=False, custom_mapping=forward | backward)


def _attention_flops(query: Sequence[int], key: Sequence[int], *_others: Any, **_options: Any) -> int:
    return 4 * query[0] * query[1] * query[2] * key[2] * query[3]


def _attention_backward_flops(_gradient: object, query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """Count five products: the scores again, and the gradients of weights, values, queries and keys."""
    return _attention_flops(query, key) * 5 // 2
