"""The modality adapter: turns encoder states (50 per second) into LLM embeddings (6.25 per second)."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pipeline.audio.speech_tokens import halved
from train.model.encoder import valid
from train.model.packing import Segments, convolve

NUM_CONVOLUTIONS = 3
KERNEL_SIZE = 5
BOTTLENECK_WIDTH = 512


class ConvAdapter(nn.Module):
    """Three strided convolutions with GLU, a residual bottleneck and LayerNorm (BLSP-Emo, arXiv 2406.03872).

    Frames after a clip's end are set to zero before each convolution. So a clip's embeddings do not depend on the
    other clips of its batch.
    """

    def __init__(self, encoder_width: int, llm_width: int) -> None:
        super().__init__()
        widths = [encoder_width] * NUM_CONVOLUTIONS + [llm_width]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width_in, 2 * width_out, KERNEL_SIZE, stride=2, padding=KERNEL_SIZE // 2)
            for width_in, width_out in pairwise(widths)
        )
        self.down = nn.Linear(llm_width, BOTTLENECK_WIDTH, bias=False)
        self.up = nn.Linear(BOTTLENECK_WIDTH, llm_width, bias=False)
        self.norm = nn.LayerNorm(llm_width)

    def start_at_norm(self, norm: float) -> None:
        """Scale the output so that training starts from speech embeddings with the Euclidean norm `norm`."""
        nn.init.constant_(self.norm.weight, norm / self.norm.normalized_shape[0] ** 0.5)

    def forward(
        self, states: Float[Tensor, "b t e"], lengths: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b s d"], Int[Tensor, " b"]]:
        """Return the speech embeddings and the number of valid ones in each row."""
        x = states.transpose(1, 2)
        for convolution in self.convolutions:
            x = convolution(x * valid(lengths, x.shape[2])[:, None])
            x = functional.glu(x, dim=1)
            lengths = halved(lengths)
        return self._bottleneck(x.transpose(1, 2)), lengths

    def packed(self, states: Float[Tensor, "t e"], levels: Sequence[Segments]) -> Float[Tensor, "s d"]:
        """Return the speech embeddings of clips whose states stand one after another.

        `levels` are the segments of the states, and of the result of each convolution.
        """
        x = states
        for convolution, (before, after) in zip(self.convolutions, pairwise(levels), strict=True):
            assert isinstance(convolution, nn.Conv1d)
            x = functional.glu(convolve(x, before, after, convolution), dim=1)
        return self._bottleneck(x)

    def _bottleneck(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        x = x + self.up(functional.gelu(self.down(x)))
        return self.norm(x)  # type: ignore[no-any-return]
