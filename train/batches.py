"""Which rows make a batch, and how rows become one.

The plan of all batches is a pure function of (lengths, batch size, seed, epoch): to resume at step n
is to take the plan from its nth batch on, with nothing read twice. Rows of like length stand together,
so that little is padded, yet rows and batches come in random order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline import audio
from pipeline.packed import Frame
from train.features import LogMel, num_mel_frames, pad_features
from train.model import Batch, Sequences, TeacherSignals
from train.model.adapter import num_speech_tokens

BATCHES_PER_BUCKET = 8  # sort by length within this many batches: enough to save padding, few enough to mix


def plan_epoch(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the batches of an epoch as row numbers; the last rows that fill no batch wait for another epoch."""
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    batch_size = min(batch_size, len(lengths))
    order = generator.permutation(len(lengths))[: len(lengths) // batch_size * batch_size]
    bucket = batch_size * BATCHES_PER_BUCKET
    batches = []
    for start in range(0, len(order), bucket):
        rows = sorted(order[start : start + bucket].tolist(), key=lambda row: lengths[row])
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def plan(lengths: Sequence[int], batch_size: int, seed: int, num_batches: int) -> list[list[int]]:
    """Return the first `num_batches` batches of as many epochs as that takes."""
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < num_batches:
        batches += plan_epoch(lengths, batch_size, seed, epoch)
        epoch += 1
    return batches[:num_batches]


@dataclass(frozen=True, slots=True)
class Example:
    """A row ready for batching."""

    features: Tensor
    num_frames: int
    text_ids: list[int]
    response_ids: list[int]
    emotion: int
    top_ids: list[list[int]] | None = None
    """Teacher signals of each response token, where the row has them."""
    top_logprobs: list[list[float]] | None = None


class Examples(Dataset[Example]):
    """Rows of a packed part, decoded when they are asked for."""

    def __init__(self, rows: Any, log_mel: LogMel, emotions: Sequence[str]) -> None:
        self.rows = rows
        self.log_mel = log_mel
        self.emotions = {emotion: index for index, emotion in enumerate(emotions)}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        return Example(
            features=self.log_mel(audio.decode(row["audio"]["bytes"])),
            num_frames=num_mel_frames(row["num_samples"]),
            text_ids=row["text_ids"],
            response_ids=row["response_ids"],
            emotion=self.emotions.get(row["emotion"], -1),
            top_ids=row.get("top_ids"),
            top_logprobs=row.get("top_logprobs"),
        )


class Collator:
    """Turn examples into a batch; stage 1 has `with_teacher`, the text branch, or `with_signals` in its place."""

    def __init__(self, frame: Frame, with_teacher: bool, with_signals: bool = False) -> None:
        self.frame = frame
        self.with_teacher = with_teacher
        self.with_signals = with_signals

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Collate examples in the order given."""
        responses = [example.response_ids for example in examples]
        speech = [[None] * num_speech_tokens(example.num_frames) for example in examples]
        return Batch(
            features=pad_features([example.features for example in examples]),
            num_frames=torch.tensor([example.num_frames for example in examples]),
            student=sequences(self.frame.before_speech, speech, self.frame.after, responses),
            teacher=self._teacher(examples, responses) if self.with_teacher else None,
            signals=_signals(examples) if self.with_signals else None,
            response_ids=torch.tensor([token for response in responses for token in response]),
            emotion=torch.tensor([example.emotion for example in examples]),
        )

    def _teacher(self, examples: Sequence[Example], responses: list[list[int]]) -> Sequences:
        assert self.frame.before_text is not None
        texts = [example.text_ids for example in examples]
        return sequences(self.frame.before_text, texts, self.frame.after, responses)


def _signals(examples: Sequence[Example]) -> TeacherSignals:
    return TeacherSignals(
        top_ids=torch.tensor([step for example in examples for step in example.top_ids or []]),
        top_logprobs=torch.tensor([step for example in examples for step in example.top_logprobs or []]),
    )


def sequences(
    before: Sequence[int],
    contents: Sequence[Sequence[int | None]],
    after: Sequence[int],
    responses: Sequence[Sequence[int]],
) -> Sequences:
    """Lay out before + content + after + response row by row, padded at the right.

    None in a content is a place for a speech embedding. The first response token is predicted at the
    last position of `after`, and nothing is predicted after the last one.
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
