"""A Hugging Face data set as a corpus: its id on the hub, ID:CONFIGURATION, or a local folder (saved, or Parquet).

The rows of a data set hold the audio itself. Reading writes the audio below the root without decoding it, so that the
manifest can name files. Rows are streamed. The mapping (pipeline/corpora/mapping.py) names the columns of the data set;
class labels are read as their names. If a data set has several splits, they are the official splits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.mapping import SPLITS, Fields, describe, find_fields, read_mapping
from pipeline.corpora.table_rows import Record
from pipeline.stage import UserError
from pipeline.tables import parquet

FOLDER = "audio"
"""Folder below the root for the audio."""

_SUFFIXES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}  # by the first bytes; any other file counts as MP3
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
    splits = _load(source)
    columns = [*(next(iter(splits.values())).features or [])]
    fields = find_fields(options, columns, source, mapping)
    if len(splits) > 1 and SPLITS.keys() >= splits.keys():
        fields = Fields(options, {"split": _SPLIT, **fields.columns})

    def read(root: Path) -> Iterator[Clip]:
        for name, rows in splits.items():
            for number, row in enumerate(_rows(source, rows, fields.columns["audio"])):
                record = Record({_SPLIT: name, **row}, source, f"{name} row {number}")
                yield fields.clip(_written_out(record, root, fields.columns["audio"], f"{name}-{number:07}"))

    return describe(source, fields, source, read)


def _load(source: str) -> Mapping[str, Any]:
    """Open the splits of a data set."""
    import datasets

    folder = Path(source)
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            loaded = datasets.load_from_disk(source)
        else:
            name, _, configuration = (source, "", "") if folder.is_dir() else source.partition(":")
            loaded = datasets.load_dataset(name, configuration or None, streaming=True)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        found = str(error).strip().partition("\n")[0]
        raise UserError(f"{source}: found {found}; expected a data set on the Hugging Face hub or a folder") from None
    return loaded if isinstance(loaded, dict) else {"train": loaded}


def _rows(source: str, rows: Any, audio: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split, their audio as it is stored and their class labels as names."""
    import datasets

    if isinstance(rows.features[audio], datasets.Audio):
        rows = rows.cast_column(audio, datasets.Audio(decode=False))
    names = {column: kind.names for column, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}
    try:
        for row in rows:
            yield row | {column: _label(row[column], known) for column, known in names.items()}
    except ImportError:
        raise UserError(
            f"{source}: found audio files in place of rows with audio; expected Parquet or a saved data set "
            "(audio files beside a table are read by --reader table)"
        ) from None


def _label(number: int | None, names: Sequence[str]) -> str | None:
    return None if number is None or number < 0 else names[number]  # -1 is missing


def _written_out(record: Record, root: Path, column: str, name: str) -> Record:
    """Write the audio of a row below the root, and return the row with the file in its place.

    Files are named by their rows and not by their ids: two rows with one id must not share a file.
    """
    cell = record.cells[column]
    if cell is None:
        return record
    if not isinstance(cell, dict) or not cell.keys() >= {"bytes", "path"}:
        raise record.mistake(column, "audio", type(cell).__name__)
    audio = cell["path"]
    if cell["bytes"] is not None:
        suffix = PurePath(cell["path"] or "").suffix or _SUFFIXES.get(cell["bytes"][:4], ".mp3")
        audio = f"{FOLDER}/{name}{suffix}"
        with parquet.whole(root / audio) as partial:
            partial.write_bytes(cell["bytes"])
    return replace(record, cells={**record.cells, column: audio})
