"""The clips on which probes are fitted, chosen and tested, and the words that training has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluate.asking.clip_choice import choose_clips
from evaluate.intervals import Ints
from evaluate.probe.labels import labelled
from pipeline.corpora.transcript import normalise
from pipeline.stage import UserError
from pipeline.tables import packed

TRAINED_WORDS, OTHER_WORDS = "words of the training", "other words"
WORDS = (TRAINED_WORDS, OTHER_WORDS)


@dataclass(frozen=True, slots=True)
class Clips:
    """The clips of a split whose emotion is a class: n clips."""

    rows: packed.Rows
    places: Ints
    """Number of each clip's row, (n)."""
    labels: Ints
    """Number of each clip's emotion, (n)."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def lengths(self) -> Ints:
        """The number of speech embeddings of each clip, (n)."""
        lengths: Ints = self.rows.column("num_speech_tokens").to_numpy()[self.places].astype(np.int64)
        return lengths

    def column(self, name: str) -> list[str]:
        """Return a column of texts, such as `speaker`."""
        return self.rows.column(name).take(pa.array(self.places)).to_pylist()  # type: ignore[no-any-return]


def read_clips(data: Path, split: str, emotions: list[str], *, allow_empty: bool = False) -> Clips:
    """Return the labelled clips of a split; raises UserError if none has a class as its label."""
    rows = packed.load(data, split, allow_empty=allow_empty)
    places, labels = labelled(rows, emotions)
    if not len(places) and not allow_empty:
        raise UserError(f"{data}: found no {split} rows with a label, expected some of {', '.join(emotions)}")
    return Clips(rows, places.astype(np.int64), labels.astype(np.int64))


def read_train(data: Path, emotions: list[str], max_rows: int, seed: int) -> Clips:
    """Return at most `max_rows` train clips, balanced over the emotions; raises UserError if they have one class."""
    clips = read_clips(data, "train", emotions)
    if (num_classes := len(np.unique(clips.labels))) < 2:
        raise UserError(f"{data}: found train rows of {num_classes} class, expected at least 2")
    chosen = choose_clips([emotions[label] for label in clips.labels.tolist()], max_rows, seed)
    return Clips(clips.rows, clips.places[chosen], clips.labels[chosen])


def words_of(clips: Clips, trained: packed.Rows) -> list[str | None]:
    """Return for each clip whether a row of `trained` has its words, as a value of WORDS; None without a transcript."""
    known = {normalise(text) for text in pc.unique(trained.column("text")).to_pylist() if text}
    return [None if not text else WORDS[normalise(text) not in known] for text in clips.column("text")]


def permute_within_speakers(labels: Ints, speakers: Sequence[str], seed: int | Sequence[int]) -> Ints:
    """Exchange the labels of the clips of each speaker at random."""
    codes = np.unique(np.asarray(speakers), return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    shuffled = np.lexsort((np.random.default_rng(seed).random(len(labels)), codes))
    permuted = np.empty_like(labels)
    permuted[order] = labels[shuffled]
    return permuted
