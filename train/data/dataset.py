"""Turn packed rows into examples, and examples into batches."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import soundfile
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from pipeline.audio import mono_16k
from pipeline.audio.speech_tokens import (
    HOP_SAMPLES,
    MAX_MEL_FRAMES,
    NUM_HALVINGS,
    halved,
    num_mel_frames,
    num_speech_tokens,
)
from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.tables.packed import PromptShell
from train.data.log_mel import ClipHops, LogMel
from train.data.told_shell import ToldShell
from train.model import Batch, Sequences, TopKTeacher
from train.model.batch_log_mel import EXTRA_HOPS
from train.model.inputs import Features, Samples, States, pad_features, sequences
from train.model.packing import Segments

Form = Literal["log-mel", "samples", "states"]


@dataclass(frozen=True, slots=True)
class Example:
    """A decoded row, ready for batching."""

    features: Tensor
    """Log-mel [m, f], samples [h, w] as in `Samples.hops`, or encoder states [t, e]."""
    num_frames: int
    text_ids: list[int]
    """The transcript; before it what names the emotion, if a teacher is told it."""
    response_ids: list[int]
    emotion: int
    top_ids: list[list[int]] | None = None
    """For each response position, the most likely tokens of the stored teacher; None if the row has no stored
    teacher."""
    top_logprobs: list[list[float]] | None = None
    id: str = ""
    form: Form = "log-mel"
    """What `features` are."""
    shares: list[float] | None = None
    """The soft label: for each class its share of the votes; None with hard labels."""


Augment = Callable[[int, str, mono_16k.Samples, int], mono_16k.Samples]
"""Changes the samples of a clip, given the number of its row, the row's id, the samples and the epoch."""


class Visit(NamedTuple):
    """A row that is read in an epoch; the epoch decides how its clip is augmented."""

    row: int
    epoch: int


def visits(rows: Iterable[int], epoch: int) -> list[Visit]:
    """Return the visits of a batch of rows in an epoch."""
    return [Visit(row, epoch) for row in rows]


class Examples(Dataset[Example]):
    """The rows of a packed split; each row is decoded when it is read."""

    def __init__(
        self,
        rows: packed.Rows,
        log_mel: LogMel | ClipHops,
        emotions: Sequence[str],
        augment: Augment | None = None,
        *,
        soft_labels: bool = False,
        named: Mapping[str, list[int]] | None = None,
    ) -> None:
        """`log_mel` computes the features of a clip; `ClipHops` leaves the log-mel to the model.

        `named` are the token ids that name the emotion of a row before its transcript (`ToldShell`); None: none do.
        """
        self.rows = rows
        self.named = named
        self.soft_labels = soft_labels
        self.log_mel = log_mel
        self.augment = augment
        self.states: Callable[[int], Tensor] | None = None
        self.emotions = {emotion: index for index, emotion in enumerate(emotions)}

    def with_states(self, states: Callable[[int], Tensor]) -> "Examples":
        """Return the same rows, with encoder states [t, e] in place of clips; `states` returns those of a row."""
        assert self.augment is None
        changed = copy(self)
        changed.states = states
        return changed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | Visit) -> Example:
        """Read a row as it is packed, or a visit of a row, with its augmentation."""
        number, epoch = index if isinstance(index, Visit) else (index, None)
        row = self.rows[number]
        form: Form
        if self.states is not None:
            features, num_samples, form = self.states(number), row["num_samples"], "states"
        else:
            samples = decode(self.rows, row, number)
            if self.augment is not None and epoch is not None:
                samples = self.augment(number, row["id"], samples, epoch)
            features, num_samples = self.log_mel(samples), len(samples)
            form = "samples" if isinstance(self.log_mel, ClipHops) else "log-mel"
        return Example(
            features=features,
            num_frames=num_mel_frames(num_samples),
            text_ids=row["text_ids"] if self.named is None else [*self.named[row["emotion"]], *row["text_ids"]],
            response_ids=row["response_ids"],
            emotion=self.emotions.get(row["emotion"], -1),
            top_ids=row.get("top_ids"),
            top_logprobs=row.get("top_logprobs"),
            id=row["id"],
            form=form,
            shares=self._shares(row) if self.soft_labels else None,
        )

    def _shares(self, row: Mapping[str, Any]) -> list[float]:
        """Return for each class its share of the votes for a class; without such a vote, 1 for the row's label."""
        votes = {vote["emotion"]: vote["share"] for vote in row["emotion_votes"] or ()}
        shares = [votes.get(name, 0.0) for name in self.emotions]
        if (total := sum(shares)) == 0:
            return [float(name == row["emotion"]) for name in self.emotions]
        return [share / total for share in shares]


