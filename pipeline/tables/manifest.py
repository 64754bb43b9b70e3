"""The manifest: a table with one row per utterance, and with the same columns for all corpora.

Ingest writes a manifest for each corpus, and split joins them. Every later stage and other programs read these columns.
manifests/README.md has the same list.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.tables import parquet


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the manifest: its name (unit as suffix), its Arrow type and its meaning."""

    name: str
    type: pa.DataType
    meaning: str


UNKNOWN_SPEAKER = "unknown"
"""Speaker id if a corpus publishes none. Its clips count as one speaker, so that no voice is in two splits."""

_WEIGHTS = pa.map_(pa.string(), pa.float64())

COLUMNS = (
    Column("id", pa.string(), "unique over all corpora: corpus name, a slash, the published utterance id"),
    Column("corpus", pa.string(), "name of the corpus as params.yaml lists it under ingest"),
    Column("audio", pa.string(), "audio file, relative to the corpus root, with forward slashes"),
    Column("start_s", pa.float64(), "start of the utterance in the audio file, in seconds; 0 for a whole file"),
    Column("duration_s", pa.float64(), "length of the utterance in seconds"),
    Column("sample_rate_hz", pa.int32(), "sample rate of the audio file as published"),
    Column("channels", pa.int32(), "number of channels of the audio file as published; clips are read as mono"),
    Column(
        "text",
        pa.string(),
        "what is spoken, in lower case, with apostrophes as its only punctuation; null if none is published",
    ),
    Column("text_published", pa.string(), "transcript exactly as published; null if none is published"),
    Column("language", pa.string(), "ISO 639-1 code of the spoken language; ISO 639-3 if it has none"),
    Column("speaker", pa.string(), "unique over all corpora: corpus name, a slash, the published speaker id"),
    Column("gender", pa.string(), "female or male as published; null if unknown"),
    Column(
        "session", pa.string(), "recording session, with the same speakers and room; null if the corpus has no sessions"
    ),
    Column("dialogue", pa.string(), "dialogue or chapter; null if the corpus has no dialogues or chapters"),
    Column("turn", pa.int32(), "position in the dialogue, from 0; null if the corpus has no dialogues"),
    Column(
        "emotion",
        pa.string(),
        "one of the emotions in tables/emotions.py; null if the label names no single emotion or is missing",
    ),
    Column("emotion_published", pa.string(), "emotion label exactly as published; null if none is published"),
    Column(
        "emotion_votes",
        _WEIGHTS,
        "soft label: share of the annotators' votes for each emotion of tables/emotions.py; null without votes",
    ),
    Column("votes", _WEIGHTS, "annotators' votes by published label, from the voice only; null if not published"),
    Column("votes_face", _WEIGHTS, "annotators' votes by published label, from the face only; null if not published"),
    Column("votes_both", _WEIGHTS, "annotators' votes by published label, from voice and face; null if not published"),
    Column(
        "intensity",
        pa.string(),
        "intensity of the acted emotion as published, in lower case; null if no intensity is published",
    ),
    Column(
        "split",
        pa.string(),
        "train, dev or test; in manifests that `ingest` wrote, null if the corpus has no official splits",
    ),
    Column(
        "attributes",
        pa.map_(pa.string(), pa.string()),
        "other published facts about the utterance or its speaker, by published name; null if there are none",
    ),
    Column("licence", pa.string(), "licence of the clip, an SPDX id if one exists"),
    Column(
        "content_hash",
        pa.string(),
        "MD5 of the samples, the same in any lossless format; null if no samples were read and the header has no MD5",
    ),
)

SCHEMA = pa.schema([(column.name, column.type) for column in COLUMNS])

SPLITS = ("train", "dev", "test")


def read(path: Path) -> pa.Table:
    """Read a manifest; raises UserError if it is missing, malformed or empty."""
    return parquet.read(path, SCHEMA)
