"""The mean states of clips at each link, from one forward pass for each clip.

The states of all layers of a large LLM do not fit into memory, and neither do the means of many clips. So a mean is
taken as soon as a layer has run, and the means of all clips are in a file that is mapped into memory, one link after
another. A clip needs 4 bytes x the widths of its links on disk: 1 MB for 61 links of width 4,096.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluate.asking.processes import by_length
from evaluate.links.clips import Clips
from evaluate.links.path import probed_links
from evaluate.probe.features import StatesByLayer, mean_of_valid
from pipeline.audio.speech_tokens import halved
from pipeline.progress import Task
from pipeline.prompts import PromptIds
from pipeline.stage import UserError
from pipeline.tables.packed import PromptShell
from train.data.dataset import Collator, Example, Examples
from train.data.log_mel import LogMel
from train.model import Batch, SpeechLLM
from train.model.checkpointed_layers import decoder_layers
from train.model.encoder import valid
from train.model.inputs import packed_sequences, sequences
from train.model.packing import Segments
from train.precision import autocast

_ANSWER = [0]
"""A response of any one token, whose state is not used: the position before it predicts the answer."""


@dataclass(frozen=True, slots=True)
class LinkMeans:
    """The means of a batch: those of the encoder's links, then those of the adapter and of the LLM."""

    encoder: Float[Tensor, "b i e"]
    llm: Float[Tensor, "b j d"]


class LinkReader:
    """Runs a model on clips, with the prompt and the P-LoRA of an answer, and returns what passes its links.

    The layout is packed if the model allows it, otherwise padded.
    """

    def __init__(self, model: SpeechLLM, prompt: PromptIds) -> None:
        """Raises UserError if the LLM's layers are not found."""
        self.model = model
        try:
            self.layers = decoder_layers(model.llm)
        except UserError:
            found = f"{type(model.llm).__name__}, whose layers do not run one by one"
            raise UserError(f"models.llm: found {found}; expected an LLM whose layers do") from None
        self.packs = model.packs and not model.encoder.pad_to_30s
        shell = PromptShell(before_speech=list(prompt.before), before_text=None, after=list(prompt.after))
        lay_out = partial(packed_sequences, shares_start=model.shares_start) if self.packs else sequences
        self.collate = Collator(shell, with_teacher=False, lay_out=lay_out)
        self.links = probed_links(len(model.encoder.whisper.layers), len(self.layers))

    @torch.no_grad()
    def __call__(self, examples: Sequence[Example]) -> LinkMeans:
        """Return the means of clips, at least in float32."""
        model, device = self.model, self.model.token_embeddings.weight.device
        batch = self.collate(examples).to(device)
        with autocast(model.llm):
            with StatesByLayer(
                model.encoder.whisper.layers, model.encoder.whisper.layer_norm, self._mean_of_frames(batch)
            ) as of_encoder:
                speech = model.encode_speech(batch.features, batch.num_frames, batch.clips)
            with StatesByLayer(self.layers, model.llm.base_model, self._means_of_positions(batch)) as of_llm:
                model.response_states(batch.student, speech)
        of_positions = torch.stack(of_llm.found[1:], dim=1)
        adapter = mean_of_valid(speech.embeddings, speech.valid)
        llm = torch.cat([adapter[:, None], *of_positions.unbind(2)], dim=1)
        return LinkMeans(torch.stack(of_encoder.found, dim=1), llm)

    def _mean_of_frames(self, batch: Batch) -> "partial[Tensor]":
        lengths = halved(batch.num_frames)
        is_valid = valid(lengths, int(lengths.max()))
        return partial(self._mean_of_clip, batch, is_valid)

    def _mean_of_clip(
        self, batch: Batch, is_valid: Bool[Tensor, "b n"], states: Float[Tensor, "... t e"]
    ) -> Float[Tensor, "b e"]:
        if batch.clips is not None:
            states = batch.clips[1].rectangle(states.flatten(0, -2))
        return mean_of_valid(states, is_valid)

    def _means_of_positions(self, batch: Batch) -> "partial[Tensor | None]":
        student = batch.student
        shared = student.num_shared if self.model.shares_start or self.packs else 0
        masks = torch.stack([student.speech[:, shared:], student.predicts[:, shared:]])
        return partial(self._means_of_row, student.rows, masks)

    def _means_of_row(
        self, rows: Segments | None, masks: Bool[Tensor, "2 b n"], states: Float[Tensor, "_ _ d"]
    ) -> Float[Tensor, "_ 2 d"] | None:
        """Return the mean over the speech positions and the state at the last position; None for the shared start."""
        if states.shape[:2] != masks.shape[1:]:
            return None
        if rows is not None:
            states = rows.rectangle(states[0])
            masks = torch.stack([rows.rectangle(mask[0].float()) for mask in masks]).bool()
        return torch.stack([mean_of_valid(states, mask) for mask in masks], dim=1)


class FeatureFile:
    """The means of clips at all links, in a file: those of a link stand together."""

    def __init__(self, path: Path, num_clips: int, widths: Sequence[int]) -> None:
        """Make the file for links of these widths; its space is taken at once, so that a full disk is one line."""
        self._ends = np.cumsum([num_clips * width for width in widths]).tolist()
        self._shapes = [(num_clips, width) for width in widths]
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 4 * self._ends[-1])
        self._values = np.memmap(path, np.float32, "r+")

    def of(self, link: int) -> Float[np.ndarray, "n e"]:
        """Return the means at a link, (clips, width); what is written to them is in the file."""
        rows, width = self._shapes[link]
        end = self._ends[link]
        return self._values[end - rows * width : end].reshape(rows, width)


def extract(read: LinkReader, log_mel: LogMel, clips: Sequence[Clips], batch_size: int, path: Path) -> FeatureFile:
    """Write the means of the clips of several splits, one split after another, to a file at `path`.

    The clips of a batch have similar lengths. Raises UserError with the id of a clip whose means are no finite numbers.
    """
    examples = [Examples(of_split.rows, log_mel, ()) for of_split in clips]
    wanted = [(split, place) for split, of_split in enumerate(clips) for place in of_split.places.tolist()]
    lengths = [int(length) for of_split in clips for length in of_split.lengths]
    num_encoder_links = len(read.model.encoder.whisper.layers) + 1
    widths = [read.model.encoder.width] * num_encoder_links
    widths += [read.model.token_embeddings.embedding_dim] * (len(read.links) - num_encoder_links)
    file = FeatureFile(path, len(wanted), widths)
    with Task("probe-links", len(wanted), "clips") as task:
        for batch in by_length(lengths, batch_size):
            rows = [_for_prompt(examples[split][place]) for split, place in (wanted[number] for number in batch)]
            means = read(rows)
            of_links = [*means.encoder.unbind(1), *means.llm.unbind(1)]
            for link, values in enumerate(of_links):
                is_finite = values.isfinite().all(1).tolist()
                if not all(is_finite):
                    where = f"{rows[is_finite.index(False)].id}: {read.links[link].name}"
                    raise UserError(f"{where}: found states that are no finite numbers, expected finite ones")
                file.of(link)[batch] = values.float().cpu().numpy()
            task.advance(len(batch))
    return file


def _for_prompt(example: Example) -> Example:
    """Return a clip whose response marks the position before the answer."""
    return Example(
        features=example.features,
        num_frames=example.num_frames,
        text_ids=[],
        response_ids=_ANSWER,
        emotion=-1,
        id=example.id,
    )
