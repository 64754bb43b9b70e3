"""The manifest: one row an utterance, one schema for all corpora.

Ingest writes a manifest for each corpus and split joins them; every later stage and every outside
script reads these columns. manifests/README.md explains the same list to readers.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline import tables


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the manifest: its name (unit as suffix), its Arrow type and its meaning."""

    name: str
    type: pa.DataType
    meaning: str


COLUMNS = (
    Column("id", pa.string(), "unique over all corpora: corpus name, a slash, the published utterance id"),
    Column("corpus", pa.string(), "name of the corpus as params.yaml lists it under ingest"),
    Column("audio", pa.string(), "audio file, relative to the corpus root, with forward slashes"),
    Column("start_s", pa.float64(), "where the utterance starts in the audio file, in seconds; 0 for a whole file"),
    Column("duration_s", pa.float64(), "length of the utterance in seconds, from the decoded samples"),
    Column("sample_rate_hz", pa.int32(), "sample rate of the audio file as published"),
    Column("channels", pa.int32(), "channels of the audio file as published; all reading mixes down to mono"),
    Column("text", pa.string(), "transcript, normalised: lower case, no punctuation but apostrophes"),
    Column("text_published", pa.string(), "transcript exactly as published"),
    Column("language", pa.string(), "ISO 639-1 code of the spoken language"),
    Column("speaker", pa.string(), "unique over all corpora: corpus name, a slash, the published speaker id"),
    Column("gender", pa.string(), "female or male as published; null where unknown"),
    Column("session", pa.string(), "recording session, chapter or dialogue; null where the corpus has none"),
    Column("turn", pa.int32(), "position in the session or dialogue, from 0; null where the corpus has none"),
    Column("emotion", pa.string(), "emotion in the unified set of pipeline/taxonomy.py; null in ASR corpora"),
    Column("emotion_published", pa.string(), "emotion label exactly as published; null in ASR corpora"),
    Column(
        "votes",
        pa.map_(pa.string(), pa.float64()),
        "annotator votes by published label; null where not published",
    ),
    Column("intensity", pa.string(), "intensity of the acted emotion as published, in lower case; null where none"),
    Column("split", pa.string(), "train, dev or test; null before split where the corpus has no official one"),
    Column("licence", pa.string(), "licence of the clip, an SPDX id where one exists"),
    Column("content_hash", pa.string(), "xxh3_128 of the decoded samples, the same in any lossless container"),
)

SCHEMA = pa.schema([(column.name, column.type) for column in COLUMNS])

QUARANTINE_SCHEMA = pa.schema(
    [("id", pa.string()), ("corpus", pa.string()), ("audio", pa.string()), ("reason", pa.string())]
)

SPLITS = ("train", "dev", "test")


def read(path: Path) -> pa.Table:
    """Read a manifest; raises UserError when it is missing, malformed or empty."""
    return tables.read(path, SCHEMA)
