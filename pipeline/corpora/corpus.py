"""What a reader of pipeline/corpora/readers gives: the facts of a published corpus, and a clip for each utterance."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.stage import UserError
from pipeline.tables.quarantine import Fault

AUDIO_SUFFIXES = (".wav", ".flac")


@dataclass(slots=True, kw_only=True)  # not frozen, which would take twice the time to make one
class Clip:
    """An utterance, from names and metadata; ingest adds corpus name, unified emotion and what the audio tells."""

    utterance: str
    """Published id, unique in the corpus."""
    audio: str
    """File, relative to the corpus root, with forward slashes."""
    text: str | None
    """Transcript as published; None where the corpus publishes none, "" where this utterance lacks it."""
    speaker: str
    """Published id."""
    start_s: float = 0.0
    duration_s: float | None = None
    """None reads to the end of the file."""
    language: str | None = None
    """ISO 639-1; None is the corpus' own."""
    gender: str | None = None
    """female or male."""
    session: str | None = None
    """Recording session: what is recorded in one shares the room and the speakers."""
    dialogue: str | None = None
    """Dialogue or chapter, unique in the corpus."""
    turn: int | None = None
    """Position in the dialogue, from 0."""
    emotion: str | None = None
    """Label as published."""
    votes: Mapping[str, float] | None = None
    """Annotators by published label, of those who heard the voice alone."""
    votes_face: Mapping[str, float] | None = None
    """Of those who saw the face alone."""
    votes_both: Mapping[str, float] | None = None
    """Of those who heard and saw."""
    intensity: str | None = None
    split: str | None = None
    """The official part, where the corpus has one."""
    attributes: Mapping[str, str] | None = None
    """What else is published of the utterance or its speaker, by its published name."""
    fault: Fault | None = None
    """Why the clip is unusable, where that shows without its audio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A file to download: it is unpacked where it is an archive, and stays as it is where not."""

    url: str
    md5: str | None
    """None where the publisher gives none."""
    into: str = "."
    """Folder under the corpus root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """One file of pipeline/corpora/readers, under the name CORPUS; the file's name is the reader's."""

    title: str
    layout: str
    """Where its files lie under the root, by example; told when a reader finds nothing."""
    licence: str
    """SPDX id where one exists."""
    source: str
    """Web page where it is described, and asked for where it is not free to download."""
    archives: Mapping[str, Archive] = field(default_factory=dict)
    """Part: its file, where the corpus is free to download."""
    language: str
    """ISO 639-1, of clips that do not tell theirs."""
    read: Callable[..., Iterator[Clip]]
    """Of the root: yields a clip for each utterance that the corpus names, in a fixed order; opens no audio."""
    subsets: Sequence[str] = ()
    """What `read` takes as its keyword `part`: --corpus NAME:PART reads that part alone."""
    labels: Mapping[str, str | None] = field(default_factory=dict)
    """Published label: unified emotion of pipeline/tables/emotions.py; None where it names no single emotion."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Published counts: `clips`, `speakers`, and clips of each published label and official part."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """Published ids of files that are broken as published, with what is wrong."""
    doubles: Sequence[str] = ()
    """Published ids of clips that hold the same samples as another one, yet belong to its counts: they stay."""
    folds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Name of a published fold: the published ids of its test speakers."""
    headers_suffice: bool = False
    """The published audio is known to be sound, so that headers are looked at in place of samples."""


def audio_files(*folders: Path) -> list[Path]:
    """Return the WAV and FLAC files that lie in `folders`, sorted."""
    return sorted(path for folder in folders for path in folder.glob("*") if path.suffix.lower() in AUDIO_SUFFIXES)


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """Read a corpus' text file; lines end with a line feed whatever they end with on disk."""
    try:
        return path.read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}: line {line}: expected {encoding.removesuffix('-sig').upper()} text, "
            f"found byte {error.object[error.start]:#04x}"
        ) from None


def read_csv(path: Path, columns: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
    """Read a table with a header; raises UserError when it lacks one of `columns` or a line lacks a cell."""
    reader = csv.DictReader(io.StringIO(read_text(path)), delimiter=delimiter, restval=None)
    try:
        return _read_rows(path, reader, columns)
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: expected CSV, found {error}") from None


def _read_rows(path: Path, reader: "csv.DictReader[str]", columns: Sequence[str]) -> list[dict[str, str]]:
    missing = [column for column in columns if column not in (reader.fieldnames or [])]
    if missing:
        found = ", ".join(reader.fieldnames or []) or "nothing"
        raise UserError(f"{path}: line 1: lacks the column {missing[0]}; found {found}")
    rows = []
    for row in reader:
        if any(row[column] is None for column in columns):
            raise UserError(f"{path}: line {reader.line_num}: cut short; expected {len(columns)} or more cells")
        rows.append(row)
    return rows
