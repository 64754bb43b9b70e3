"""The examples of an emotion prompt: a sentence, an emotion, and the LLM's continuation if it is told the emotion."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.prompts import Prompter
from pipeline.stage import UserError
from pipeline.tables import parquet, sentences
from pipeline.tables.continuations import NOT_GENERATED, TOLD_SCHEMA, response_ids
from pipeline.tables.sentences import DEV, TRAIN


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence with the LLM's continuation for an emotion."""

    text_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    emotion: int
    """Number of the emotion among the classes."""
    other: int
    """Number of another emotion, for comparison; each of the others is as frequent."""

    def __len__(self) -> int:
        return len(self.text_ids) + len(self.response_ids)


@dataclass(frozen=True, slots=True)
class Examples:
    """All examples of a run."""

    train: list[Example]
    dev: list[Example]
    texts: list[str]
    """The sentences of train and dev."""
    left_out: int
    """Sentences without a continuation for each emotion."""


def read_examples(sentences_file: Path, told_file: Path, emotions: Sequence[str], prompter: Prompter) -> Examples:
    """Read the sentences that have a continuation for each emotion, ordered by text.

    Raises UserError if train or dev has none, or if the continuations are not those of `emotions`.
    """
    rows = parquet.read(sentences_file, sentences.SCHEMA, allow_empty=True).to_pylist()
    answers: dict[tuple[str, str], tuple[int, ...]] = {}
    for row in parquet.read(told_file, TOLD_SCHEMA, allow_empty=True).to_pylist():
        if row["emotion"] not in emotions:
            expected = ", ".join(emotions)
            raise UserError(f"{told_file}: found a continuation for {row['emotion']}, expected only {expected}")
        ids = tuple(response_ids(row, prompter.end_id))
        if row["finish_reason"] not in NOT_GENERATED and ids:
            answers[row["text"], row["emotion"]] = ids
    kept = [row for row in rows if all((row["text"], emotion) in answers for emotion in emotions)]
    text_ids = dict(
        zip((row["text"] for row in kept), prompter.all_content_ids([r["text"] for r in kept]), strict=True)
    )
    splits: dict[str, list[Example]] = {TRAIN: [], DEV: []}
    count = len(emotions)
    for place, row in enumerate(kept):
        splits[row["split"]] += [
            Example(
                text_ids=text_ids[row["text"]],
                response_ids=answers[row["text"], emotion],
                emotion=number,
                other=(number + 1 + place % (count - 1)) % count,
            )
            for number, emotion in enumerate(emotions)
        ]
    for name, examples in splits.items():
        if not examples:
            found = f"found no sentence of {name} with a continuation for each emotion, expected at least one"
            raise UserError(f"{sentences_file}: {found}; set the section sentences, and run the stages after it")
    return Examples(splits[TRAIN], splits[DEV], [row["text"] for row in kept], len(rows) - len(kept))


def in_batches(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Yield the examples in batches of similar lengths, the longest first."""
    ordered = sorted(examples, key=len, reverse=True)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
