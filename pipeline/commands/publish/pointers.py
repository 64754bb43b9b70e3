"""Continuations as pointers into the transcript, which restore every token but show none of the transcript.

A token that occurs in the transcript is written as its place there: -1 for the first token, -2 for the second. The
other tokens are written as they are. So what remains readable is what the LLM has added.
"""

from collections.abc import Sequence


def encode(response_ids: Sequence[int], text_ids: Sequence[int]) -> list[int]:
    """Replace each token that occurs in the transcript by a pointer to its first place there."""
    places = {token: place for place, token in reversed(list(enumerate(text_ids)))}
    return [-1 - places[token] if token in places else token for token in response_ids]


def decode(pointers: Sequence[int], text_ids: Sequence[int]) -> list[int]:
    """Return the continuation; raises IndexError if a pointer is beyond the transcript."""
    return [text_ids[-1 - entry] if entry < 0 else entry for entry in pointers]


def readable(pointers: Sequence[int]) -> list[list[int]]:
    """Return the runs of tokens between pointers, in order."""
    runs: list[list[int]] = [[]]
    for entry in pointers:
        if entry >= 0:
            runs[-1].append(entry)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
