"""The mean encoder state of a clip, for each layer of the frozen encoder."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.audio.speech_tokens import HOP_SAMPLES, MAX_MEL_FRAMES, halved
from pipeline.progress import Task
from pipeline.tables import packed
from train.data.dataset import decode
from train.data.log_mel import LogMel
from train.model.encoder import SpeechEncoder, valid
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
    with Task("probe", len(places), "clips") as task:
        for batch in _batches(frames):
            samples = [decode(rows, rows[place], place) for place in places[batch].tolist()]
            features = pad_features([log_mel(clip) for clip in samples]).to(device)
            num_frames = torch.from_numpy(frames[batch]).to(device)
            lengths = halved(num_frames)
            reduce = partial(mean_of_valid, is_valid=valid(lengths, int(lengths.max())))
            with StatesByLayer(encoder.whisper.layers, encoder.whisper.layer_norm, reduce) as states:
                encoder(features, num_frames)
            means[batch] = torch.stack([states.found[layer] for layer in layers], dim=1).cpu().numpy()
            task.advance(len(batch))
    return means


def mean_of_valid(states: Float[Tensor, "b t e"], is_valid: Bool[Tensor, "b n"]) -> Float[Tensor, "b e"]:
    """Return the mean of each row's valid states, at least in float32; what follows the first n states is padding."""
    wide = states[:, : is_valid.shape[1]].to(torch.promote_types(states.dtype, torch.float32))
    return (wide * is_valid[..., None]).sum(1) / is_valid.sum(1)[:, None]


def _batches(frames: Int[np.ndarray, " n"]) -> Iterator[list[int]]:
    """Cut clips, sorted by their length in mel frames, into batches of at most FRAMES_AT_ONCE frames."""
    batch: list[int] = []
    for i in np.argsort(frames, kind="stable").tolist():
        if batch and (len(batch) + 1) * int(frames[i]) > FRAMES_AT_ONCE:
            yield batch
            batch = []
        batch.append(i)
    yield batch


class StatesByLayer:
    """Keeps what `reduce` returns for the input of each layer, and then for the output of `last`, while it is entered.

    `last` is the module whose output is the states after the last layer. The states themselves are not kept, because
    those of all layers would need much memory. If `reduce` returns None, nothing is kept.
    """

    def __init__(self, layers: Iterable[nn.Module], last: nn.Module, reduce: Callable[[Tensor], Tensor | None]) -> None:
        self.layers, self.last, self.reduce = layers, last, reduce
        self.found: list[Tensor] = []
        """For each layer, then for the last states."""

    def __enter__(self) -> "StatesByLayer":
        self._handles = [
            layer.register_forward_pre_hook(lambda _layer, inputs: self._keep(inputs[0])) for layer in self.layers
        ]
        self._handles.append(self.last.register_forward_hook(lambda _last, _inputs, output: self._keep_output(output)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep_output(self, output: Any) -> None:
        self._keep(getattr(output, "last_hidden_state", output))

    def _keep(self, states: Tensor) -> None:
        if (reduced := self.reduce(states)) is not None:
            self.found.append(reduced)
