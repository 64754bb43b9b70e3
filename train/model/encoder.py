"""Whisper's encoder for clips at their true length.

Hugging Face's encoder accepts only 30 s of log-mel and attends to the padding. This encoder runs the same weights on a
padded batch, but no valid frame attends to a padded one. So a clip has the same states alone and in a batch, and a 3 s
clip costs a tenth of a 30 s clip.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from train.model.packing import Segments, convolve, packed_attention


def halved(lengths: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """Return the lengths after a convolution of stride 2 with "same" padding: (L - 1) // 2 + 1."""
    return (lengths - 1) // 2 + 1


def valid(lengths: Int[Tensor, " b"], size: int) -> Bool[Tensor, "b size"]:
    """Return a mask with `size` columns; row i is true in its first `lengths[i]` columns."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


class SpeechEncoder(nn.Module):
    """A Whisper encoder for clips of any length up to 30 s.

    `pad_to_30s` keeps the published behaviour: the clips are padded to 3,000 frames of log-mel, and attention includes
    the padding.
    """

    def __init__(self, whisper: WhisperEncoder, pad_to_30s: bool) -> None:
        super().__init__()
        self.whisper = whisper
        self.pad_to_30s = pad_to_30s

    @property
    def width(self) -> int:
        """Width of the encoder states."""
        return int(self.whisper.config.d_model)

    def train_weights(self) -> None:
        """Make all weights trainable except the position embeddings, which are sinusoids."""
        self.requires_grad_(True)
        self.whisper.embed_positions.requires_grad_(False)

    def forward(
        self, features: Float[Tensor, "b m f"], num_frames: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b t e"], Int[Tensor, " b"]]:
        """Encode log-mel `features`, whose first `num_frames` frames are the clip; return states and their lengths."""
        lengths = halved(num_frames)
        frames = torch.full_like(num_frames, features.shape[2]) if self.pad_to_30s else num_frames
        x = features * valid(frames, features.shape[2])[:, None]
        x = functional.gelu(self.whisper.conv1(x)) * valid(frames, features.shape[2])[:, None]
        x = functional.gelu(self.whisper.conv2(x)).transpose(1, 2)
        x = x + self.whisper.embed_positions.weight[: x.shape[1]]
        mask = None if self.pad_to_30s else valid(lengths, x.shape[1])[:, None, None]
        for layer in self.whisper.layers:
            x = layer(x, mask)
        x = self.whisper.layer_norm(x)
        return x[:, : int(lengths.max())], lengths

    def packed(
        self, features: Float[Tensor, "f m"], num_frames: Int[Tensor, " b"], rows: Segments
    ) -> tuple[Float[Tensor, "t e"], Int[Tensor, " b"]]:
        """Encode clips that stand one after another; `rows` are the segments of their states."""
        assert not self.pad_to_30s
        x, lengths = convolve(features, num_frames, self.whisper.conv1)
        x, lengths = convolve(functional.gelu(x), lengths, self.whisper.conv2)
        x = functional.gelu(functional.pad(x, (0, 0, 0, len(rows.back) - len(x))))
        x = (x + self.whisper.embed_positions.weight[rows.offsets])[None]
        with packed_attention(self.whisper):
            for layer in self.whisper.layers:
                x = layer(x, None, segments=rows)
        return self.whisper.layer_norm(x[0]), lengths
