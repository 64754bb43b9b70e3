"""Withhold what a licence forbids of a packed row, and count it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from pipeline.commands.publish import pointers
from pipeline.commands.publish.published import SIGNALS, hashes
from pipeline.commands.publish.terms import Terms
from pipeline.filter.scores import echo, words
from pipeline.prompts import Prompter
from pipeline.stage import UserError

Row = Mapping[str, Any]

MAX_ECHO = 0.5
"""Limit of the echo score if the filter has none: half of the words."""
MAX_WORDS = 2
"""Longest run of the transcript's words that may stay readable, if the transcript has more words."""
ANNOTATIONS = ("speaker", "emotion", "emotion_votes", "text", "audio", "text_ids")
"""What belongs to a corpus, and is always withheld with its clip. A speaker's id may be a name."""

POINTERS, RESPONSE, ID, TEACHER = "as pointers", "continuation", "id", "teacher signals"


@dataclass(slots=True)
class Counts:
    """What the rows of a corpus have lost."""

    rows: Counter[str] = field(default_factory=Counter)
    """By split."""
    samples: int = 0
    emotions: Counter[str] = field(default_factory=Counter)
    """Of the rows whose label is passed on."""
    languages: set[str] = field(default_factory=set)
    continuations: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    def add(self, split: str, row: Row, published: Row) -> None:
        """Count a packed row and what is published of it."""
        self.rows[split] += 1
        self.samples += row["num_samples"]
        self.continuations += row["num_response_tokens"] > 0
        self.lost[POINTERS] += published["response_pointers"] is not None
        self.lost[RESPONSE] += "response_ids" in published["withheld"] and published["response_pointers"] is None
        self.lost[ID] += "id" in published["withheld"]
        self.lost[TEACHER] += SIGNALS[0] in published["withheld"]
        if published["emotion"] is not None:
            self.emotions[published["emotion"]] += 1
        if row["language"]:
            self.languages.add(row["language"])


@dataclass(frozen=True, slots=True)
class Withholder:
    """Withholds what the terms forbid; the tokenizer shows which continuations repeat their transcript."""

    terms: Mapping[tuple[str, str | None], Terms]
    prompter: Prompter | None
    """None if no terms forbid anything."""
    max_echo: float

    def publish(self, row: Row) -> dict[str, Any]:
        """Return the published row.

        Raises UserError if the row's token ids come from another tokenizer: rebuild could not restore them.
        """
        published = {**row, "response_pointers": None, "withheld": [], **hashes(row)}
        if self.terms[row["corpus"], row["licence"]].refused is None:
            return published
        assert self.prompter is not None
        expected = list(self.prompter.content_ids(row["text"])) if row["text"] else []
        if row["text_ids"] != expected:
            raise UserError(
                f"{row['id']}: found token ids of another tokenizer than that of models.llm; "
                "expected the parameters with which the rows were packed"
            )
        withheld = [*ANNOTATIONS, *(name for name in SIGNALS if row.get(name) is not None)]
        if _reveals(row["id"], row["text"]):
            withheld.append("id")
        if self._shows([row["response_ids"]], row):
            withheld.append("response_ids")
            published["response_pointers"] = self._pointers(row)
        return published | dict.fromkeys(withheld) | {"withheld": withheld}

    def _pointers(self, row: Row) -> list[int] | None:
        """Return the continuation as pointers; None if what stays readable shows too much, too."""
        encoded = pointers.encode(row["response_ids"], row["text_ids"])
        return None if self._shows(pointers.readable(encoded), row) else encoded

    def _shows(self, runs: Sequence[Sequence[int]], row: Row) -> bool:
        """Return whether runs of tokens of the continuation show too much of the transcript."""
        assert self.prompter is not None
        shown = " ".join(self.prompter.decode(run) for run in runs)
        num_words = len(words(self.prompter.decode(row["response_ids"])))
        too_large = _shared_words(shown, row["text"]) > self.max_echo * num_words
        return too_large or _reveals(shown, row["text"]) or any(self._shares_tokens(run, row) for run in runs)

    def _shares_tokens(self, run: Sequence[int], row: Row) -> bool:
        """Return whether tokens hold a run of the transcript's tokens that has more than MAX_WORDS words."""
        assert self.prompter is not None
        match = SequenceMatcher(None, run, row["text_ids"], autojunk=False).find_longest_match()
        return len(words(self.prompter.decode(run[match.a : match.a + match.size]))) > MAX_WORDS


def _shared_words(text: str, transcript: str) -> int:
    """Return the length of the longest run of words that a text shares with a transcript."""
    return round(echo(text, transcript) * len(words(text)))


def _reveals(text: str, transcript: str) -> bool:
    """Return whether a text holds the transcript, or a run of more than MAX_WORDS words of it."""
    spoken = len(words(transcript))
    return spoken > 0 and _shared_words(text, transcript) >= min(MAX_WORDS + 1, spoken)
