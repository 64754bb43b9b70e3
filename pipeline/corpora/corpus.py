"""The result of a reader in pipeline/corpora/readers: facts about a corpus, and a clip for each utterance."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.stage import UserError
from pipeline.tables.quarantine import Fault

AUDIO_SUFFIXES = (".wav", ".flac")


@dataclass(slots=True, kw_only=True)  # not frozen: creating a frozen one takes twice the time
class Clip:
    """An utterance from names and metadata; ingest adds the corpus name, the unified emotion and facts of the audio."""

    utterance: str
    """Published id, unique in the corpus."""
    audio: str
    """File, relative to the corpus root, with forward slashes."""
    text: str | None
    """Transcript as published; None if the corpus publishes none, "" if only this utterance lacks it."""
    speaker: str
    """Published id."""
    start_s: float = 0.0
    duration_s: float | None = None
    """None means to the end of the file."""
    language: str | None = None
    """ISO 639-1 code; None means the language of the corpus."""
    gender: str | None = None
    """female or male."""
    session: str | None = None
    """Recording session; its utterances share the room and the speakers."""
    dialogue: str | None = None
    """Dialogue or chapter, unique in the corpus."""
    turn: int | None = None
    """Position in the dialogue, from 0."""
    emotion: str | None = None
    """Label as published."""
    votes: Mapping[str, float] | None = None
    """Votes by published label, of annotators who only heard the voice."""
    votes_face: Mapping[str, float] | None = None
    """Votes of annotators who only saw the face."""
    votes_both: Mapping[str, float] | None = None
    """Votes of annotators who heard the voice and saw the face."""
    intensity: str | None = None
    split: str | None = None
    """Official split; None if the corpus has none."""
    attributes: Mapping[str, str] | None = None
    """Other published facts about the utterance or its speaker, by their published names."""
    fault: Fault | None = None
    """Why the clip is unusable, if that is known without its audio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A file to download; it is unpacked if it is a zip or tar archive."""

    url: str
    md5: str | None
    """None if the publisher publishes none."""
    into: str = "."
    """Folder under the corpus root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Facts about a corpus. The file of a published corpus in pipeline/corpora/readers defines one, named CORPUS."""

    title: str
    layout: str
    """Example of its files below the root, for the message if a reader finds nothing."""
    licence: str
    """SPDX id if one exists."""
    source: str
    """Web page that describes the corpus, and takes requests for it if it is not free to download."""
    archives: Mapping[str, Archive] = field(default_factory=dict)
    """Name of an archive: its file. Empty if the corpus is not free to download."""
    language: str
    """ISO 639-1 code of clips without a language of their own."""
    read: Callable[..., Iterator[Clip]]
    """Function of the root that yields each utterance that the corpus names, in a fixed order; it opens no audio."""
    subsets: Sequence[str] = ()
    """Values that `read` accepts as its keyword `subset`: --reader NAME --subset SUBSET reads only that subset."""
    labels: Mapping[str, str | None] = field(default_factory=dict)
    """Published label: unified emotion of pipeline/tables/emotions.py; None if it names no single emotion."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Published counts: `clips`, `speakers`, and the clips of a published label, an official split or a folder."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """Published id of a file that is broken as published: its fault."""
    doubles: Sequence[str] = ()
    """Published ids of clips with the same samples as another clip; they stay, because the counts include them."""
    folds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Name of a published fold: the published ids of its test speakers."""
    headers_suffice: bool = False
    """Whether reading headers in place of samples suffices, because the published audio is known to be intact."""


def audio_files(*folders: Path) -> list[Path]:
    """Return the WAV and FLAC files in `folders`, sorted."""
    return sorted(path for folder in folders for path in folder.glob("*") if path.suffix.lower() in AUDIO_SUFFIXES)


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """Read a text file of a corpus; every line end on disk becomes a line feed."""
    try:
        return path.read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}: line {line}: expected {encoding.removesuffix('-sig').upper()} text, "
            f"found byte {error.object[error.start]:#04x}"
        ) from None


def read_csv(path: Path, columns: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
    """Read a table with a header; raises UserError if it lacks one of `columns`, or a line lacks a cell."""
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