def row_costs(
    rows: packed.Rows,
    shell: PromptShell,
    pad_to_30s: bool,
    with_teacher: bool,
    shares_start: bool,
    num_samples: Int[np.ndarray, " n"] | None = None,
) -> Int[np.ndarray, "n 3"]:
    """Return the encoder frames, student positions and teacher positions of each row.

    With `shares_start`, the positions before speech and transcript do not count, because a batch computes them once.
    `num_samples` are the lengths of the clips, if they are not those of the packed clips.
    """
    if num_samples is None:
        num_samples = rows.column("num_samples").to_numpy()
    text, response = (rows.column(f"num_{name}_tokens").to_numpy().astype(np.int64) for name in ("text", "response"))
    if isinstance(shell, ToldShell):
        text = text + shell.num_named(rows.column("emotion"))
    mel_frames = np.minimum(num_samples // HOP_SAMPLES, MAX_MEL_FRAMES).astype(np.int64)
    speech = num_speech_tokens(mel_frames)
    frames = np.full_like(speech, MAX_MEL_FRAMES // 2) if pad_to_30s else halved(mel_frames)
    starts = (shell.before_speech, shell.before_text or [])
    before_speech, before_text = (0 if shares_start else len(start) for start in starts)
    student = before_speech + speech + len(shell.after) + response
    teacher = before_text + text + len(shell.after) + response
    return np.stack([frames, student, teacher if with_teacher else np.zeros_like(teacher)], axis=1)


def decode(rows: packed.Rows, row: Mapping[str, Any], index: int) -> mono_16k.Samples:
    """Decode the clip of `row`, which is row `index`; raises UserError with its id and its file if it is damaged."""
    try:
        samples = mono_16k.decode(row["audio"]["bytes"])
    except soundfile.LibsndfileError as error:
        found = error.error_string.strip(" .")
    else:
        if len(samples) == row["num_samples"]:
            return samples
        found = f"{len(samples):,} samples"
    expected = f"expected {row['num_samples']:,} samples"
    raise UserError(f"{rows.shard(index)}: {row['id']}: found {found}, {expected}; the file is damaged, pack again")


class Collator:
    """Turns examples into a batch.

    Stage 1 needs a teacher. `with_teacher` adds the sequences with transcripts, for the LLM to run on. `with_signals`
    adds the stored teacher instead.
    """

    def __init__(
        self,
        shell: PromptShell,
        with_teacher: bool,
        with_signals: bool = False,
        lay_out: Callable[..., Sequences] = sequences,
        round_up: bool = False,
    ) -> None:
        """`lay_out` is `sequences`, or `packed_sequences` for the packed layout, which `round_up` pads to few sizes."""
        self.shell = shell
        self.with_teacher = with_teacher
        self.with_signals = with_signals
        self.lay_out = partial(lay_out, round_up=True) if round_up else lay_out
        self.round_up = round_up

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Make a batch of the examples, in their order."""
        responses = [example.response_ids for example in examples]
        speech = [[None] * num_speech_tokens(example.num_frames) for example in examples]
        student = self.lay_out(self.shell.before_speech, speech, self.shell.after, responses)
        features, clips = join_clips(examples, packed=student.rows is not None, round_up=self.round_up)
        response_ids = torch.tensor([token for response in responses for token in response])
        num_rows = len(examples) if clips is None else len(clips[-1].places)
        num_responses = len(response_ids) if student.response_places is None else len(student.response_places.places)
        return Batch(
            features=features,
            num_frames=_padded(torch.tensor([example.num_frames for example in examples]), num_rows),
            student=student,
            teacher=self._teacher(examples, responses) if self.with_teacher else None,
            signals=_signals(examples, num_responses) if self.with_signals else None,
            response_ids=_padded(response_ids, num_responses),
            emotion=_padded(torch.tensor([example.emotion for example in examples]), num_rows, -1),
            shares=_shares(examples, num_rows),
            clips=clips,
            ids=tuple(example.id for example in examples),
            num_padding=num_responses - len(response_ids),
        )

    def _teacher(self, examples: Sequence[Example], responses: list[list[int]]) -> Sequences:
        assert self.shell.before_text is not None
        texts = [example.text_ids for example in examples]
        return self.lay_out(self.shell.before_text, texts, self.shell.after, responses)


def join_clips(
    examples: Sequence[Example], packed: bool, round_up: bool = False
) -> tuple[Features, tuple[Segments, ...] | None]:
    """Return the features of all clips, padded or one after another, and where the packed clips are (`Batch.clips`).

    `round_up` adds padding after packed clips, so that few sizes occur.
    """
    features, form = [example.features for example in examples], examples[0].form
    clips = _levels([example.num_frames for example in examples], round_up) if packed else None
    if form == "samples":
        frames = Segments.of([len(hops) - EXTRA_HOPS for hops in features])
        return Samples(hops=_joined(features, sum(map(len, features))), frames=frames), clips
    if form == "states":
        padded = pad_sequence(features, batch_first=True) if clips is None else _joined(features, len(clips[1].back))
        return States(values=padded), clips
    return (
        pad_features(features) if clips is None else _joined([clip.T for clip in features], len(clips[0].back))
    ), clips


def _levels(lengths: list[int], round_up: bool) -> tuple[Segments, ...]:
    """Return the segments of clips with these numbers of mel frames, before and after each halving."""
    levels = [lengths]
    for _ in range(NUM_HALVINGS):
        levels.append([halved(length) for length in levels[-1]])
    return tuple(Segments.of(level, round_up=round_up) for level in levels)


def _joined(clips: Sequence[Tensor], size: int) -> Tensor:
    """Return clips one after another, then zeros up to `size`."""
    pieces = [*clips, clips[0].new_zeros(size - sum(map(len, clips)), *clips[0].shape[1:])]
    if clips[0].dtype == torch.bfloat16:  # NumPy has none
        return torch.cat(pieces)
    return torch.from_numpy(np.concatenate([piece.numpy() for piece in pieces]))  # of transposes a third of the time


def _signals(examples: Sequence[Example], size: int) -> TopKTeacher:
    return TopKTeacher(
        top_ids=_padded(torch.tensor([step for example in examples for step in example.top_ids or []]), size),
        top_logprobs=_padded(torch.tensor([step for example in examples for step in example.top_logprobs or []]), size),
    )


def _shares(examples: Sequence[Example], size: int) -> Tensor | None:
    given = [example.shares for example in examples if example.shares is not None]
    return _padded(torch.tensor(given), size) if given else None


def _padded(values: Tensor, size: int, value: int = 0) -> Tensor:
    """Return values, padded at the end to `size`."""
    whole = values.new_full((size, *values.shape[1:]), value)
    whole[: len(values)] = values
    return whole
