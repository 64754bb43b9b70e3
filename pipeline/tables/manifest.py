"""The manifest: one row an utterance, one schema for all corpora.

Ingest writes a manifest for each corpus and split joins them; every later stage and every outside
script reads these columns. manifests/README.md explains the same list to readers.
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
"""Published id where none is: one for all of a corpus, so that no split parts what may be one voice."""

_WEIGHTS = pa.map_(pa.string(), pa.float64())

COLUMNS = (
    Column("id", pa.string(), "unique over all corpora: corpus name, a slash, the published utterance id"),
    Column("corpus", pa.string(), "name of the corpus as params.yaml lists it under ingest"),
    Column("audio", pa.string(), "audio file, relative to the corpus root, with forward slashes"),
    Column("start_s", pa.float64(), "where the utterance starts in the audio file, in seconds; 0 for a whole file"),
    Column("duration_s", pa.float64(), "length of the utterance in seconds"),
    Column("sample_rate_hz", pa.int32(), "sample rate of the audio file as published"),
    Column("channels", pa.int32(), "channels of the audio file as published; all reading mixes down to mono"),
    Column(
        "text", pa.string(), "transcript in lower case, no punctuation but apostrophes; null where none is published"
    ),
    Column("text_published", pa.string(), "transcript exactly as published; null where none is"),
    Column("language", pa.string(), "ISO 639-1 code of the spoken language"),
    Column("speaker", pa.string(), "unique over all corpora: corpus name, a slash, the published speaker id"),
    Column("gender", pa.string(), "female or male as published; null where unknown"),
    Column("session", pa.string(), "recording session: shared speakers and room; null where the corpus has none"),
    Column("dialogue", pa.string(), "dialogue or chapter; null where the corpus has none"),
    Column("turn", pa.int32(), "position in the dialogue, from 0; null where the corpus has none"),
    Column("emotion", pa.string(), "emotion in the unified set of tables/emotions.py; null where none is published"),
    Column("emotion_published", pa.string(), "emotion label exactly as published; null where none is published"),
    Column("emotion_votes", _WEIGHTS, "shares of the annotators' votes by unified emotion, a soft label; null without"),
    Column("votes", _WEIGHTS, "annotators by published label who heard the voice alone; null where not published"),
    Column("votes_face", _WEIGHTS, "annotators by published label who saw the face alone; null where not published"),
    Column("votes_both", _WEIGHTS, "annotators by published label who heard and saw; null where not published"),
    Column("intensity", pa.string(), "intensity of the acted emotion as published, in lower case; null where none"),
    Column("split", pa.string(), "train, dev or test; null before split where the corpus has no official one"),
    Column(
        "attributes",
        pa.map_(pa.string(), pa.string()),
        "what else is published of the utterance or its speaker, by its published name; null where nothing is",
    ),
    Column("licence", pa.string(), "licence of the clip, an SPDX id where one exists"),
    Column(
        "content_hash",
        pa.string(),
        "MD5 of the samples, the same in any lossless container; null where only headers were read and hold none",
    ),
)

SCHEMA = pa.schema([(column.name, column.type) for column in COLUMNS])

SPLITS = ("train", "dev", "test")


def read(path: Path) -> pa.Table:
    """Read a manifest; raises UserError when it is missing, malformed or empty."""
    return parquet.read(path, SCHEMA)
