"""Audio files that are not under their published name: converted ones, and those whose name differs a little."""

import os
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from pipeline.corpora.files import AUDIO_SUFFIXES, alike, escaped

_CONVERTED = (".wav", ".flac")
_OTHER_SUFFIXES = (*AUDIO_SUFFIXES, ".mp4", ".mkv", ".webm", ".sph")
# larger folders are not searched, because the search runs for every missing file
_MAX_NAMES, _MAX_FOLDERS = 50_000, 64


def converted(path: str) -> Iterator[str]:
    """Yield the paths that a file may have after it was converted to WAV or FLAC under its published name."""
    name, suffix = os.path.splitext(path)
    return (name + other for other in _CONVERTED if other != suffix)


class _Folder(NamedTuple):
    names: dict[str, str]
    """Names by their form for comparisons."""
    folders: list[str]


class NearbyFiles:
    """Finds the files below a root whose names differ a little from published ones; it lists a folder only once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._list = lru_cache(maxsize=2 * _MAX_FOLDERS)(_list)

    def describe(self, audio: str) -> str:
        """Describe the file that is probably meant by `audio`; empty if there is none.

        It differs in case, slashes, the form of its accents or its suffix, or is in another folder near by.
        """
        names = [name for name in audio.replace("\\", "/").split("/") if name not in ("", ".")]
        path = self._resolve(self.root, names, may_descend=True) if names else None
        if path is None:
            return ""
        found = os.path.relpath(path, self.root)
        is_same = unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", audio)
        return f"found {escaped(found)}" + (", whose accents are in another Unicode form" if is_same else "")

    def _resolve(self, folder: str, names: list[str], may_descend: bool) -> str | None:
        """Return the path to which the names of folders and of a file lead, each alike a name in its folder.

        Folders may be missing on disk or, once, in the names.
        """
        there = self._list(folder)
        first, *rest = names
        for name in (there.names.get(alike(first)), None if rest else _with_other_suffix(there, first)):
            if name is not None:
                path = os.path.join(folder, name)
                found = self._resolve(path, rest, may_descend) if rest else path
                if found is not None:
                    return found
        for name in there.folders if may_descend else ():
            found = self._resolve(os.path.join(folder, name), names, may_descend=False)
            if found is not None:
                return found
        return self._resolve(folder, rest, may_descend) if rest else None


def _with_other_suffix(folder: _Folder, name: str) -> str | None:
    stem = os.path.splitext(alike(name))[0]
    return next((folder.names[stem + suffix] for suffix in _OTHER_SUFFIXES if stem + suffix in folder.names), None)


def _list(folder: str) -> _Folder:
    try:
        with os.scandir(folder) as listed:
            entries = [entry for entry in islice(listed, _MAX_NAMES + 1) if not entry.name.startswith(".")]
        folders = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:  # not a folder, or not readable
        return _Folder({}, [])
    if len(entries) > _MAX_NAMES:
        return _Folder({}, [])
    return _Folder({alike(entry.name): entry.name for entry in entries}, folders[:_MAX_FOLDERS])
