"""The quarantine: a table of all utterances that ingest refuses, each with a reason code and a detail."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.tables import parquet

REASONS = {
    "no-file": "the audio file is missing",
    "empty-file": "the audio file has no bytes",
    "lfs-pointer": "the file is a git-lfs pointer instead of audio",
    "unreadable": "the audio cannot be decoded",
    "truncated": "the audio ends before the length in its header, or before the end of the utterance",
    "more-audio": "the file contains more audio than its header says, such as several files one after another",
    "not-finite": "a sample is not a number, or is infinite",
    "sample-rate": "the header's sample rate is below 8 kHz or above 192 kHz",
    "silent": "no sample is louder than -60 dB of full scale",
    "clipped": "more than one sample in a hundred is at full scale",
    "too-short": "shorter than 0.1 s",
    "too-long": "longer than 60 s",
    "too-much-text": "the transcript has more characters per second than anyone can say",
    "no-transcript": "the corpus has transcripts, but this utterance has none",
    "no-label": "the corpus has emotion labels, but this utterance has none",
    "not-speech": "published as music, noise, silence or song",
    "bad-name": "the file name does not have the published form",
    "bad-text": "a published value is not valid Unicode text, such as half of an emoji",
    "not-listed": "the index of the corpus does not name the file",
    "known-fault": "the clip is known to be broken in the published corpus",
    "double-id": "an earlier utterance has the same id",
    "double-audio": "an earlier utterance has the same samples",
}

SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "corpus", "audio", "reason", "detail")])


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an utterance is refused: a key of REASONS, and a detail in words."""

    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        """Refuse a reason that is not declared."""
        assert self.reason in REASONS, self.reason


def beside(path: Path) -> Path:
    """Return the path of the quarantine that belongs to the manifest at `path`."""
    return path.with_suffix(".quarantine.parquet")


def read(path: Path) -> pa.Table:
    """Read a quarantine, which may be empty; raises UserError if it is missing or malformed."""
    return parquet.read(path, SCHEMA, allow_empty=True)
