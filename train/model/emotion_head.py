"""The emotion classifier, an auxiliary of stage 2 (paper Eq. 3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class EmotionHead(nn.Module):
    """A linear classifier over the mean of a clip's embeddings.

    All clips share most of that mean, so it is standardised first, by the statistics of training clips
    before the training; without it, the little in which clips differ is learnt a hundred times slower.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, num_emotions: int) -> None:
        super().__init__()
        self.classify = nn.Linear(width, num_emotions, bias=False)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def standardise(self, pooled: Float[Tensor, "b d"]) -> None:
        """Take mean and deviation from these clips."""
        self.mean.copy_(pooled.mean(0))
        self.deviation.copy_(pooled.std(0))

    def forward(self, pooled: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Return the logits of each class."""
        logits: Tensor = self.classify((pooled - self.mean) / self.deviation)
        return logits
