"""The emotion classifier, an auxiliary task of stage 2 (paper Eq. 3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class EmotionHead(nn.Module):
    """A linear classifier over the mean of a clip's embeddings.

    The mean is nearly the same for all clips. So the mean is standardised first. The statistics come from training
    clips and are computed once, before the training of stage 2 starts. Otherwise the head learns the small differences
    between clips a hundred times slower.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, num_emotions: int) -> None:
        super().__init__()
        self.classify = nn.Linear(width, num_emotions, bias=False)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def standardise(self, pooled: Float[Tensor, "b d"]) -> None:
        """Set `mean` and `deviation` to those of these clips."""
        self.mean.copy_(pooled.mean(0))
        self.deviation.copy_(pooled.std(0))

    def forward(self, pooled: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Return the logits of the emotion classes."""
        logits: Tensor = self.classify((pooled - self.mean) / self.deviation)
        return logits
