"""The published folder: Parquet shards in `data/`, the facts that rebuild needs, and the columns of a published row.

The shards are named as on the Hugging Face hub, `data/train-00000-of-00002.parquet`: the hub shows and streams Parquet,
but no Arrow streams, and Croissant describes its columns. Row groups are small, so that single rows are cheap to read.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stage import UserError, replace_folder
from pipeline.tables import packed, parquet

LAYOUT = 1
FACTS_FILE = "publish.json"
"""Marks a folder that publish has written."""
CARD_FILE, CROISSANT_FILE, SCRIPT_FILE, DATA = "README.md", "croissant.json", "rebuild.py", "data"
FILES = {FACTS_FILE, CARD_FILE, CROISSANT_FILE, SCRIPT_FILE, DATA, packed.SHELL_FILE}
ROWS_PER_GROUP = 100

SIGNALS = ("top_ids", "top_logprobs")
ADDED = pa.schema(
    [
        ("response_pointers", pa.list_(pa.int32())),  # a withheld continuation (pointers.py); null if there is none
        ("withheld", pa.list_(pa.string())),  # the columns whose values are withheld
        ("packed_hash", pa.string()),  # SHA-256 of the packed row, with its clip, without continuation and signals
        ("response_hash", pa.string()),  # SHA-256 of the clip and the continuation
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What rebuild needs to know about the packed folder."""

    kind: str
    splits: dict[str, int]
    """Number of rows of each split. One without rows has no shards: `datasets` cannot load an empty split."""
    has_signals: bool
    """Whether the packed rows have the columns of teacher signals."""
    shard_mb: int
    """pack.shard_mb of who published."""


def schema(has_signals: bool) -> pa.Schema:
    """Return the columns of a published row."""
    return pa.schema([*(packed.SCHEMA_WITH_SIGNALS if has_signals else packed.SCHEMA), *ADDED])


def hashes(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes of a packed row. The clip is in both, so that nobody can try out short transcripts."""
    clip = row["audio"]["bytes"]
    response = ("response_ids", "num_response_tokens")
    left_out = {"audio", *response, *SIGNALS, *ADDED.names}
    contents = {
        "packed_hash": {name: value for name, value in row.items() if name not in left_out},
        "response_hash": {name: row[name] for name in response},
    }
    return {
        name: hashlib.sha256(clip + json.dumps(content, sort_keys=True).encode()).hexdigest()
        for name, content in contents.items()
    }


class SplitWriter:
    """Writes the shards of a split; a shard ends with the row that reaches `shard_bytes` of audio."""

    def __init__(self, folder: Path, split: str, columns: pa.Schema, shard_bytes: int) -> None:
        import datasets

        features = datasets.Features.from_arrow_schema(columns)
        features["audio"] = datasets.Audio(sampling_rate=16_000)
        self.schema = columns.with_metadata(features.arrow_schema.metadata)  # the hub and `datasets` read it
        self.folder, self.split, self.shard_bytes = folder, split, shard_bytes
        self.shards: list[Path] = []
        self.waiting: list[Mapping[str, Any]] = []
        self._next_shard()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        if self.num_bytes >= self.shard_bytes:
            self._close_shard()
            self._next_shard()
        self.waiting.append(row)
        self.num_bytes += len(row["audio"]["bytes"]) if row["audio"] else 0
        if len(self.waiting) == ROWS_PER_GROUP:
            self._write()

    def close(self) -> list[Path]:
        """Finish the split, and return its shards in order."""
        self._close_shard()
        total = len(self.shards)
        return [
            shard.rename(self.folder / f"{self.split}-{number:05d}-of-{total:05d}.parquet")
            for number, shard in enumerate(self.shards)
        ]

    def _write(self) -> None:
        if self.waiting:
            self.writer.write_table(pa.Table.from_pylist(self.waiting, schema=self.schema))
            self.waiting = []

    def _next_shard(self) -> None:
        self.shards.append(self.folder / f".{self.split}-{len(self.shards):05d}")
        self.writer = pq.ParquetWriter(self.shards[-1], self.schema, compression="zstd", use_dictionary=["corpus"])
        self.num_bytes = 0

    def _close_shard(self) -> None:
        self._write()
        self.writer.close()


def check_target(path: Path) -> None:
    """Raise UserError unless `path` is free, or holds only what publish has written there."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path}: found a file or a link; expected a new folder, or one that publish has written")
    if path.exists():
        found = {each.name for each in path.iterdir()}
        if FACTS_FILE not in found or found - FILES:
            other = min(found - FILES, default="nothing")
            raise UserError(f"{path}: found {other}; expected a new folder, or one with only what publish has written")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; when it is complete, it replaces `path`."""
    path = path.absolute()
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / DATA).mkdir(parents=True)
        yield partial
        replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_facts(folder: Path, facts: Facts) -> None:
    """Write publish.json."""
    content = {"layout": LAYOUT, **asdict(facts)}
    (folder / FACTS_FILE).write_text(json.dumps(content, indent=1) + "\n")


def read_facts(folder: Path) -> Facts:
    """Read publish.json; raises UserError if it is missing, or of another layout."""
    if not (folder / FACTS_FILE).is_file():
        raise UserError(f"{folder}: no {FACTS_FILE}; expected a folder that python -m pipeline publish has written")
    content = json.loads((folder / FACTS_FILE).read_text())
    if (layout := content.pop("layout")) != LAYOUT:
        raise UserError(f"{folder}: found the layout {layout}, expected {LAYOUT}; use the version that published it")
    return Facts(**content)


def rows(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """Yield the published rows of a split that has some; raises UserError if a shard is missing or damaged."""
    shards = sorted((folder / DATA).glob(f"{split}-*-of-*.parquet"))
    total = int(shards[0].stem.rpartition("-")[2]) if shards else 1
    if len(shards) != total:
        raise UserError(f"{folder / DATA}: found {len(shards)} shards of {split}, expected {total}")
    for shard in shards:
        with parquet.readable(shard), pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP):
                yield from batch.to_pylist()
