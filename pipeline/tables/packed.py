"""Packed data: the folder that training and evaluation read, mapped into memory.

`datasets.load_from_disk` loads the folder with its splits train, dev and test. A row contains the clip as 16 kHz mono
FLAC, token ids, and all lengths that a sampler needs. The prompt around them, the prompt shell, is the same for all
rows and is stored once, in frame.json. The shards are Arrow IPC streams. They are written in small batches, so packing
needs constant memory. Equal rows give equal bytes. state.json of a split holds the size and the hash of each shard, so
a run can name its data without reading them.
"""

import json
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from pipeline.stage import UserError, replace_folder
from pipeline.tables.hashed_file import HashedFile

LAYOUT = 3
"""Number of the layout of the folder, in frame.json; it changes with the columns and with what state.json holds."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("language", pa.string()),
        ("licence", pa.string()),
        ("emotion", pa.string()),
        ("emotion_votes", pa.list_(pa.struct([("emotion", pa.string()), ("share", pa.float64())]))),  # null if unknown
        ("text", pa.string()),
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),  # FLAC, 16 kHz, mono
        ("num_samples", pa.int32()),
        ("num_speech_tokens", pa.int32()),
        ("num_text_tokens", pa.int32()),
        ("num_response_tokens", pa.int32()),
        ("text_ids", pa.list_(pa.int32())),  # the transcript
        ("response_ids", pa.list_(pa.int32())),  # the continuation with its end token, if it has one; or empty
        ("continuation_key", pa.string()),  # key of the prompt in the store, in hexadecimal; null if there is none
        ("row_hash", pa.string()),  # MD5 of the manifest's row
    ]
)
SCHEMA_WITH_SIGNALS = pa.schema(
    [
        *SCHEMA,
        # the teacher's likeliest tokens at each position of response_ids, the same number at each; null if not stored
        ("top_ids", pa.list_(pa.list_(pa.int32()))),
        ("top_logprobs", pa.list_(pa.list_(pa.float32()))),
    ]
)
"""The schema of stage 1 if its continuations have teacher signals."""
ROWS_PER_BATCH = 128  # small enough that a single row stays cheap to read
SHELL_FILE = "frame.json"
STATE_FILE = "state.json"
SIZE, HASH = "bytes", "xxh3_128"  # keys of a shard in state.json


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptShell:
    """The token ids around the content of a row: before + speech or transcript + after + response."""

    before_speech: list[int]
    before_text: list[int] | None
    """None in stage 2: its text prompt names the row's emotion, and is not used in training."""
    after: list[int]


