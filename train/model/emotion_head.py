"""The emotion classifier, an auxiliary task of stage 2 (paper Eq. 3)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from train.model_config import Layers, Pooling

LEAST_DEVIATION = 1e-6  # share of the mean: float32 cannot distinguish less from rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShape:
    """What the head reads of a clip; the default is the published head."""

    pooling: Pooling = "mean"
    layers: Layers = "last"


class LayerSum:
    """The weighted sum of the states of an encoder's layers, which grows while the encoder runs."""

    def __init__(self, weights: Float[Tensor, " m"]) -> None:
        self._weights = iter(weights)
        self._total: Tensor | None = None

    def add(self, states: Float[Tensor, "... e"]) -> None:
        """Add what goes into the next layer, or after the last layer the normalised states."""
        weighted = next(self._weights) * states
        self._total = weighted if self._total is None else self._total + weighted

    @property
    def total(self) -> Float[Tensor, "... e"]:
        """The sum over all layers."""
        assert self._total is not None
        return self._total


class EmotionHead(nn.Module):
    """A linear classifier over one vector of a clip, pooled from its speech embeddings or encoder states.

    The vector is nearly the same for all clips. So it is standardised first. The statistics come from training clips
    and are computed once, before the training of stage 2 starts, when the learned weights of frames and layers are
    still even. Otherwise the head learns the small differences between clips a hundred times slower.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, num_emotions: int, shape: HeadShape | None = None, num_layers: int = 0) -> None:
        """Take the width of the vector, and the number of layers for a weighted sum of their states.

        What goes into the first layer counts as a layer.
        """
        super().__init__()
        self.shape = shape or HeadShape()
        self.classify = nn.Linear(width, num_emotions, bias=False)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        if self.shape.pooling == "attention":
            self.query = nn.Parameter(torch.zeros(width))
        if self.shape.layers == "weighted":
            self.layer_logits = nn.Parameter(torch.zeros(num_layers))

    def layer_sum(self) -> LayerSum | None:
        """Return an empty sum of the states of all layers; None if the head reads speech embeddings."""
        return LayerSum(self.layer_logits.softmax(0)) if self.shape.layers == "weighted" else None

    def pool(self, frames: Float[Tensor, "b n w"], valid: Bool[Tensor, "b n"]) -> Float[Tensor, "b w"]:
        """Return the weighted mean of the valid frames of each clip; 0 for a clip of padding that has none.

        The scores of attention are products of standardised frames with the query, in float32 or more.
        """
        if self.shape.pooling == "mean":
            return mean_of(frames, valid)
        frames = frames.to(torch.promote_types(frames.dtype, torch.float32))
        scores = ((frames - self.mean) / self.deviation * self.query).sum(-1)  # a product of matrices may be bfloat16
        weights = scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(-1) * valid
        return (frames * weights[..., None]).sum(1)

    def standardise(self, pooled: Float[Tensor, "b w"]) -> None:
        """Set `mean` and `deviation` to those of these clips; the deviation is 1 if the clips do not differ."""
        self.mean.copy_(pooled.mean(0))
        if len(pooled) == 1:
            self.deviation.fill_(1.0)
            return
        deviation = pooled.std(0)
        measured = deviation > LEAST_DEVIATION * self.mean.abs()
        self.deviation.copy_(torch.where(measured, deviation, torch.ones_like(deviation)))

    def forward(self, pooled: Float[Tensor, "b w"]) -> Float[Tensor, "b k"]:
        """Return the logits of the emotion classes."""
        logits: Tensor = self.classify((pooled - self.mean) / self.deviation)
        return logits


def mean_of(frames: Float[Tensor, "b n w"], valid: Bool[Tensor, "b n"]) -> Float[Tensor, "b w"]:
    """Return the mean of the valid frames of each clip; 0 for a clip of padding that has none."""
    weights = valid[..., None].to(frames.dtype)
    return (frames * weights).sum(1) / weights.sum(1).clamp(min=1)
