"""The packed layout: the rows of a batch stand one after another in one sequence, without padding.

Layers that treat each position alone need no change. Attention and convolutions mix positions, so they are computed
here, and no row sees another one.

More dimension letters: h attention heads, g heads of keys and values, c width of a head, p positions of keys.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedConfig

from train.model.selection import FEW_SIZES, gather, rounded_up
from train.model.shipping import Shipped

Query = Float[Tensor, "1 h l c"]
Keys = Float[Tensor, "1 g p c"]

ATTENTION = "packed_rows"
"""Name of `attend` in transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments(Shipped):
    """The rows of a sequence, in their order; each position belongs to a row.

    The functions of this module turn the sequence into a rectangle with a line for each row, and back. If sizes are
    rounded up, the last rows are padding, and some of them may be empty.
    """

    places: Int[Tensor, "b n"]
    """The positions of each row in the first columns, then l; n is the length of the longest row."""
    back: Int[Tensor, " l"]
    """For each position of the sequence, its number in the flattened rectangle."""
    starts: Int32[Tensor, " b+1"]
    """The first position of each row, and the end of the last row."""
    num_shared: int = 0
    """The number of positions of a start that all rows see; it is computed before, and is not part of the sequence."""

    @staticmethod
    def of(lengths: Sequence[int], num_shared: int = 0, *, round_up: bool = False) -> "Segments":
        """Return the segments of rows with these lengths; `round_up` adds rows of padding, so that few sizes occur."""
        row_lengths = np.asarray(lengths, np.int64)  # on small arrays NumPy takes a fifth of torch's time
        longest = int(row_lengths.max())
        if round_up:
            row_lengths = _with_padding(row_lengths)
            longest = rounded_up(longest, FEW_SIZES)
        starts = np.concatenate([[0], row_lengths.cumsum()])
        columns = np.arange(longest)
        valid = columns < row_lengths[:, np.newaxis]
        return Segments(
            places=torch.from_numpy(np.where(valid, starts[:-1, np.newaxis] + columns, starts[-1])),
            back=torch.from_numpy(np.flatnonzero(valid)),
            starts=torch.from_numpy(starts.astype(np.int32)),
            num_shared=num_shared,
        )

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Segments":
        """Return segments whose tensors are `change` of these."""
        places, back, starts = change(self.places), change(self.back), change(self.starts)
        return Segments(places=places, back=back, starts=starts, num_shared=self.num_shared)

    @property
    def valid(self) -> Bool[Tensor, "b n"]:
        """True where the rectangle holds a position."""
        return self.places < len(self.back)

    @property
    def rows(self) -> Int[Tensor, " l"]:
        """The row of each position."""
        return self.back // self.places.shape[1]

    @property
    def offsets(self) -> Int[Tensor, " l"]:
        """The place of each position within its row."""
        return self.back % self.places.shape[1]

    def lookup(self, rows: Int[Tensor, "*#d"], offsets: Int[Tensor, "*#d"]) -> Int[Tensor, "*d"]:
        """Return the positions of these places within these rows; l where there is none."""
        num_rows, longest = self.places.shape
        found = self.places[rows.clamp(max=num_rows - 1), offsets.clamp(0, longest - 1)]
        return found.where((rows < num_rows) & (offsets >= 0) & (offsets < longest), len(self.back))

    def rectangle(self, x: Float[Tensor, "l ..."]) -> Float[Tensor, "b n ..."]:
        """Return the values of each row, then 0."""
        return gather(x, self.places, self.back)

    def sequence(self, x: Float[Tensor, "b n ..."]) -> Float[Tensor, "l ..."]:
        """Return the values of the sequence."""
        return gather(x.flatten(0, 1), self.back, self.places.flatten())


