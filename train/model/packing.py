"""The packed layout: the rows of a batch stand one after another in one sequence, without padding.

Layers that treat each position alone need no change. Attention and convolutions mix positions, so they are computed
here, and no row sees another one.

More dimension letters: h attention heads, g heads of keys and values, c width of a head, p positions of keys.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedConfig

ATTENTION = "packed_rows"
"""Name of `attend` in transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """The rows of a sequence, in their order; positions after the last row are padding.

    The functions of this module turn the sequence into a rectangle with a line for each row, and back.
    """

    places: Int[Tensor, "b n"]
    """The positions of each row, in the first columns; n is the length of the longest row."""
    valid: Bool[Tensor, "b n"]
    """True where `places` holds a position."""
    back: Int[Tensor, " l"]
    """For each position of the sequence, its number in the flattened rectangle; b n if it is padding."""

    @staticmethod
    def of(lengths: Sequence[int], size: int | None = None) -> "Segments":
        """Return the segments of rows with these lengths, in a sequence of `size` positions (default: no padding)."""
        row_lengths = torch.tensor(lengths)
        starts = row_lengths.cumsum(0) - row_lengths
        columns = torch.arange(int(row_lengths.max()))
        valid = columns < row_lengths[:, None]
        back = torch.full((int(row_lengths.sum()) if size is None else size,), valid.numel())
        back[: int(row_lengths.sum())] = valid.flatten().nonzero()[:, 0]
        return Segments(places=(starts[:, None] + columns) * valid, valid=valid, back=back)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Segments":
        """Return segments whose tensors are `change` of these."""
        return Segments(places=change(self.places), valid=change(self.valid), back=change(self.back))

    @property
    def offsets(self) -> Int[Tensor, " l"]:
        """The place of each position within its row; 0 at padding."""
        return self.back % self.places.shape[1] * (self.back < self.places.numel())

    def rectangle(self, x: Float[Tensor, "l ..."]) -> Float[Tensor, "b n ..."]:
        """Return the values of each row; other values where `valid` is false."""
        return x[self.places]

    def sequence(self, x: Float[Tensor, "b n ..."]) -> Float[Tensor, "l ..."]:
        """Return the values of the sequence; 0 at padding."""
        flat = x.flatten(0, 1)
        return torch.cat([flat, flat.new_zeros(1, *flat.shape[1:])])[self.back]


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 h l c"],
    key: Float[Tensor, "1 g p c"],
    value: Float[Tensor, "1 g p c"],
    attention_mask: None,
    *,
    segments: Segments,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_other: Any,
) -> tuple[Float[Tensor, "1 l h c"], None]:
    """Let each row attend to itself and to the shared start, the p - l positions before the first row.

    This is an attention function of transformers. Raises NotImplementedError for what it does not compute.
    """
    if s_aux is not None:
        raise NotImplementedError("attention with sinks")
    num_rows, longest = segments.places.shape
    num_shared = key.shape[2] - query.shape[2]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal

    def rows(x: Tensor) -> Tensor:
        own = segments.rectangle(x[0, :, x.shape[2] - query.shape[2] :].transpose(0, 1)).transpose(1, 2)
        shared = x[:, :, : x.shape[2] - query.shape[2]].expand(num_rows, -1, -1, -1)
        return torch.cat([shared, own], dim=2) if shared.shape[2] else own

    mask = functional.pad(segments.valid, (num_shared, 0), value=True)[:, None, None]
    if causal:
        mask = mask & mask.new_ones(longest, num_shared + longest).tril(num_shared)
    if sliding_window is not None:
        mask = mask & mask.new_ones(longest, num_shared + longest).triu(num_shared - sliding_window + 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.is_cuda and softcap is None:
        is_grouped = query.shape[1] != key.shape[1]
        output = functional.scaled_dot_product_attention(
            rows(query), rows(key), rows(value), mask, dropout, scale=scale, enable_gqa=is_grouped
        )
    else:
        with torch.autocast(query.device.type, enabled=False):  # it would round the scores to bfloat16
            output = _attention(rows(query), rows(key), rows(value), mask, scale, softcap)
    return segments.sequence(output.transpose(1, 2))[None], None


def _attention(
    query: Float[Tensor, "b h n c"],
    key: Float[Tensor, "b g p c"],
    value: Float[Tensor, "b g p c"],
    mask: Bool[Tensor, "b 1 _ p"],
    scale: float,
    softcap: float | None,
) -> Float[Tensor, "b h n c"]:
    """Return softmax attention, computed in float32 or more.

    PyTorch's function is not used on a CPU, because its gradient is slow there for short rows in bfloat16.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    grouped = query.unflatten(1, (key.shape[1], -1)).to(dtype)
    scores = (grouped @ key[:, :, None].transpose(-1, -2).to(dtype)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = scores.masked_fill(~mask[:, None], torch.finfo(dtype).min).softmax(-1)
    output: Tensor = (weights @ value[:, :, None].to(dtype)).flatten(1, 2).to(query.dtype)
    return output


AttentionInterface.register(ATTENTION, attend)


@contextmanager
def packed_attention(model: nn.Module) -> Iterator[None]:
    """Make the layers of a transformers model call `attend`."""
    configs = {id(config): config for module in model.modules() if (config := _config(module)) is not None}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config in configs.values():
            config._attn_implementation_internal = ATTENTION
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation


def _config(module: nn.Module) -> PreTrainedConfig | None:
    config = getattr(module, "config", None)
    return config if isinstance(config, PreTrainedConfig) else None


def convolve(
    x: Float[Tensor, "l c"], lengths: Int[Tensor, " b"], convolution: nn.Conv1d
) -> tuple[Float[Tensor, "m d"], Int[Tensor, " b"]]:
    """Return a convolution over each of the packed rows, with zeros before and after it, and the new lengths.

    The kernel is a matrix that multiplies the gathered neighbours of each position. On a GPU, this has no plan for each
    new length, which a convolution has.
    """
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    padding = kernel // 2
    assert convolution.padding == (padding,)
    halved = (lengths - 1) // stride + 1
    row = torch.repeat_interleave(torch.arange(len(lengths), device=x.device), halved)
    first_in, first_out = lengths.cumsum(0) - lengths, halved.cumsum(0) - halved
    offset = torch.arange(len(row), device=x.device) - first_out[row]
    taps = offset[:, None] * stride - padding + torch.arange(kernel, device=x.device)
    outside = (taps < 0) | (taps >= lengths[row, None])
    neighbours = (first_in[row, None] + taps).masked_fill(outside, len(x))
    gathered = torch.cat([x, x.new_zeros(1, x.shape[1])])[neighbours]
    kernels = convolution.weight.permute(0, 2, 1).flatten(1)
    return functional.linear(gathered.flatten(1), kernels, convolution.bias), halved
