"""What a reader tells of an utterance from names and metadata, without opening its audio."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.stage import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """An utterance as published; ingest adds the corpus name, the unified emotion and what the audio tells."""

    utterance: str
    """Published id."""
    audio: str
    """File, relative to the corpus root, with forward slashes."""
    text: str
    """Transcript as published."""
    speaker: str
    """Published id."""
    licence: str
    start_s: float = 0.0
    duration_s: float | None = None
    """None reads to the end of the file."""
    language: str = "en"
    gender: str | None = None
    session: str | None = None
    turn: int | None = None
    emotion: str | None = None
    """Label as published."""
    votes: Mapping[str, float] | None = None
    intensity: str | None = None
    split: str | None = None
    """The official part, where the corpus has one."""
    fault: str | None = None
    """Why the clip is unusable, where that shows without its audio."""


AUDIO_SUFFIXES = (".wav", ".flac")


def wrong_layout(root: Path, expected: str) -> UserError:
    """Tell what lies at a corpus root in which a reader did not find its layout."""
    if not root.is_dir():
        return UserError(f"{root}: no such folder; expected {expected}")
    names = sorted(path.name for path in root.iterdir())
    found = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return UserError(f"{root}: found {found or 'nothing'}; expected {expected}")


def read_text(path: Path) -> str:
    """Read a corpus' text file as UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, found byte {error.object[error.start]:#04x}") from None
