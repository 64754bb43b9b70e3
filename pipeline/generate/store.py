"""The store: all answers that an LLM has written. It is outside every checkout.

An AnswerStore holds the answers of one signature. Its shards are Parquet files. Each is written whole and never
changed. So a crash loses only the answers that are not yet in a shard. Any number of processes may write at once: they
add shards one at a time, under a lock, and leave out answers that another process has added meanwhile. A further answer
to a key is its next attempt; the column `generation` counts attempts from 1. No answer is ever deleted.

    $BLSP_STORE/continuations/SIGNATURE/recipe.json    the fields of the signature
    $BLSP_STORE/continuations/SIGNATURE/parts/*.parquet    the shards
"""

import fcntl
import json
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.generate.signature import Signature
from pipeline.stage import UserError, printable
from pipeline.tables import parquet

KEY = pa.binary(16)
SCHEMA = pa.schema(
    [
        ("key", KEY),
        ("generation", pa.int32()),  # number of the attempt, from 1
        ("transcript", pa.string()),
        ("emotion", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("text_ids", pa.list_(pa.int32())),
        ("continuation", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("end_id", pa.int32()),
        ("seed", pa.int64()),
        ("logprob", pa.float64()),
        ("top_ids", pa.list_(pa.list_(pa.int32()))),
        ("top_logprobs", pa.list_(pa.list_(pa.float32()))),
        ("engine", pa.string()),
        ("hardware", pa.string()),
        ("written_at", pa.timestamp("s", "UTC")),
    ]
)

_NEW = ("text_ids", "end_id")  # columns that earlier shards lack
_INDEX = pa.schema([SCHEMA.field("key"), SCHEMA.field("generation"), ("num_top", pa.int32())])
_STORED_INDEX = pa.schema([SCHEMA.field("key"), SCHEMA.field("generation")])
_SPEED = b"tokens_per_s"
_NUM_TOP = b"num_top"  # number of likeliest tokens that every answer of a shard has at each position


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """An answer for the store: all columns of SCHEMA except the number of the attempt."""

    key: bytes
    transcript: str
    emotion: str | None
    """None if the prompt does not name the emotion."""
    prompt_token_ids: Sequence[int]
    text_ids: Sequence[int] | None = None
    """Those of the prompt's ids that are the transcript; None if they are not known."""
    continuation: str
    token_ids: Sequence[int]
    """Without the end token."""
    finish_reason: str
    end_id: int | None = None
    """The end token; None if the answer was cut, or if the engine did not say which token ended it."""
    seed: int | None
    """Seed of this attempt; None if decoding is greedy."""
    logprob: float | None
    """Log-probability of the answer and its end token, in nats."""
    top_ids: Sequence[Sequence[int]] | None
    """Tokens at each position, the likeliest first; the end token's position is included."""
    top_logprobs: Sequence[Sequence[float]] | None
    engine: str
    hardware: str
    written_at: datetime


_FIELDS = tuple(field.name for field in fields(StoredAnswer))


def store_folder() -> Path:
    """Return the folder of the store: $BLSP_STORE, or a folder in the user's cache."""
    return Path(os.environ.get("BLSP_STORE") or "~/.cache/blsp-emo/store").expanduser()


def open_all() -> Iterator["AnswerStore"]:
    """Open the answers of each signature in the store; print a line for those that another version has written."""
    for note in sorted(store_folder().glob("continuations/*/recipe.json")):
        try:
            signature = Signature(**json.loads(note.read_bytes()))
        except (ValueError, TypeError):
            print(f"{printable(str(note))}: not a signature of this version; its answers are left out", file=sys.stderr)
        else:
            yield AnswerStore(signature)


class AnswerStore:
    """The answers of one signature. Keys and attempts are read at the start, other columns when they are needed.

    An answer that was stored with fewer than `num_top` likeliest tokens at a position counts as missing.
    """

    def __init__(self, signature: Signature, root: Path | None = None, *, num_top: int = 0) -> None:
        """Open the folder of the signature below `root`, by default the store; it may be empty."""
        self.signature = signature
        self.num_top = num_top
        self.folder = (root or store_folder()) / "continuations" / signature.name
        self._shards: list[Path] = []
        self._indices = [_INDEX.empty_table()]
        self.refresh()

    def refresh(self) -> bool:
        """Read the index of shards that other processes have written since; return whether there are any."""
        known = set(self._shards)
        for shard in sorted((self.folder / "parts").glob("[0-9]*.parquet")):
            if shard not in known:
                self._add(shard, _read(shard, _STORED_INDEX), int(_note(shard, _NUM_TOP)))
        return len(self._shards) > len(known)

    def known(self, keys: pa.Array) -> set[bytes]:
        """Return the keys that have an answer."""
        return set(keys.filter(self._has(keys)).to_pylist())

    def missing(self, keys: pa.Array) -> pa.Array:
        """Return the keys that have no answer."""
        return keys.filter(pc.invert(self._has(keys)))

    def _has(self, keys: pa.Array) -> pa.Array:
        index = self._index()
        answered = index["key"].filter(pc.greater_equal(index["num_top"], self.num_top))
        return pc.is_in(keys, value_set=answered.combine_chunks())

    def read(self, keys: pa.Array, chosen: Mapping[bytes, int], columns: Sequence[str]) -> pa.Table:
        """Return the answer to each key, in the order of the keys: the `chosen` attempt, or else the first one.

        A key without an answer gives a row of nulls, and so does a null. Raises UserError if a chosen attempt is
        missing, or has too few likeliest tokens.
        """
        return self._take(self._find(keys, chosen), columns)

    def first(self, key: bytes) -> int | None:
        """Return the attempt that counts if none is chosen; None without an answer."""
        return self.read(pa.array([key], KEY), {}, ["generation"])["generation"][0].as_py()  # type: ignore[no-any-return]

    def _find(self, keys: pa.Array, chosen: Mapping[bytes, int]) -> NDArray[np.int64]:
        """Return the row of the index that `read` takes for each key; -1 if there is none."""
        index = self._index()
        stored, enough = index["generation"].to_numpy(), index["num_top"].to_numpy() >= self.num_top
        wanted = np.array([chosen.get(key, 0) for key in keys.to_pylist()] if chosen else [0] * len(keys))
        rows = np.full(len(keys), -1)
        for attempt in np.unique(stored).tolist():
            candidates = np.flatnonzero(stored == attempt)
            their_keys = index["key"].combine_chunks().take(pa.array(candidates))
            found = pc.fill_null(pc.index_in(keys, value_set=their_keys, skip_nulls=True), -1).to_numpy()
            counts = np.where(wanted == 0, (rows < 0) & enough[candidates[found]], wanted == attempt)
            here = counts & (found >= 0)
            rows[here] = candidates[found[here]]
        self._check(keys, wanted, rows, enough)
        return rows

    def _check(
        self, keys: pa.Array, wanted: NDArray[np.int64], rows: NDArray[np.int64], enough: NDArray[np.bool_]
    ) -> None:
        """Raise UserError if a wanted attempt is missing, or has too few likeliest tokens."""
        for i in np.flatnonzero((rows < 0) & (wanted != 0))[:1].tolist():
            raise UserError(f"{self.folder}: no attempt {wanted[i]} of {keys[i].as_py().hex()}")
        found = np.flatnonzero(rows >= 0)
        for i in found[~enough[rows[found]]][:1].tolist():
            raise UserError(
                f"{self.folder}: the chosen attempt {wanted[i]} of {keys[i].as_py().hex()} lacks its {self.num_top} "
                "likeliest tokens; choose another attempt with --use, or generate with --force"
            )

    def append(self, answers: Sequence[StoredAnswer], *, anew: bool = False, tokens_per_s: float = 0.0) -> int:
        """Write answers as a shard, each as the next attempt of its key; return their number.

        Answers that another process has written meanwhile are left out; with `anew` all are written.
        """
        with self._locked():
            self.refresh()
            known = set() if anew else self.known(pa.array((answer.key for answer in answers), KEY))
            answers = [answer for answer in answers if answer.key not in known]
            if not answers:
                return 0
            newest = self.newest([answer.key for answer in answers])
            rows = [
                {name: getattr(answer, name) for name in _FIELDS} | {"generation": last + 1}
                for answer, last in zip(answers, newest, strict=True)
            ]
            num_top = min(len(step) for answer in answers for step in answer.top_ids or [()])
            table = parquet.from_rows(rows, SCHEMA)
            # the number gives every reader the same order of rows
            shard = self.folder / "parts" / f"{len(self._shards):08}-{uuid.uuid4().hex[:8]}.parquet"
            notes = {_SPEED: f"{tokens_per_s:.1f}", _NUM_TOP: str(num_top)}
            parquet.write(table.replace_schema_metadata(notes), shard)
            self._add(shard, table.select(_STORED_INDEX.names), num_top)
        return len(answers)

    def newest(self, keys: Sequence[bytes]) -> list[int]:
        """Return the number of each key's newest attempt; 0 if there is none."""
        index = self._index()
        rows = index.filter(pc.is_in(index["key"], value_set=pa.array(keys, KEY)))
        newest: dict[bytes, int] = {}
        for key, attempt in zip(rows["key"].to_pylist(), rows["generation"].to_pylist(), strict=True):
            newest[key] = max(attempt, newest.get(key, 0))
        return [newest.get(key, 0) for key in keys]

    def lacking(self, chosen: Mapping[bytes, int]) -> set[bytes]:
        """Return the keys whose chosen attempt is missing."""
        index = self._index()
        rows = index.filter(pc.is_in(index["key"], value_set=pa.array(chosen, KEY)))
        stored = set(zip(rows["key"].to_pylist(), rows["generation"].to_pylist(), strict=True))
        return {key for key, attempt in chosen.items() if (key, attempt) not in stored}

    def history(self, key: bytes) -> list[dict[str, Any]]:
        """Return all attempts of an answer, the first one first."""
        rows = np.flatnonzero(pc.equal(self._index()["key"], pa.scalar(key, KEY)).to_numpy())
        found: list[dict[str, Any]] = self._take(rows, SCHEMA.names).to_pylist()
        return sorted(found, key=lambda row: row["generation"])

    def tokens_per_s(self) -> float | None:
        """Return the rate at which the newest shard was generated; None if there is no shard."""
        if not self._shards:
            return None
        return float(_note(self._shards[-1], _SPEED)) or None

    def _add(self, shard: Path, index: pa.Table, num_top: int) -> None:
        self._shards.append(shard)
        column = pa.array(np.full(len(index), num_top), pa.int32())
        self._indices.append(index.append_column(_INDEX.field("num_top"), column))

    def _index(self) -> pa.Table:
        return pa.concat_tables(self._indices)

    def _take(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Read rows of the index by their number from the shards that hold them; -1 gives nulls."""
        schema = pa.schema([SCHEMA.field(name) for name in columns])
        first = np.cumsum([len(index) for index in self._indices])  # number of each shard's first row
        shard_of = np.searchsorted(first, rows, side="right") - 1
        tables_read, moved_to, count = [schema.empty_table()], np.zeros_like(first), 0
        for shard in np.unique(shard_of[rows >= 0]).tolist():
            moved_to[shard] = count - first[shard]
            tables_read.append(_read(self._shards[shard], schema))
            count += len(tables_read[-1])
        positions = np.where(rows >= 0, rows + moved_to[shard_of], 0)
        return pa.concat_tables(tables_read).take(pa.array(positions, mask=rows < 0))

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Yield whether this process is the only one that writes answers of this signature."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "writing").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other writers out, and remove the unfinished file of a writer that was killed."""
        shards = self.folder / "parts"
        shards.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for partial in shards.glob(".*.partial"):
                partial.unlink()
            if not (note := self.folder / "recipe.json").exists():
                with parquet.whole(note) as partial:
                    partial.write_text(json.dumps(self.signature.content, indent=2, ensure_ascii=False) + "\n")
            yield


def _read(shard: Path, schema: pa.Schema) -> pa.Table:
    try:
        found = pq.read_schema(shard).names
        new = [name for name in _NEW if name in schema.names and name not in found]
        table = pq.read_table(shard, columns=[name for name in schema.names if name not in new])
        for name in new:
            table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{shard}: not readable ({error}); delete it, and generate writes its answers again") from None


def _note(shard: Path, name: bytes) -> bytes:
    """Return a note in a shard's metadata; 0 if there is none."""
    return (pq.read_schema(shard).metadata or {}).get(name, b"0")  # type: ignore[no-any-return]
