"""The mean encoder state of a clip, for each layer of the frozen encoder."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.audio.speech_tokens import HOP_SAMPLES, MAX_MEL_FRAMES
from pipeline.progress import Task
from pipeline.tables import packed
from train.data.dataset import decode
from train.data.log_mel import LogMel
from train.model.encoder import SpeechEncoder
from train.model.inputs import pad_features

FRAMES_AT_ONCE = 4 * MAX_MEL_FRAMES


@torch.no_grad()
def layer_means(
    encoder: SpeechEncoder, log_mel: LogMel, rows: packed.Rows, places: Int[np.ndarray, " n"], layers: Sequence[int]
) -> Float[np.ndarray, "n layers e"]:
    """Return the mean states of the rows at `places` in float32, for these layers.

    Layer 0 is what the first layer gets; the last one has the encoder's final norm.
    """
    device = next(encoder.parameters()).device
    num_samples = rows.column("num_samples").to_numpy()[places].astype(np.int64)
    frames = np.minimum(num_samples // HOP_SAMPLES, MAX_MEL_FRAMES)
    means = np.empty((len(places), len(layers), encoder.width), np.float32)
    with Task("probe", len(places), "clips") as task, _StatesByLayer(encoder) as states:
        for batch in _batches(frames):
            samples = [decode(rows, rows[place], place) for place in places[batch].tolist()]
            features = pad_features([log_mel(clip) for clip in samples]).to(device)
            last, lengths = encoder(features, torch.from_numpy(frames[batch]).to(device))
            of_layers = [*states.taken(), last]
            means[batch] = _means([of_layers[layer] for layer in layers], lengths)
            task.advance(len(batch))
    return means


def _batches(frames: Int[np.ndarray, " n"]) -> Iterator[list[int]]:
    """Cut clips, sorted by their length in mel frames, into batches of at most FRAMES_AT_ONCE frames."""
    batch: list[int] = []
    for i in np.argsort(frames, kind="stable").tolist():
        if batch and (len(batch) + 1) * int(frames[i]) > FRAMES_AT_ONCE:
            yield batch
            batch = []
        batch.append(i)
    yield batch


class _StatesByLayer:
    """Keeps what goes into each layer of an encoder while it is entered."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        self.layers = encoder.whisper.layers
        self._states: list[Tensor] = []

    def __enter__(self) -> "_StatesByLayer":
        self._handles = [
            layer.register_forward_pre_hook(lambda _layer, inputs: self._states.append(inputs[0]))
            for layer in self.layers
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def taken(self) -> list[Tensor]:
        """Return the states of the last forward pass."""
        states, self._states = self._states, []
        return states


def _means(layers: Sequence[Float[Tensor, "b _ e"]], lengths: Tensor) -> Float[np.ndarray, "b layers e"]:
    longest = int(lengths.max())
    valid = (torch.arange(longest, device=lengths.device) < lengths[:, None])[..., None]
    sums = [(states[:, :longest].float() * valid).sum(1) for states in layers]
    return (torch.stack(sums, dim=1) / lengths[:, None, None]).cpu().numpy()
