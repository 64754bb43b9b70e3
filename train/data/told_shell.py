"""The prompts of a teacher that is told the emotion of each row in words."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from pipeline.tables.packed import PromptShell


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldShell(PromptShell):
    """A prompt shell whose text prompt is before_text + named[emotion] + transcript + after + response.

    `before_text` is what the prompts of all emotions share, so a batch computes it once. The rest of the start belongs
    to the row, as the transcript does.
    """

    named: Mapping[str, list[int]]
    """By emotion, the token ids from its name to the transcript."""

    def num_named(self, emotions: pa.ChunkedArray) -> Int[np.ndarray, " n"]:
        """Return the number of these tokens for the emotion of each row."""
        encoded = emotions.combine_chunks().dictionary_encode()
        counts = np.array([len(self.named[emotion]) for emotion in encoded.dictionary.to_pylist()], np.int64)
        found: Int[np.ndarray, " n"] = counts[encoded.indices.to_numpy()]
        return found


def named_of(shell: PromptShell) -> Mapping[str, list[int]] | None:
    """Return the token ids that name each emotion in the prompts of a shell; None if they name none."""
    return shell.named if isinstance(shell, ToldShell) else None
