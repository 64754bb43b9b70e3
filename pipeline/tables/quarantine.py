"""The quarantine: every utterance that ingest refuses, with a reason code and what was seen."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.tables import parquet

REASONS = {
    "no-file": "the audio file is missing",
    "empty-file": "the audio file has no bytes",
    "lfs-pointer": "a git-lfs pointer lies in place of the audio",
    "unreadable": "the audio cannot be decoded",
    "truncated": "the audio ends before the length in its header, or before the utterance does",
    "not-finite": "a sample is not a number, or is infinite",
    "sample-rate": "the header's sample rate is below 8 kHz or above 192 kHz",
    "silent": "no sample is louder than -60 dB of full scale",
    "clipped": "more than one sample in a hundred is at full scale",
    "too-short": "shorter than 0.1 s",
    "too-long": "longer than 60 s",
    "too-much-text": "more characters of transcript a second than anyone can say",
    "no-transcript": "the corpus has transcripts, and this utterance none",
    "no-label": "the corpus has emotion labels, and this utterance none",
    "not-speech": "published as music, noise, silence or song",
    "bad-name": "the file's name is not of the published form",
    "not-listed": "a file that the corpus' own index does not name",
    "known-fault": "known to be broken as published",
    "double-id": "an utterance before it has the same id",
    "double-audio": "an utterance before it has the same samples",
}

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "corpus", "audio", "reason", "detail")])


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an utterance is refused: a key of REASONS, and what was seen, in words."""

    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        """Refuse a reason that is not declared."""
        assert self.reason in REASONS, self.reason


def beside(path: Path) -> Path:
    """Return the place of the quarantine of the manifest at `path`."""
    return path.with_suffix(".quarantine.parquet")


def read(path: Path) -> pa.Table:
    """Read a quarantine, which may be empty; raises UserError when it is missing or malformed."""
    return parquet.read(path, SCHEMA, allow_empty=True)
