"""Several answers to a prompt in one sequence: each token sees the prompt and the earlier tokens of its own answer.

So the LLM runs on the prompt once for all answers, and once on the answers. Legend: b prompts, n positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, takewhile, zip_longest

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Answer = tuple[int, ...]
"""The token ids of an answer, at least one."""

_Numbered = Sequence[tuple[int, Answer]]
"""Some of the answers to a prompt, with their numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """Some of the answers to each prompt of a batch, without their last tokens, which predict nothing."""

    token_ids: Int[Tensor, "b n"]
    following: Int[Tensor, "b n"]
    """The tokens that the positions predict."""
    numbers: Int[Tensor, "b n"]
    """The number of the answer at a position; -1 at padding."""
    offsets: Int[Tensor, "b n"]
    """The place of a token in its answer."""

    @property
    def visible(self) -> Bool[Tensor, "b n n"]:
        """Whether a position (second axis) sees another one (third axis)."""
        same_answer = self.numbers[:, :, None] == self.numbers[:, None]
        return same_answer & (self.offsets[:, :, None] >= self.offsets[:, None])


def side_by_side(
    answers: Sequence[Sequence[Answer]], width: int, device: torch.device | str = "cpu"
) -> Iterator[SideBySide]:
    """Number the answers to all prompts one after another, and lay them out in groups of at most `width` positions.

    A longer answer has a group of its own. An answer of one token is in no group: the prompt itself predicts it.
    """
    numbers = count()
    by_prompt = [_groups(list(zip(of_prompt, numbers, strict=False)), width) for of_prompt in answers]
    for group in zip_longest(*by_prompt, fillvalue=()):
        yield _lay_out(group, device)


def shared_start(pieces: Sequence[Answer]) -> Answer:
    """Return the tokens with which all pieces start."""
    first, last = min(pieces), max(pieces)  # what these two share, all share
    return tuple(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def _groups(answers: Sequence[tuple[Answer, int]], width: int) -> list[_Numbered]:
    groups: list[list[tuple[int, Answer]]] = []
    filled = 0
    for answer, number in answers:
        if (length := len(answer) - 1) == 0:
            continue
        if not groups or filled + length > width:
            groups.append([])
            filled = 0
        groups[-1].append((number, answer))
        filled += length
    return [*groups]


def _lay_out(group: Sequence[_Numbered], device: torch.device | str) -> SideBySide:
    def padded(rows: Sequence[Sequence[int]], padding: int = 0) -> Int[Tensor, "b n"]:
        tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_value=padding).to(device)

    return SideBySide(
        token_ids=padded([[token for _, answer in row for token in answer[:-1]] for row in group]),
        following=padded([[token for _, answer in row for token in answer[1:]] for row in group]),
        numbers=padded([[number for number, answer in row for _ in answer[1:]] for row in group], padding=-1),
        offsets=padded([[place for _, answer in row for place in range(len(answer) - 1)] for row in group]),
    )
