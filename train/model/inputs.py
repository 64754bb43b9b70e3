"""The model's inputs: log-mel of clips, and token sequences with placeholders for speech."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from train.model.packing import Segments
from train.model.selection import Selection, rounded_up
from train.model.shipping import Shipped, copied, joined


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences(Shipped):
    """Token sequences, padded on the right."""

    token_ids: Int[Tensor, "b l"]
    """Token ids; 0 at speech and padding positions."""
    attended: Bool[Tensor, "b l"]
    """False at padding positions."""
    speech: Bool[Tensor, "b l"]
    """True at positions of speech embeddings."""
    predicts: Bool[Tensor, "b l"]
    """True at positions whose NEXT position holds a response token: the loss is taken at these positions."""
    num_shared: int
    """Number of positions at the start that are equal in all rows; they hold no speech and predict nothing."""
    rows: Segments | None = None
    """In the packed layout, the rows after the shared start, which stands once; b is then 1."""
    speech_places: Selection | None = None
    """In the packed layout, the true positions of `speech`."""
    response_places: Selection | None = None
    """In the packed layout, the true positions of `predicts`, counted from the end of the shared start."""

    def to(self, device: torch.device) -> "Sequences":
        """Copy to a device."""
        return self.changed(lambda tensor: tensor.to(device))

    @property
    def num_response_places(self) -> int | None:
        """Number of positions that predict a response token or are padding; None if only a GPU knows it."""
        if self.response_places is not None:
            return len(self.response_places.places)
        return int(self.predicts.sum()) if self.predicts.device.type == "cpu" else None

    def padded_left(self) -> "Sequences":
        """Move the padding of each row to the left, as generation needs it."""
        length = self.attended.shape[1]
        columns = (torch.arange(length, device=self.attended.device) + self.attended.sum(1, keepdim=True)) % length
        return replace(self.changed(lambda tensor: tensor.gather(1, columns)), num_shared=0)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Sequences":
        """Return sequences whose tensors are `change` of these."""
        return Sequences(
            token_ids=change(self.token_ids),
            attended=change(self.attended),
            speech=change(self.speech),
            predicts=change(self.predicts),
            num_shared=self.num_shared,
            rows=None if self.rows is None else self.rows.changed(change),
            speech_places=None if self.speech_places is None else self.speech_places.changed(change),
            response_places=None if self.response_places is None else self.response_places.changed(change),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKTeacher(Shipped):
    """The stored teacher: for each response position, the k tokens that the teacher found most likely."""

    top_ids: Int[Tensor, "n k"]
    """Ids of the likeliest tokens."""
    top_logprobs: Float[Tensor, "n k"]
    """Their log-probabilities in nats."""

    def changed(self, change: Callable[[Tensor], Tensor]) -> "TopKTeacher":
        """Return a teacher whose tensors are `change` of these."""
        return TopKTeacher(top_ids=change(self.top_ids), top_logprobs=change(self.top_logprobs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples(Shipped):
    """Clips whose log-mel the model computes."""

    hops: Float[Tensor, "h w"]
    """The samples of 10 ms in each line, one clip after another. Each clip is reflected at both ends, as `torch.stft`
    does it, and has `EXTRA_HOPS` lines more than frames."""
    frames: Segments
    """The segments of the log-mel."""

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Samples":
        """Return samples whose tensors are `change` of these."""
        return Samples(hops=change(self.hops), frames=self.frames.changed(change))


@dataclass(frozen=True, slots=True, kw_only=True)
class States(Shipped):
    """Clips that the frozen encoder has encoded before."""

    values: Float[Tensor, "b t e"] | Float[Tensor, "t e"]
    """Encoder states; in the padded layout, what stands after a clip's end has no meaning."""

    def changed(self, change: Callable[[Tensor], Tensor]) -> "States":
        """Return states whose tensor is `change` of this one."""
        return States(values=change(self.values))


Features = Tensor | Samples | States
"""What a batch holds of its clips: log-mel, samples, or encoder states."""


