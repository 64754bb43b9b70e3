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

from pipeline.audio.speech_tokens import halved
from train.model.emotion_head import LayerSum
from train.model.packing import Segments, convolve, packed_attention


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
        self, features: Float[Tensor, "b m f"], num_frames: Int[Tensor, " b"], layer_sum: LayerSum | None = None
    ) -> tuple[Float[Tensor, "b t e"], Int[Tensor, " b"]]:
        """Encode log-mel `features`, whose first `num_frames` frames are the clip; return states and their lengths.

        `layer_sum` gets the states of all layers.
        """
        lengths = halved(num_frames)
        frames = torch.full_like(num_frames, features.shape[2]) if self.pad_to_30s else num_frames
        x = features * valid(frames, features.shape[2])[:, None]
        x = functional.gelu(self.whisper.conv1(x)) * valid(frames, features.shape[2])[:, None]
        x = functional.gelu(self.whisper.conv2(x)).transpose(1, 2)
        x = x + self.whisper.embed_positions.weight[: x.shape[1]]
        mask = None if self.pad_to_30s else valid(lengths, x.shape[1])[:, None, None]
        x = self._run_layers(x, layer_sum, mask)
        return x[:, : int(lengths.max())], lengths

    def packed(
        self, features: Float[Tensor, "f m"], frames: Segments, rows: Segments, layer_sum: LayerSum | None = None
    ) -> Float[Tensor, "t e"]:
        """Encode clips that stand one after another; `frames` are the segments of the log-mel, `rows` of the states.

        `layer_sum` gets the states of all layers.
        """
        assert not self.pad_to_30s
        x = functional.gelu(convolve(features, frames, frames, self.whisper.conv1))
        x = functional.gelu(convolve(x, frames, rows, self.whisper.conv2))
        x = x[None] + self.whisper.embed_positions.weight[rows.offsets]  # no view: a layer is compiled again for a view
        with packed_attention(self.whisper):
            return self._run_layers(x, layer_sum, None, segments=rows)[0]

    def _run_layers(
        self,
        x: Float[Tensor, "b t e"],
        layer_sum: LayerSum | None,
        mask: Bool[Tensor, "b 1 1 t"] | None,
        **more_inputs: Segments,
    ) -> Float[Tensor, "b t e"]:
        for layer in self.whisper.layers:
            if layer_sum is not None:
                layer_sum.add(x)
            x = layer(x, mask, **more_inputs)
        x = self.whisper.layer_norm(x)
        if layer_sum is not None:
            layer_sum.add(x)
        return x
