"""What the model takes: clips as log-mel, and token sequences with places for speech."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """Token sequences, padded at the right."""

    token_ids: Int[Tensor, "b l"]
    """Token ids; 0 where speech or padding stands."""
    attended: Bool[Tensor, "b l"]
    """False on padding."""
    speech: Bool[Tensor, "b l"]
    """True where the embedding of a clip stands."""
    predicts: Bool[Tensor, "b l"]
    """True where the NEXT position holds a response token: these positions are trained."""

    def to(self, device: torch.device) -> "Sequences":
        """Copy to a device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})


    def padded_left(self) -> "Sequences":
        """Move the padding of each row to its left, as answering needs it."""
        length = self.attended.shape[1]
        columns = (torch.arange(length, device=self.attended.device) + self.attended.sum(1, keepdim=True)) % length
        return replace(self, **{f.name: getattr(self, f.name).gather(1, columns) for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Clips, the sequences that they stand in, and what is to be learnt from them."""

    features: Float[Tensor, "b m f"]
    """Log-mel of the clips, zero beyond a clip's end (unless padded to 30 s)."""
    num_frames: Int[Tensor, " b"]
    """Mel frames of each clip."""
    student: Sequences
    """Prompt with the clip in place of the transcript, then the response."""
    teacher: Sequences | None
    """The same prompt with the transcript, then the same response; None in stage 2."""
    response_ids: Int[Tensor, " n"]
    """The response tokens, row after row: the targets at `predicts`."""
    emotion: Int[Tensor, " b"]
    """Emotion class of each clip; -1 where unknown."""

    def __post_init__(self) -> None:
        for sequences in (self.student, self.teacher):
            assert sequences is None or int(sequences.predicts.sum()) == len(self.response_ids)

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v if v is None else v.to(device) for k, v in moved.items()})

    @property
    def num_positions(self) -> int:
        """Sequence positions that the LLM computes, without padding."""
        sequences = (self.student,) if self.teacher is None else (self.student, self.teacher)
        return sum(int(s.attended.sum()) for s in sequences)
