"""A Hugging Face data set as a corpus: its id on the hub, ID:CONFIGURATION, or a local folder (saved, or Parquet).

The rows of a data set hold the audio itself. Reading writes the audio below the root without decoding it, so that the
manifest can name files. Rows are streamed. The mapping (pipeline/corpora/mapping.py) names the columns of the data set;
class labels are read as their names. If a data set has several splits, they are the official splits.
"""

import gc
import io
import os
import re
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa

from pipeline.corpora import splits
from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.mapping import Fields, TableMapping, describe, find_fields, read_mapping
from pipeline.corpora.table_rows import Record
from pipeline.stage import UserError
from pipeline.tables import parquet

FOLDER = "audio"
"""Folder below the root for the audio."""

_SUFFIXES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}  # by the first bytes; any other file counts as MP3
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,5}")  # a file name of the publisher may contain anything after a dot
_PATIENCE_S = 30.0
_SPLIT = "(split)"  # column that holds the name of the split


def open_dataset(dataset: str | None, root: Path, mapping: Path) -> Corpus:
    """Describe the corpus in a data set, by default the one that the mapping names.

    Raises UserError if the data set cannot be loaded or does not fit the mapping.
    """
    options = read_mapping(mapping)
    source = dataset or options.dataset
    if source is None:
        raise UserError(f"{mapping}: dataset: missing; expected the id of the data set here, or --dataset")
    if root.resolve().is_relative_to(Path(source).resolve()):
        raise UserError(f"{root}: found inside the data set; expected another folder, where its audio can be written")
    published = _load(source)
    official = _official_splits(source, [*published], options)
    fields = {
        name: _fields(source if len(published) == 1 else f"{source}: {name}", rows, options, mapping)
        for name, rows in published.items()
    }

    def read(root: Path) -> Iterator[Clip]:
        found, before = False, _closed_files()
        for name, rows in published.items():
            audio = fields[name].columns["audio"]
            with closing(_rows(f"{source}: {name}", rows, audio, before)) as stream:
                for number, row in enumerate(stream):
                    found = True
                    record = Record({_SPLIT: official[name], **row}, source, f"{name} row {number}")
                    yield _clip(fields[name], record, root, f"{name}-{number:07}")
        if not found:
            raise UserError(f"{source}: found no rows; expected one for each clip")

    return describe(source, next(iter(fields.values())), source, read)


def _fields(table: str, rows: Any, options: TableMapping, mapping: Path) -> Fields:
    """Find the fields of a split; its name is their split, unless the mapping or a column says otherwise."""
    fields = find_fields(options, [*(rows.features or [])], table, mapping)
    if "split" in {*options.columns, *options.constants}:
        return fields
    return replace(fields, columns={"split": _SPLIT, **fields.columns})


def _official_splits(source: str, names: Sequence[str], options: TableMapping) -> dict[str, str | None]:
    """Return the official split of each split of a data set.

    Rows of a split without one stay without, and the stage split leaves them out. A data set that was never split is
    published as train. Raises UserError if none of several splits has an official one.
    """
    official = {**splits.official_of_all(names), **{name: split or None for name, split in options.splits.items()}}
    if len(names) == 1 and not options.splits:
        return {name: None if official[name] == "train" else official[name] for name in names}
    if not any(official[name] or name in options.splits for name in names):
        found = ", ".join(names)
        raise UserError(
            f"{source}: found the splits {found}; expected {splits.EXPECTED}, or a line under splits for each"
        )
    return official


