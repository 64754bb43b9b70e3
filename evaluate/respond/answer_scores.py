"""The log-probabilities of given answers to prompts, with or without speech.

An answer's log-probability is the sum over its tokens, in nats. The logits are float32. They are computed only at the
positions that predict a token of the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, takewhile

import torch
from torch.nn.functional import cross_entropy

from pipeline.prompts import PromptIds
from train.model import Speech, SpeechLLM
from train.model.inputs import sequences
from train.model.output_head import OutputHead
from train.precision import autocast

Tokens = tuple[int, ...]
POSITIONS_AT_ONCE = 512  # of logits: 0.3 GB for a vocabulary of 150,000


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, and the answers to score."""

    prompt: PromptIds
    """Its content is a transcript, or empty if a clip is given."""
    answers: Sequence[Tokens]
    clip: int | None = None
    """The place of the clip in the speech of the batch; None if no clip is given."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One sequence: a prompt with one of its answers."""

    number: int
    """Number of the prompt."""
    prompt: PromptIds
    content: list[int | None]
    """None is a placeholder for a speech embedding."""
    answer: Tokens
    clip: int | None

    @property
    def length(self) -> int:
        return len(self.content) + len(self.answer)


@torch.no_grad()
def answer_log_probs(
    model: SpeechLLM, asked: Sequence[Asked], speech: Speech | None, batch_size: int
) -> list[list[float]]:
    """Return the log-probability of each answer, a list for each prompt.

    Either every prompt has a clip of `speech`, or none has one. Equal answers to a prompt are scored once. The LLM runs
    on `batch_size` sequences at a time. They are sorted by the start of the prompt, which is computed once for a batch,
    and then by length.
    """
    num_embeddings = [] if speech is None else speech.valid.sum(dim=1).tolist()
    lines = []
    for number, one in enumerate(asked):
        content: list[int | None] = [*one.prompt.content]
        if one.clip is not None:
            content = [None] * num_embeddings[one.clip]
        lines += [_Line(number, one.prompt, content, answer, one.clip) for answer in dict.fromkeys(one.answers)]
    lines.sort(key=lambda line: (line.prompt.before, line.length))
    head = model.output_head.float()
    found: dict[tuple[int, Tokens], float] = {}
    for start in range(0, len(lines), batch_size):
        batch = lines[start : start + batch_size]
        for line, score in zip(batch, _log_probs(model, head, batch, speech), strict=True):
            found[line.number, line.answer] = score
    return [[found[number, answer] for answer in one.answers] for number, one in enumerate(asked)]


def shared_start(pieces: Sequence[Tokens]) -> Tokens:
    """Return the tokens with which all pieces start."""
    first, last = min(pieces), max(pieces)  # what these two share, all share
    return tuple(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def _log_probs(model: SpeechLLM, head: OutputHead, lines: Sequence[_Line], speech: Speech | None) -> list[float]:
    before = shared_start([line.prompt.before for line in lines])
    contents = [[*line.prompt.before[len(before) :], *line.content, *line.prompt.after] for line in lines]
    answers = [line.answer for line in lines]
    device = model.token_embeddings.weight.device
    if speech is not None:
        clips = torch.tensor([line.clip for line in lines], device=device)
        speech = Speech(embeddings=speech.embeddings[clips], valid=speech.valid[clips])
    with autocast(model.llm):
        states = model.response_states(sequences(before, contents, (), answers).to(device), speech)
    targets = torch.tensor(list(chain.from_iterable(answers)), device=device)
    pieces = zip(states.split(POSITIONS_AT_ONCE), targets.split(POSITIONS_AT_ONCE), strict=True)
    losses = torch.cat([cross_entropy(head.logits(s.float()), t, reduction="none") for s, t in pieces]).double()
    scores: list[float] = (-torch.stack([loss.sum() for loss in losses.split([len(a) for a in answers])])).tolist()
    return scores