def change_features(features: Features, change: Callable[[Tensor], Tensor]) -> Features:
    """Return features whose tensors are `change` of these."""
    return change(features) if isinstance(features, Tensor) else features.changed(change)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Shipped):
    """Clips, the sequences that contain them, and the training targets."""

    features: Float[Tensor, "b m f"] | Float[Tensor, "f m"] | Samples | States
    """Log-mel of the clips, zero after a clip's end (unless padded to 30 s); packed: one clip after another. Or the
    samples or the encoder states of the clips."""
    num_frames: Int[Tensor, " b"]
    """Mel frames of each clip."""
    student: Sequences
    """Prompt with the clip in place of the transcript, then the response."""
    teacher: Sequences | None
    """The prompt with the transcript, then the same response; None in stage 2 and if `signals` replaces it."""
    signals: TopKTeacher | None
    """The stored teacher of stage 1, in place of `teacher`."""
    response_ids: Int[Tensor, " n"]
    """The response tokens of all rows, concatenated. They are the targets of the positions where `student.predicts` is
    true. If sizes are rounded up, 0 at the end."""
    emotion: Int[Tensor, " b"]
    """Emotion class of each clip; -1 if unknown, and at padding."""
    shares: Float[Tensor, "b k"] | None = None
    """The soft label of each clip: the probability of each class; 0 at padding. None: `emotion` is learned."""
    clips: tuple[Segments, ...] | None = None
    """In the packed layout, the segments of the clips: of the log-mel, of the encoder states, and of the result of each
    convolution of the adapter; the last are those of the speech embeddings."""
    ids: tuple[str, ...] = ()
    """Ids of the rows, for messages."""
    num_padding: int = 0
    """Response positions at the end that are padding: their losses do not count."""

    def __post_init__(self) -> None:
        for sequences in (self.student, self.teacher):
            assert sequences is None or sequences.num_response_places in (None, len(self.response_ids))
        assert self.signals is None or len(self.signals.top_ids) == len(self.response_ids)

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device, in one copy if `joined` has made this batch."""
        return self._with(copied(self.tensors(), device))

    def pin_memory(self) -> "Batch":
        """Copy to pinned memory, from which a GPU copies while it computes; torch's DataLoader calls this."""
        return self.joined(pin=True)

    def joined(self, *, pin: bool) -> "Batch":
        """Copy to one piece of memory, pinned or not."""
        return self._with(joined(self.tensors(), pin=pin))

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in a fixed order."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self._changed(note)
        return found

    def _with(self, tensors: Sequence[Tensor]) -> "Batch":
        remaining = iter(tensors)
        return self._changed(lambda _: next(remaining))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(
            features=change_features(self.features, change),
            num_frames=change(self.num_frames),
            student=self.student.changed(change),
            teacher=None if self.teacher is None else self.teacher.changed(change),
            signals=None if self.signals is None else self.signals.changed(change),
            response_ids=change(self.response_ids),
            emotion=change(self.emotion),
            shares=None if self.shares is None else change(self.shares),
            clips=None if self.clips is None else tuple(segments.changed(change) for segments in self.clips),
            ids=self.ids,
            num_padding=self.num_padding,
        )

    @property
    def num_responses(self) -> int:
        """Number of response tokens, without padding."""
        return len(self.response_ids) - self.num_padding

    @property
    def num_positions(self) -> int:
        """Number of sequence positions that the LLM computes, without padding; the shared start counts once."""
        sequences = (self.student,) if self.teacher is None else (self.student, self.teacher)
        return sum(int(s.attended.sum()) - (len(s.attended) - 1) * s.num_shared for s in sequences)


def sequences(
    before: Sequence[int],
    contents: Sequence[Sequence[int | None]],
    after: Sequence[int],
    responses: Sequence[Sequence[int]],
) -> Sequences:
    """Lay out before + content + after + response for each row, padded on the right.

    None in a content is a placeholder for a speech embedding. The last position of `after` predicts the first response
    token. The last response token predicts nothing.
    """
    rows = [[*before, *content, *after, *response] for content, response in zip(contents, responses, strict=True)]
    length = max(len(row) for row in rows)
    token_ids = torch.zeros(len(rows), length, dtype=torch.long)
    attended, speech, predicts = (torch.zeros(len(rows), length, dtype=torch.bool) for _ in range(3))
    for i, (row, content, response) in enumerate(zip(rows, contents, responses, strict=True)):
        token_ids[i, : len(row)] = torch.tensor([token or 0 for token in row])
        attended[i, : len(row)] = True
        speech[i, len(before) : len(before) + len(content)] = torch.tensor([token is None for token in content])
        predicts[i, len(row) - 1 - len(response) : len(row) - 1] = True
    return Sequences(token_ids=token_ids, attended=attended, speech=speech, predicts=predicts, num_shared=len(before))


def packed_sequences(
    before: Sequence[int],
    contents: Sequence[Sequence[int | None]],
    after: Sequence[int],
    responses: Sequence[Sequence[int]],
    *,
    shares_start: bool,
    round_up: bool = False,
) -> Sequences:
    """Lay out the same rows one after another in one sequence; `before` stands once, or at each row.

    `round_up` adds padding, so that few sizes occur.
    """
    start = list(before) if shares_start else []
    own = [] if shares_start else list(before)
    rows = [[*own, *content, *after, *response] for content, response in zip(contents, responses, strict=True)]
    whole = [*start, *(token for row in rows for token in row)]
    num_own = len(whole) - len(start)
    num_padding = rounded_up(num_own) - num_own if round_up else 0
    before_response = [len(row) - 1 - len(response) for row, response in zip(rows, responses, strict=True)]
    runs = [(num, len(response), 1) for num, response in zip(before_response, responses, strict=True)]
    predicts = np.repeat(
        [False, *[False, True, False] * len(rows), False], [len(start), *chain.from_iterable(runs), num_padding]
    )
    speech = np.pad(np.array([token is None for token in whole]), (0, num_padding))
    return Sequences(
        token_ids=torch.from_numpy(np.array([[*(token or 0 for token in whole), *[0] * num_padding]], np.int64)),
        attended=torch.arange(len(whole) + num_padding)[None] < len(whole),
        speech=torch.from_numpy(speech[np.newaxis]),
        predicts=torch.from_numpy(predicts[np.newaxis]),
        num_shared=len(start),
        rows=Segments.of([len(row) for row in rows], num_shared=len(start), round_up=round_up),
        speech_places=Selection.of(speech, round_up=round_up),
        response_places=Selection.of(predicts[len(start) :], round_up=round_up),
    )


def pad_features(clips: list[Float[Tensor, "m _"]]) -> Float[Tensor, "b m f"]:
    """Stack the log-mels of clips, with zeros after each clip's end."""
    frames = max(clip.shape[1] for clip in clips)
    return torch.stack([torch.nn.functional.pad(clip, (0, frames - clip.shape[1])) for clip in clips])