def _load(source: str) -> Mapping[str, Any]:
    """Open the splits of a data set."""
    import datasets
    import httpx

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs an error before it raises it
    folder = Path(source)
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            loaded = datasets.load_from_disk(source)
        else:
            name, _, configuration = (source, "", "") if folder.is_dir() else source.partition(":")
            loaded = datasets.load_dataset(name, configuration or None, streaming=True)
            if folder.is_dir():
                _check_files(folder, datasets.load_dataset_builder(name).config.data_files)
    except (datasets.exceptions.DatasetsError, httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
        found = str(error).strip().partition("\n")[0]
        raise UserError(f"{source}: found {found}; expected a data set on the Hugging Face hub or a folder") from None
    return loaded if isinstance(loaded, dict) else {"train": loaded}


def _check_files(folder: Path, data_files: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError if `datasets` passes over a file: it does so if the name of the file names no split.

    A README.md that names the files of a data set may leave some out.
    """
    readme = folder / "README.md"
    if readme.is_file() and "data_files" in readme.read_text(errors="replace"):
        return
    used = {os.path.realpath(file) for files in data_files.values() for file in files}
    suffixes = {os.path.splitext(file)[1] for file in used}
    for path in sorted(folder.rglob("*")):
        is_hidden = any(name.startswith((".", "_")) for name in path.relative_to(folder).parts)
        if path.suffix in suffixes and not is_hidden and os.path.realpath(path) not in used:
            raise UserError(
                f"{folder}: found {path.name}, which names no split; expected a name such as "
                f"train-00000-of-00001{path.suffix}, or the files of each split as data_files in README.md"
            )


def _rows(place: str, rows: Any, audio: str, before: Set[int]) -> Generator[dict[str, Any]]:
    """Yield the rows of a split, their audio as it is stored and their class labels as names."""
    import datasets
    import httpx

    if isinstance(rows.features[audio], datasets.Audio):
        rows = rows.cast_column(audio, datasets.Audio(decode=False))
    names = {column: kind.names for column, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}
    number = 0
    try:
        with _stream(rows, before) as stream:
            for row in stream:
                yield row | {column: _label(row[column], known) for column, known in names.items()}
                number += 1
    except ImportError:
        raise UserError(
            f"{place}: found audio files in place of rows with audio; expected Parquet or a saved data set "
            "(audio files beside a table are read by --reader table)"
        ) from None
    except (datasets.exceptions.DatasetsError, httpx.HTTPError, pa.ArrowException, OSError, ValueError) as error:
        found = str(error).strip().partition("\n")[0]
        if not (number == 0 and found.startswith("BatchSize")):  # what datasets makes of a file without rows
            raise UserError(f"{place} row {number}: not readable ({found})") from None


@contextmanager
def _stream(rows: Any, before: Set[int]) -> Iterator[Iterator[dict[str, Any]]]:
    """Open the rows of a split; if they are left before their end, wait for the threads of pyarrow that still read.

    A thread that lets go of a Python file while the interpreter shuts down aborts the process. Such files are closed
    already, and only the threads hold them; `before` are the closed files that others held before.
    """
    stream = iter(rows)
    try:
        yield stream
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # they hold the files, too
        if isinstance(stream, Generator):
            stream.close()
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline and not _closed_files() <= before:
            time.sleep(0.01)
        raise


def _closed_files() -> Set[int]:
    """Return Python's id() of each closed file that something holds."""
    objects = gc.get_objects()
    kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, io.IOBase)}
    return {id(file) for file in objects if type(file) in kinds and file.closed}


def _label(number: int | None, names: Sequence[str]) -> str | None:
    if number is None or number < 0:  # -1 is missing
        return None
    if number >= len(names):
        raise ValueError(f"expected one of {len(names)} labels, found number {number}")
    return names[number]


def _clip(fields: Fields, record: Record, root: Path, name: str) -> Clip:
    try:
        written = _written_out(record, root, fields.columns["audio"], name)
    except UserError as error:
        raise fields.named(record, error) from None
    return fields.clip(written)


def _written_out(record: Record, root: Path, column: str, name: str) -> Record:
    """Write the audio of a row below the root, and return the row with the file in its place.

    Files are named by their rows and not by their ids: two rows with one id must not share a file.
    """
    cell = record.cells[column]
    if cell is None:
        return record
    if not isinstance(cell, dict) or not cell.keys() >= {"bytes", "path"}:
        raise record.mistake(column, "audio", type(cell).__name__)
    if not isinstance(cell["bytes"], bytes | None) or not isinstance(cell["path"], str | None):
        raise record.mistake(column, "audio", f"{type(cell['bytes']).__name__} and {type(cell['path']).__name__}")
    audio = cell["path"]
    if cell["bytes"] is not None:
        published = PurePath(cell["path"] or "").suffix
        suffix = published if _SUFFIX.fullmatch(published) else _SUFFIXES.get(cell["bytes"][:4], ".mp3")
        audio = f"{FOLDER}/{name}{suffix}"
        with parquet.whole(root / audio) as partial:
            partial.write_bytes(cell["bytes"])
    return replace(record, cells={**record.cells, column: audio})
