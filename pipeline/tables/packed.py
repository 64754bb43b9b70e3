"""Packed data: the folder that training and evaluation read, mapped into memory.

`datasets.load_from_disk` loads the folder with its splits train, dev and test. A row contains the clip as 16 kHz mono
FLAC, and token ids. The prompt around them, the prompt shell, is the same for all rows and is stored once, in
frame.json. The shards are Arrow IPC streams. They are written in small batches, so packing needs constant memory.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from pipeline.stage import UserError

if TYPE_CHECKING:
    import datasets

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("emotion", pa.string()),
        ("text", pa.string()),
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),  # FLAC, 16 kHz, mono
        ("num_samples", pa.int32()),
        ("text_ids", pa.list_(pa.int32())),  # the transcript
        ("response_ids", pa.list_(pa.int32())),  # the continuation with its end token, if it has one; or empty
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptShell:
    """The token ids around the content of a row: before + speech or transcript + after + response."""

    before_speech: list[int]
    before_text: list[int] | None
    """None in stage 2: its text prompt names the row's emotion, and is not used in training."""
    after: list[int]


class Writer:
    """Writes a packed folder beside `path`, and moves it to `path` when it is complete."""

    def __init__(self, path: Path, shell: PromptShell, rows_per_shard: int, schema: pa.Schema = SCHEMA) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")
        self.shell = shell
        self.rows_per_shard = rows_per_shard
        self.schema = schema
        self.splits: list[str] = []

    def __enter__(self) -> Self:
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, _value: object, _trace: TracebackType | None) -> None:
        if kind is None:
            _dump(self.partial / SHELL_FILE, asdict(self.shell))
            _dump(self.partial / "dataset_dict.json", {"splits": self.splits})
            shutil.rmtree(self.path, ignore_errors=True)
            os.replace(self.partial, self.path)
        shutil.rmtree(self.partial, ignore_errors=True)

    def write(self, split: str, rows: Iterable[Mapping[str, Any]]) -> int:
        """Write all rows of a split; return their number."""
        folder = self.partial / split
        folder.mkdir()
        num_rows, num_shards = 0, 0
        sink = self._shard(folder, num_shards)
        for batch in _batched(rows, min(ROWS_PER_BATCH, self.rows_per_shard)):
            if num_rows >= (num_shards + 1) * self.rows_per_shard:
                sink.close()
                num_shards += 1
                sink = self._shard(folder, num_shards)
            sink.write_table(pa.Table.from_pylist(batch, schema=self.schema))
            num_rows += len(batch)
        sink.close()
        _describe(folder, num_shards + 1, self.schema)
        self.splits.append(split)
        return num_rows

    def _shard(self, folder: Path, number: int) -> pa.RecordBatchStreamWriter:
        return pa.ipc.new_stream(folder / f"data-{number:05d}.arrow", self.schema)


def load(path: Path, split: str, *, allow_empty: bool = False) -> "datasets.Dataset":
    """Map a split into memory; raises UserError if the folder or the split is missing or empty."""
    import datasets

    if not (path / split / "state.json").is_file():
        raise UserError(f"{path}: no packed split {split}; run python -m pipeline.pack first")
    dataset = datasets.load_from_disk(path / split)
    assert isinstance(dataset, datasets.Dataset)
    if len(dataset) == 0 and not allow_empty:
        raise UserError(f"{path}: the split {split} is empty; expected at least one row")
    return dataset


def load_shell(path: Path) -> PromptShell:
    """Read the prompt shell that all rows share."""
    if not (path / SHELL_FILE).is_file():
        raise UserError(f"{path}: no {SHELL_FILE}; run python -m pipeline.pack first")
    return PromptShell(**json.loads((path / SHELL_FILE).read_text()))


def _describe(folder: Path, num_shards: int, schema: pa.Schema) -> None:
    """Write the two files that `datasets` needs to load the folder."""
    import datasets

    features = datasets.Features.from_arrow_schema(schema)
    features["audio"] = datasets.Audio(sampling_rate=16_000, decode=False)
    datasets.DatasetInfo(features=features).write_to_directory(str(folder))
    shards = [{"filename": f"data-{i:05d}.arrow"} for i in range(num_shards)]
    keys = ("_fingerprint", "_format_columns", "_format_kwargs", "_format_type", "_output_all_columns", "_split")
    state: dict[str, Any] = dict.fromkeys(keys) | {"_data_files": shards, "_format_kwargs": {}}
    _dump(folder / "state.json", state | {"_fingerprint": folder.name, "_output_all_columns": False})


def _batched(rows: Iterable[Mapping[str, Any]], size: int) -> Iterable[list[Mapping[str, Any]]]:
    batch: list[Mapping[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _dump(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