class Writer:
    """Writes a packed folder beside `path`, and moves it to `path` when it is complete."""

    def __init__(self, path: Path, shell: PromptShell, shard_bytes: int, schema: pa.Schema = SCHEMA) -> None:
        """Prepare a folder; a shard ends with the row that reaches `shard_bytes` of audio."""
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")
        self.shell = shell
        self.shard_bytes = shard_bytes
        self.schema = schema
        self._splits: dict[str, _Split] = {}

    def __enter__(self) -> Self:
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, _value: object, _trace: TracebackType | None) -> None:
        try:
            for split in self._splits.values():
                split.close(is_complete=kind is None)
            if kind is None:
                _dump(self.partial / SHELL_FILE, {"layout": LAYOUT, **asdict(self.shell)})
                _dump(self.partial / "dataset_dict.json", {"splits": list(self._splits)})
                replace_folder(self.partial, self.path)
        finally:
            shutil.rmtree(self.partial, ignore_errors=True)

    def open(self, split: str) -> None:
        """Begin a split; without rows it stays empty."""
        self._splits[split] = _Split(self.partial / split, self.shard_bytes, self.schema)

    def add(self, split: str, row: Mapping[str, Any]) -> None:
        """Append a row to a split."""
        self._splits[split].add(row)

    def write(self, split: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a whole split."""
        self.open(split)
        for row in rows:
            self.add(split, row)

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows in each split."""
        return {name: split.num_rows for name, split in self._splits.items()}


class _Split:
    """A split that is being written."""

    def __init__(self, folder: Path, shard_bytes: int, schema: pa.Schema) -> None:
        folder.mkdir()
        self.folder, self.shard_bytes, self.schema = folder, shard_bytes, schema
        self.num_rows = 0
        self.shards: list[dict[str, Any]] = []  # those that are complete, as state.json lists them
        self.waiting: list[Mapping[str, Any]] = []
        self.waiting_bytes = 0
        self._next_shard()

    def add(self, row: Mapping[str, Any]) -> None:
        self.num_rows += 1
        self.waiting.append(row)
        self.waiting_bytes += len(row["audio"]["bytes"])
        if len(self.waiting) == ROWS_PER_BATCH or self.num_bytes + self.waiting_bytes >= self.shard_bytes:
            self._write()

    def close(self, *, is_complete: bool) -> None:
        if is_complete:
            self._write()
        self._end_shard()
        if is_complete:
            _describe(self.folder, self.shards, self.schema)

    def _write(self) -> None:
        if not self.waiting:
            return
        if self.num_bytes >= self.shard_bytes:
            self._end_shard()
            self._next_shard()
        self.sink.write_table(pa.Table.from_pylist(self.waiting, schema=self.schema))
        self.num_bytes += self.waiting_bytes
        self.waiting, self.waiting_bytes = [], 0

    def _next_shard(self) -> None:
        self.file = HashedFile(self.folder / f"data-{len(self.shards):05d}.arrow")
        self.sink = pa.ipc.new_stream(self.file, self.schema)
        self.num_bytes = 0

    def _end_shard(self) -> None:
        self.sink.close()
        self.file.close()
        self.shards.append({"filename": self.file.path.name, SIZE: self.file.size, HASH: self.file.digest()})


class Rows:
    """The rows of a split, mapped into memory; reading a row takes a third of the time that `datasets` needs."""

    def __init__(self, path: Path, split: str, numbers: NDArray[np.int64] | None = None) -> None:
        """Open the rows with these numbers of a split, by default all.

        Raises UserError if the folder or the split is missing, damaged or of another layout.
        """
        folder = path / split
        if not (folder / STATE_FILE).is_file():
            raise UserError(f"{path}: no packed split {split}; run python -m pipeline.pack first")
        load_shell(path)  # checks the layout
        self.path, self.split = path, split
        self._shards: list[Path] = [folder / shard["filename"] for shard in _listed(folder)]
        batches = [(shard, batch) for shard in self._shards for batch in _open_shard(shard)]
        self.names: list[str] = list(_schema(self._shards[0]).names)
        self._shard_of = [shard for shard, _ in batches]
        self._columns = [batch.columns for _, batch in batches]
        self._readers: dict[int, list[_Reader]] = {}  # of the batches that were read before
        self._first: list[int] = np.cumsum([0, *(batch.num_rows for _, batch in batches)]).tolist()
        self._numbers = np.arange(self._first[-1]) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row as Python values."""
        batch, place = self._find(index)
        if batch not in self._readers:
            self._readers[batch] = [_reader(column) for column in self._columns[batch]]
        return {name: read(place) for name, read in zip(self.names, self._readers[batch], strict=True)}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, (self.path, self.split, self._numbers)

    def select(self, numbers: Sequence[int] | NDArray[np.int64]) -> "Rows":
        """Return some rows, in the given order."""
        return Rows(self.path, self.split, self._numbers[np.asarray(numbers, np.int64)])

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column of all rows."""
        number = self.names.index(name)
        whole = pa.chunked_array(
            [columns[number] for columns in self._columns], _schema(self._shards[0]).field(name).type
        )
        return whole if len(self) == len(whole) and self._is_whole() else whole.take(pa.array(self._numbers))

    def shard(self, index: int) -> Path:
        """Return the file of a row."""
        return self._shard_of[self._find(index)[0]]

    def _is_whole(self) -> bool:
        return bool((np.diff(self._numbers) == 1).all())

    def _find(self, index: int) -> tuple[int, int]:
        number = int(self._numbers[index])
        batch = bisect_right(self._first, number) - 1
        return batch, number - self._first[batch]


def load(path: Path, split: str, *, allow_empty: bool = False) -> Rows:
    """Open a split; raises UserError if the folder or the split is missing, damaged, of another layout, or empty."""
    rows = Rows(path, split)
    if len(rows) == 0 and not allow_empty:
        raise UserError(f"{path}: the split {split} is empty; expected at least one row")
    return rows


def _open_shard(shard: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pa.ipc.open_stream(pa.memory_map(str(shard))) as reader:
            yield from reader
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{shard}: not readable, the file is damaged ({str(error).strip()}); pack again") from None


def _schema(shard: Path) -> pa.Schema:
    with pa.ipc.open_stream(pa.memory_map(str(shard))) as reader:
        return reader.schema


_Reader = Callable[[int], Any]


def _reader(column: pa.Array) -> _Reader:
    """Return a function that reads a value of a column as Python.

    Numbers and lists of numbers go through NumPy, which is ten times as fast. What is the same for all rows of a batch,
    such as the type, is looked up here, and not again for each row.
    """
    if column.null_count == len(column):
        return lambda place: None
    if column.null_count == 0 and pa.types.is_struct(column.type):
        fields = [(field.name, _reader(values)) for field, values in zip(column.type, column.flatten(), strict=True)]
        return lambda place: {name: read(place) for name, read in fields}
    if column.null_count == 0 and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return column.to_numpy().item  # type: ignore[no-any-return]
    if not pa.types.is_list(column.type):
        return lambda place: column[place].as_py()
    ends, values = column.offsets.to_numpy(), column.values
    if pa.types.is_primitive(values.type) and values.null_count == 0:
        numbers = values.to_numpy(zero_copy_only=False)
        return _unless_null(column, lambda place: numbers[ends[place] : ends[place + 1]].tolist())
    read = _reader(values)
    return _unless_null(column, lambda place: [read(i) for i in range(ends[place], ends[place + 1])])


def _unless_null(column: pa.Array, read: _Reader) -> _Reader:
    """Return a reader that gives None for a null of the column."""
    return (lambda place: read(place) if column[place].is_valid else None) if column.null_count else read


def load_shell(path: Path) -> PromptShell:
    """Read the prompt shell that all rows share; raises UserError if it is missing, or of another layout."""
    if not (path / SHELL_FILE).is_file():
        raise UserError(f"{path}: no {SHELL_FILE}; run python -m pipeline.pack first")
    shell = json.loads((path / SHELL_FILE).read_text())
    if (layout := shell.pop("layout", 1)) != LAYOUT:
        raise UserError(f"{path}: found packed data of layout {layout}, expected layout {LAYOUT}; pack again")
    return PromptShell(**shell)


def hashes(path: Path) -> dict[str, str]:
    """Return the hash of each shard as packing has stored it, by the shard's path in the folder.

    The shards are not read; only their sizes are checked. Raises UserError if the folder is missing, damaged or of
    another layout, or if a shard is missing or has another size.
    """
    load_shell(path)  # checks the layout
    found = {}
    for split in sorted(state.parent for state in path.glob(f"*/{STATE_FILE}")):
        for shard in _listed(split):
            file = split / shard["filename"]
            size = file.stat().st_size if file.is_file() else 0
            if size != shard[SIZE]:
                raise UserError(
                    f"{file}: found {size:,} bytes, expected {shard[SIZE]:,}; the file is damaged, pack again"
                )
            found[f"{split.name}/{file.name}"] = shard[HASH]
    return found


def fingerprint(path: Path) -> str:
    """Return a hash of the prompt shell and of all shards; raises UserError as `hashes` does."""
    content = {"shell": asdict(load_shell(path)), "shards": hashes(path)}
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def _listed(split: Path) -> list[dict[str, Any]]:
    """Return the shards that state.json of a split lists, with their sizes and hashes."""
    shards: list[dict[str, Any]] = json.loads((split / STATE_FILE).read_text())["_data_files"]
    return shards


def _describe(folder: Path, shards: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write the two files that `datasets` needs to load the folder; it ignores the sizes and hashes of the shards."""
    import datasets

    features = datasets.Features.from_arrow_schema(schema)
    features["audio"] = datasets.Audio(sampling_rate=16_000, decode=False)
    datasets.DatasetInfo(features=features).write_to_directory(str(folder))
    keys = ("_fingerprint", "_format_columns", "_format_kwargs", "_format_type", "_output_all_columns", "_split")
    state: dict[str, Any] = dict.fromkeys(keys) | {"_data_files": list(shards), "_format_kwargs": {}}
    _dump(folder / STATE_FILE, state | {"_fingerprint": folder.name, "_output_all_columns": False})


def _dump(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
