"""The store: every answer that an LLM ever wrote, kept by what it answers, outside any workspace.

A shelf holds the answers to one recipe. Its parts are Parquet files that are written whole and never changed, so a
crash costs what no part holds yet, and any number of processes may write at once: they add parts one at a time, under
a lock, and leave out what another has written meanwhile. A further answer to the same key is its next generation;
none is ever deleted.

    $BLSP_STORE/continuations/RECIPE/recipe.json    the recipe in words
    $BLSP_STORE/continuations/RECIPE/parts/*.parquet
"""

import fcntl
import json
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.generate.signature import Recipe
from pipeline.stage import UserError
from pipeline.tables import parquet

KEY = pa.binary(16)
SCHEMA = pa.schema(
    [
        ("key", KEY),
        ("generation", pa.int32()),
        ("transcript", pa.string()),
        ("emotion", pa.string()),  # null where the prompt does not name it
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("continuation", pa.string()),
        ("token_ids", pa.list_(pa.int32())),  # without the end token
        ("finish_reason", pa.string()),
        ("seed", pa.int64()),  # of this generation; null where decoding is greedy
        ("logprob", pa.float64()),  # of the answer and its end token, in nats
        ("top_ids", pa.list_(pa.list_(pa.int32()))),  # at each position, the end token's too, likeliest first
        ("top_logprobs", pa.list_(pa.list_(pa.float32()))),
        ("engine", pa.string()),
        ("hardware", pa.string()),
        ("written_at", pa.timestamp("s", "UTC")),
    ]
)

_INDEX = pa.schema([SCHEMA.field("key"), SCHEMA.field("generation"), ("num_top", pa.int32())])
_STORED_INDEX = pa.schema([SCHEMA.field("key"), SCHEMA.field("generation")])
_SPEED = b"tokens_per_s"
_NUM_TOP = b"num_top"  # likeliest tokens that all answers of a part have at each position


def place() -> Path:
    """Return where the store lies: $BLSP_STORE, or a folder of the user's cache."""
    return Path(os.environ.get("BLSP_STORE") or "~/.cache/blsp-emo/store").expanduser()


def shelves() -> Iterator["Shelf"]:
    """Open the shelf of each recipe in the store; those that another version of this code wrote are named."""
    for note in sorted(place().glob("continuations/*/recipe.json")):
        try:
            recipe = Recipe(**json.loads(note.read_bytes()))
        except (ValueError, TypeError):
            print(f"{note}: not a recipe of this version; its answers are left out", file=sys.stderr)
        else:
            yield Shelf(recipe)


