"""Files of a corpus on disk: finds them, and reads text files. All readers use it, so that all treat names alike.

Names that begin with a dot are left out, such as the ._ files that macOS adds to every copy. Names are compared without
case and without the form of their accents, because disks and archivers change both. A folder that cannot be listed is
an error: otherwise its clips would be missing without a message. So is a byte that is not in the expected encoding.
"""

import fnmatch
import os
import re
import unicodedata
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

from pipeline.stage import UserError

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac", ".aif", ".aiff")
"""Suffixes of audio files, lossless ones first: of two files with one name, the first one is the clip."""

MAX_LINE_BYTES = 1 << 26  # the lines of tables are far shorter; a longer one would fill the memory


def find(root: Path, pattern: str) -> list[Path]:
    """Return the files and folders below `root` that match a pattern such as `*/Actor_*/`, sorted by name.

    With a slash at its end, the pattern matches only folders. Raises UserError if a folder cannot be listed.
    """
    *parents, last = pattern.removesuffix("/").split("/")
    folders = [root] if root.is_dir() else []
    for parent in parents:
        folders = [path for folder in folders for path in _matches(folder, parent, only_folders=True)]
    only_folders = pattern.endswith("/")
    return [path for folder in folders for path in _matches(folder, last, only_folders)]


def audio_files(*folders: Path) -> list[Path]:
    """Return the audio files in `folders`, sorted by folder and name; a path that is not a folder is left out."""
    found = (
        folder / name
        for folder in folders
        if folder.is_dir()
        for name in names(folder)
        if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
    )
    return sorted(found, key=lambda path: (path.parent, f"{path.stem}.", AUDIO_SUFFIXES.index(path.suffix.lower())))


def names(folder: Path) -> list[str]:
    """Return the names of the files and folders in a folder, sorted; raises UserError if it cannot be listed."""
    return [entry.name for entry in _entries(folder)]


def alike(name: str) -> str:
    """Return a name without case and with composed accents: names that are equal in this form are alike."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def escaped(name: str) -> str:
    """Return a name or text with its invalid characters escaped, such as bytes of a file name that are not UTF-8."""
    try:
        return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair
        return name.encode(errors="backslashreplace").decode()


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """Read a text file of a corpus; every line end on disk becomes a line feed."""
    try:
        return path.read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _wrong_byte(path, line, encoding, error) from None


def lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Yield the lines of a text file with their ends; raises UserError at a line that is not in `encoding`."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), b""), start=1):
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                raise UserError(f"{path}: line {number}: found more than {MAX_LINE_BYTES >> 20} MiB, expected one row")
            try:
                yield line.decode("utf-8-sig" if (number, encoding) == (1, "utf-8") else encoding)
            except UnicodeDecodeError as error:
                raise _wrong_byte(path, number, encoding, error) from None


def _matches(folder: Path, pattern: str, only_folders: bool) -> Iterator[Path]:
    """Yield what matches a pattern without slashes; the exact name comes before names that are alike."""
    matches = _compiled(pattern).match
    for entry in sorted(_entries(folder), key=lambda entry: entry.name != pattern):
        if matches(alike(entry.name)) and (not only_folders or _is_folder(entry)):
            yield folder / entry.name


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listed:
            return sorted((entry for entry in listed if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        found = (error.strerror or str(error)).lower()
        raise UserError(f"{folder}: {found}; expected a folder that can be listed") from None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(alike(pattern)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; raises UserError if it is a link to a folder that is not there."""
    try:
        if entry.is_dir():
            return True
        dangling = entry.is_symlink() and not os.path.exists(entry.path)
    except OSError:  # a link in a circle
        return False
    if dangling and os.path.splitext(entry.name)[1].lower() not in AUDIO_SUFFIXES:
        raise UserError(f"{entry.path}: found a link to {os.readlink(entry.path)}, which does not exist; remove it")
    return False


def _wrong_byte(path: Path, line: int, encoding: str, error: UnicodeDecodeError) -> UserError:
    expected = encoding.removesuffix("-sig").upper()
    return UserError(f"{path}: line {line}: expected {expected} text, found byte {error.object[error.start]:#04x}")
