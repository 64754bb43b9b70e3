"""Lists of the clips of train, valid and test in EmoBox's format, matched to a corpus by audio path.

A fold is a folder with `*_train_*.jsonl` and, if it has these splits, `*_valid_*.jsonl` and `*_test_*.jsonl`. Each
list is plain or compressed as `.gz`. An entry is identified by the tail of its path, without suffix. All tails of a
fold have the smallest length that makes them unique. In most corpora, the tail is the file name. In MELD it is folder
and name, because the splits repeat the names.
"""

import gzip
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from pipeline.corpora.files import find
from pipeline.stage import UserError, say

# split in the names of the lists: split in the manifest
SPLITS = {"train": "train", "valid": "dev", "test": "test"}

Tail = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoldLists:
    """The clips of a fold."""

    splits: Mapping[Tail, str]
    """Tail of an audio path: its split in the manifest."""
    length: int
    """Number of names in each tail."""


def read(folder: Path) -> FoldLists:
    """Read the lists of a fold; raises UserError if a list is broken, train is missing or a clip is in two splits."""
    split_of: dict[Tail, str] = {}
    for name, split in SPLITS.items():
        for path in _entries(folder, name):
            if split_of.setdefault(path, split) != split:
                raise UserError(f"{folder}: expected each clip in one split, found {'/'.join(path)} in two")
    length = next(n for n in itertools.count(1) if len({path[-n:] for path in split_of}) == len(split_of))
    return FoldLists({path[-length:]: split for path, split in split_of.items()}, length)


def match(table: pa.Table, corpus: str, folder: Path) -> pa.Array:
    """Return the split of each row of a corpus; null if no list in `folder` names the row.

    If the lists do not name the audio path, the published id is tried: in the id, readers correct misspelt file names.
    Raises UserError if the lists name no row. Prints how many listed clips were found, if some were not.
    """
    lists = read(folder)
    tails = []
    for audio, key in zip(table["audio"].to_pylist(), table["id"].to_pylist(), strict=True):
        names = (_path(audio), tuple(key.split("/")[1:]))
        tails.append(next((path[-lists.length :] for path in names if path[-lists.length :] in lists.splits), None))
    found = len({tail for tail in tails if tail})
    if not found:
        raise UserError(f"{folder}: no clip of {corpus} in the lists; expected clips such as {table['audio'][0]}")
    if found < len(lists.splits):
        say(f"split: {corpus}: found {found:,} of the {len(lists.splits):,} clips in the lists of {folder}")
    return pa.array([tail and lists.splits[tail] for tail in tails], pa.string())


def _entries(folder: Path, name: str) -> Iterator[Tail]:
    files = sorted([*find(folder, f"*_{name}_*.jsonl"), *find(folder, f"*_{name}_*.jsonl.gz")])
    if len(files) > 1 or (not files and name == "train"):
        found = ", ".join(file.name for file in files) or "none"
        raise UserError(f"{folder}: expected one list *_{name}_*.jsonl or .jsonl.gz, found {found}")
    for file in files:
        for number, line in enumerate(_lines(file), start=1):
            if line.strip():
                yield _audio_of(line, f"{file}: line {number}")


def _lines(file: Path) -> list[str]:
    content = file.read_bytes()
    try:
        return (gzip.decompress(content) if file.suffix == ".gz" else content).decode().split("\n")
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{file}: not a gzip file, or one cut short") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: expected UTF-8 text, found byte {error.object[error.start]:#04x}") from None


def _audio_of(line: str, where: str) -> Tail:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:  # the latter for thousands of brackets within another
        raise UserError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("wav"), str):
        raise UserError(f"{where}: expected an object with the audio's path as wav, found {line.strip()[:60]}")
    return _path(entry["wav"])


def _path(audio: str) -> Tail:
    path = PurePosixPath(audio)
    return (*path.parent.parts, path.stem)