def _with_padding(lengths: Int[np.ndarray, " b"]) -> Int[np.ndarray, " _"]:
    """Return row lengths, then those of rows of padding: no other row sees them, and none is longer than the others.

    Attention covers all positions, because positions that it leaves out would hold no numbers on a GPU.
    """
    total, longest = int(lengths.sum()), int(lengths.max())
    full, rest = divmod(rounded_up(total) - total, longest)
    padding = [longest] * full + [rest]
    num_rows = rounded_up(len(lengths) + len(padding), FEW_SIZES)
    return np.pad(np.concatenate([lengths, padding]), (0, num_rows - len(lengths) - len(padding)))


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 h l c"],
    key: Float[Tensor, "1 g l c"],
    value: Float[Tensor, "1 g l c"],
    attention_mask: None,
    *,
    segments: Segments,
    start: tuple[Float[Tensor, "1 g _ c"], Float[Tensor, "1 g _ c"]] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_other: Any,
) -> tuple[Float[Tensor, "1 l h c"], None]:
    """Let each row attend to itself and to the shared start, whose keys and values are `start`.

    This is an attention function of transformers. Raises NotImplementedError for what it does not compute.
    """
    if s_aux is not None:
        raise NotImplementedError("attention with sinks")
    if dropout:
        raise NotImplementedError("attention with dropout")
    if start is not None:
        key, value = (torch.cat([before, own], dim=2) for before, own in zip(start, (key, value), strict=True))
    assert key.shape[2] == segments.num_shared + query.shape[2]
    kind = _Kind(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal=getattr(module, "is_causal", True) if is_causal is None else is_causal,
        sliding_window=sliding_window,
        softcap=softcap,
    )
    if _varlen_runs(query) and softcap is None:
        attention = _varlen
    else:
        attention = _row_by_row if _loops_over_rows(query) else _in_rectangle
    return attention(query, key, value, segments, kind)[None], None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """Which keys a position sees, and how its scores are computed."""

    scale: float
    causal: bool
    sliding_window: int | None
    softcap: float | None

    def visible(self, segments: Segments) -> Bool[Tensor, "n p"]:
        """Return which keys each position of the longest row sees: those of the shared start and of its own row."""
        longest, num_shared = segments.places.shape[1], segments.num_shared
        visible = torch.ones(longest, num_shared + longest, dtype=torch.bool, device=segments.places.device)
        if self.causal:
            visible = visible.tril(num_shared)
        if self.sliding_window is not None:
            visible = visible.triu(num_shared - self.sliding_window + 1)
        return visible


def _varlen_runs(query: Tensor) -> bool:
    """Return whether torch's attention over rows of several lengths accepts this query: FlashAttention 2's limits."""
    if not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16):
        return False
    return query.shape[-1] % 8 == 0 and query.shape[-1] <= 256 and _has_flash_attention()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_flash_attention() -> bool:
    return torch.cuda.get_device_capability()[0] >= 8


def _varlen(query: Query, key: Keys, value: Keys, segments: Segments, kind: _Kind) -> Float[Tensor, "l h c"]:
    """Compute attention without the rectangle; if causal, the last query of a row sees all keys of the row."""
    num_rows, longest = segments.places.shape
    num_shared = segments.num_shared
    groups = query.shape[1] // key.shape[1]
    row_numbers = torch.arange(num_rows + 1, device=query.device, dtype=torch.int32)
    key_starts = segments.starts + num_shared * row_numbers
    own_places = torch.arange(query.shape[2], device=query.device) + num_shared * (segments.rows + 1)
    start_places = key_starts[:-1, None] + torch.arange(num_shared, device=query.device)

    def keys(x: Float[Tensor, "1 g p c"]) -> Float[Tensor, "_ h c"]:
        x = x[0].transpose(0, 1).to(query.dtype).repeat_interleave(groups, dim=1)
        if not num_shared:
            return x
        whole = x.new_empty(len(x) - num_shared + num_rows * num_shared, *x.shape[1:])
        whole[start_places.long()] = x[:num_shared].detach()  # it holds no speech, so it needs no gradient
        return whole.index_copy(0, own_places, x[num_shared:])

    before = -1 if kind.sliding_window is None else kind.sliding_window - 1
    return varlen_attn(  # type: ignore[return-value]
        query[0].transpose(0, 1).contiguous(),
        keys(key).contiguous(),
        keys(value).contiguous(),
        segments.starts,
        key_starts,
        longest,
        num_shared + longest,
        scale=kind.scale,
        window_size=(before, 0 if kind.causal else -1),
    )


def _loops_over_rows(query: Tensor) -> bool:
    """Return whether each row is computed by itself. A compiled loop would be compiled for each number of rows."""
    return query.device.type == "cpu" and not torch.compiler.is_compiling()