class Shelf:
    """The answers to one recipe; of each part, keys and generations are read once, the rest when it is asked for.

    An answer that was kept with fewer than `num_top` likeliest tokens at a position counts as missing.
    """

    def __init__(self, recipe: Recipe, root: Path | None = None, *, num_top: int = 0) -> None:
        """Open the shelf, which may be empty."""
        self.recipe = recipe
        self.num_top = num_top
        self.folder = (root or place()) / "continuations" / recipe.name
        self._parts: list[Path] = []
        self._indices = [_INDEX.empty_table()]
        self.refresh()

    def refresh(self) -> bool:
        """Take note of the parts that other processes have written since; return whether there are any."""
        known = set(self._parts)
        for part in sorted((self.folder / "parts").glob("[0-9]*.parquet")):
            if part not in known:
                self._add(part, _read(part, _STORED_INDEX), int(_note(part, _NUM_TOP)))
        return len(self._parts) > len(known)

    def known(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return those of `keys` that have an answer."""
        wanted = pa.array(keys, KEY)
        return set(wanted.to_pylist()) - set(self.missing(wanted).to_pylist())

    def missing(self, keys: pa.Array) -> pa.Array:
        """Return those of `keys` that have no answer."""
        index = self._index()
        answered = index["key"].filter(pc.greater_equal(index["num_top"], self.num_top))
        return keys.filter(pc.invert(pc.is_in(keys, value_set=answered.combine_chunks())))

    def read(self, keys: pa.Array, chosen: Mapping[bytes, int], columns: Sequence[str]) -> pa.Table:
        """Return the answer to each of `keys`, in their order, of the generation `chosen` for it or of the first.

        A key without an answer, or a null, has a row of nulls. Raises UserError where a chosen generation is not there,
        or has too few likeliest tokens.
        """
        return self._take(self._find(keys, chosen), columns)

    def first(self, key: bytes) -> int | None:
        """Return the generation that counts where none is chosen; None without an answer."""
        return self.read(pa.array([key], KEY), {}, ["generation"])["generation"][0].as_py()  # type: ignore[no-any-return]

    def _find(self, keys: pa.Array, chosen: Mapping[bytes, int]) -> NDArray[np.int64]:
        """Return the number in the index of the row that `read` takes for each of `keys`; -1 where there is none."""
        index = self._index()
        stored, enough = index["generation"].to_numpy(), index["num_top"].to_numpy() >= self.num_top
        wanted = np.array([chosen.get(key, 0) for key in keys.to_pylist()] if chosen else [0] * len(keys))
        rows = np.full(len(keys), -1)
        for generation in np.unique(stored).tolist():
            candidates = np.flatnonzero(stored == generation)
            their_keys = index["key"].combine_chunks().take(pa.array(candidates))
            at = pc.fill_null(pc.index_in(keys, value_set=their_keys, skip_nulls=True), -1).to_numpy()
            counts = np.where(wanted == 0, (rows < 0) & enough[candidates[at]], wanted == generation)
            here = counts & (at >= 0)
            rows[here] = candidates[at[here]]
        for i in np.flatnonzero((rows < 0) & (wanted != 0))[:1].tolist():
            raise UserError(f"{self.folder}: no generation {wanted[i]} of {keys[i].as_py().hex()}")
        found = np.flatnonzero(rows >= 0)
        for i in found[~enough[rows[found]]][:1].tolist():
            raise UserError(
                f"{self.folder}: generation {wanted[i]} of {keys[i].as_py().hex()}, the chosen one, lacks its "
                f"{self.num_top} likeliest tokens; choose another with --use, or generate with --force"
            )
        return rows

    def append(self, rows: Sequence[Mapping[str, Any]], *, anew: bool = False, tokens_per_s: float = 0.0) -> int:
        """Write answers, all columns but `generation`, as a part; return how many.

        Those that another process has written meanwhile are left out; with `anew` all are written. Each is the next
        generation of its key.
        """
        with self._locked():
            self.refresh()
            there = set() if anew else self.known(row["key"] for row in rows)
            rows = [row for row in rows if row["key"] not in there]
            if not rows:
                return 0
            newest = self.newest([row["key"] for row in rows])
            rows = [{**row, "generation": last + 1} for row, last in zip(rows, newest, strict=True)]
            num_top = min(len(step) for row in rows for step in row["top_ids"] or [()])
            table = parquet.from_rows(rows, SCHEMA)
            # numbered, so that every reader has the rows in the same order
            part = self.folder / "parts" / f"{len(self._parts):08}-{uuid.uuid4().hex[:8]}.parquet"
            notes = {_SPEED: f"{tokens_per_s:.1f}", _NUM_TOP: str(num_top)}
            parquet.write(table.replace_schema_metadata(notes), part)
            self._add(part, table.select(_STORED_INDEX.names), num_top)
        return len(rows)

    def newest(self, keys: Sequence[bytes]) -> list[int]:
        """Return the newest generation of each key, 0 where there is none."""
        index = self._index()
        rows = index.filter(pc.is_in(index["key"], value_set=pa.array(keys, KEY)))
        newest: dict[bytes, int] = {}
        for key, generation in zip(rows["key"].to_pylist(), rows["generation"].to_pylist(), strict=True):
            newest[key] = max(generation, newest.get(key, 0))
        return [newest.get(key, 0) for key in keys]

    def lacking(self, chosen: Mapping[bytes, int]) -> set[bytes]:
        """Return the keys whose chosen generation is not there."""
        index = self._index()
        rows = index.filter(pc.is_in(index["key"], value_set=pa.array(chosen, KEY)))
        there = set(zip(rows["key"].to_pylist(), rows["generation"].to_pylist(), strict=True))
        return {key for key, generation in chosen.items() if (key, generation) not in there}

    def history(self, key: bytes) -> list[dict[str, Any]]:
        """Return all generations of an answer, the first one first."""
        rows = np.flatnonzero(pc.equal(self._index()["key"], pa.scalar(key, KEY)).to_numpy())
        found: list[dict[str, Any]] = self._take(rows, SCHEMA.names).to_pylist()
        return sorted(found, key=lambda row: row["generation"])

    def tokens_per_s(self) -> float | None:
        """Return how fast the newest part was generated; None where nothing was."""
        if not self._parts:
            return None
        return float(_note(self._parts[-1], _SPEED)) or None

    def _add(self, part: Path, index: pa.Table, num_top: int) -> None:
        self._parts.append(part)
        column = pa.array(np.full(len(index), num_top), pa.int32())
        self._indices.append(index.append_column(_INDEX.field("num_top"), column))

    def _index(self) -> pa.Table:
        return pa.concat_tables(self._indices)

    def _take(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Read rows by their number in the index, from the parts that hold some of them; -1 gives nulls."""
        schema = pa.schema([SCHEMA.field(name) for name in columns])
        first = np.cumsum([len(index) for index in self._indices])  # number of each part's first row
        part_of = np.searchsorted(first, rows, side="right") - 1
        tables_read, moved_to, count = [schema.empty_table()], np.zeros_like(first), 0
        for part in np.unique(part_of[rows >= 0]).tolist():
            moved_to[part] = count - first[part]
            tables_read.append(_read(self._parts[part], schema))
            count += len(tables_read[-1])
        positions = np.where(rows >= 0, rows + moved_to[part_of], 0)
        return pa.concat_tables(tables_read).take(pa.array(positions, mask=rows < 0))

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Tell, while it lasts, whether no other process is writing answers to this shelf."""
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
        """Keep other writers out; what a killed one left half written goes."""
        parts = self.folder / "parts"
        parts.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for partial in parts.glob(".*.partial"):
                partial.unlink()
            if not (note := self.folder / "recipe.json").exists():
                with parquet.whole(note) as partial:
                    partial.write_text(json.dumps(asdict(self.recipe), indent=2, ensure_ascii=False) + "\n")
            yield


def _read(part: Path, schema: pa.Schema) -> pa.Table:
    try:
        return pq.read_table(part, columns=schema.names).select(schema.names).cast(schema)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{part}: not readable ({error}); delete it, and its rows are generated again") from None


def _note(part: Path, name: bytes) -> bytes:
    """Return what a part says of itself, 0 where it does not."""
    return (pq.read_schema(part).metadata or {}).get(name, b"0")  # type: ignore[no-any-return]