def _row_by_row(query: Query, key: Keys, value: Keys, segments: Segments, kind: _Kind) -> Float[Tensor, "l h c"]:
    """Compute attention without padding, in float32 or more.

    PyTorch's function is not used: with a mask, it is not faster on a CPU.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    num_shared, lengths = segments.num_shared, segments.starts.diff().tolist()
    grouped = query[0].to(dtype).mul(kind.scale).unflatten(0, (key.shape[1], -1)).split(lengths, dim=2)
    start_keys, *row_keys = key[0].to(dtype).split([num_shared, *lengths], dim=1)
    start_values, *row_values = value[0].to(dtype).split([num_shared, *lengths], dim=1)
    hidden = None
    if kind.causal or kind.sliding_window is not None:
        hidden = torch.zeros((), dtype=dtype).where(kind.visible(segments), -torch.inf)
    rows = []
    for queries, own_keys, own_values in zip(grouped, row_keys, row_values, strict=True):
        keys, values = torch.cat([start_keys, own_keys], dim=1), torch.cat([start_values, own_values], dim=1)
        shape = queries.shape[1:3]
        with torch.autocast("cpu", enabled=False):  # it would round the scores to bfloat16
            scores = (queries.flatten(1, 2) @ keys.transpose(1, 2)).unflatten(1, shape)
            if kind.softcap is not None:
                scores = torch.tanh(scores / kind.softcap) * kind.softcap
            if hidden is not None:
                scores += hidden[: shape[1], : num_shared + shape[1]]
            rows.append((scores.softmax(-1).flatten(1, 2) @ values).unflatten(1, shape))
    return torch.cat(rows, dim=2).flatten(0, 1).transpose(0, 1).to(query.dtype)


def _in_rectangle(query: Query, key: Keys, value: Keys, segments: Segments, kind: _Kind) -> Float[Tensor, "l h c"]:
    """Compute attention with each row padded to the longest one."""
    num_shared = segments.num_shared

    def rows(x: Float[Tensor, "1 h l c"]) -> Float[Tensor, "b h n c"]:
        return segments.rectangle(x[0].transpose(0, 1)).transpose(1, 2)

    def keys(x: Float[Tensor, "1 g p c"]) -> Float[Tensor, "b g _ c"]:
        own = rows(x[:, :, num_shared:])
        return torch.cat([x[:, :, :num_shared].expand(len(own), -1, -1, -1), own], dim=2) if num_shared else own

    mask = functional.pad(segments.valid, (num_shared, 0), value=True)[:, None, None]
    if kind.causal or kind.sliding_window is not None:
        mask = mask & kind.visible(segments)
    if kind.softcap is None:
        is_grouped = query.shape[1] != key.shape[1]
        output = functional.scaled_dot_product_attention(
            rows(query), keys(key), keys(value), mask, scale=kind.scale, enable_gqa=is_grouped
        )
    else:
        with torch.autocast(query.device.type, enabled=False):  # it would round the scores to bfloat16
            output = _capped(rows(query), keys(key), keys(value), mask, kind.scale, kind.softcap)
    return segments.sequence(output.transpose(1, 2))


def _capped(
    query: Float[Tensor, "b h n c"],
    key: Float[Tensor, "b g p c"],
    value: Float[Tensor, "b g p c"],
    mask: Bool[Tensor, "b 1 _ p"],
    scale: float,
    softcap: float,
) -> Float[Tensor, "b h n c"]:
    """Return softmax attention with a cap of its scores, which PyTorch's function does not know; float32 or more."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    grouped = query.unflatten(1, (key.shape[1], -1)).to(dtype)
    scores = (grouped @ key[:, :, None].transpose(-1, -2).to(dtype)) * scale
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
    x: Float[Tensor, "l c"], before: Segments, after: Segments, convolution: nn.Conv1d
) -> Float[Tensor, "m d"]:
    """Return a convolution over each of the packed rows, with zeros before and after it.

    `before` are the segments of `x`, and `after` those of the result. The kernel is a matrix that multiplies the
    gathered neighbours of each position. On a GPU, this has no plan for each new length, which a convolution has.
    """
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    padding = kernel // 2
    assert convolution.padding == (padding,)
    taps = torch.arange(kernel, device=x.device)
    neighbours = before.lookup(after.rows[:, None], after.offsets[:, None] * stride - padding + taps)
    ends = before.offsets[:, None] + padding - taps  # stride times the place that this tap computes
    results = after.lookup(before.rows[:, None], ends // stride).where(ends % stride == 0, len(after.back))
    places = torch.where(results < len(after.back), results * kernel + taps, neighbours.numel())
    gathered = gather(x, neighbours, places)
    kernels = convolution.weight.permute(0, 2, 1).flatten(1)
    return functional.linear(gathered.flatten(1), kernels, convolution.bias)
