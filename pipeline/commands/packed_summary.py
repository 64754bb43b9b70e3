"""Summarise a packed folder: what is in each split."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.mono_16k import SAMPLE_RATE_HZ
from pipeline.commands.text_tables import lay_out
from pipeline.stage import UserError
from pipeline.tables import manifest, packed

_READ = ["corpus", "speaker", "emotion", "num_samples", "num_speech_tokens", "num_text_tokens", "num_response_tokens"]


@dataclass(frozen=True, slots=True)
class PackedSplit:
    """The size of a split of packed rows."""

    split: str
    rows: int
    continuations: int
    """Rows with a continuation."""
    speech_tokens: int
    text_tokens: int
    """Tokens of the transcripts."""
    response_tokens: int
    """Tokens of the continuations, with their end tokens."""
    files: int
    megabytes: float


def summarise(path: Path) -> tuple[list[PackedSplit], pa.Table]:
    """Return the size of each split, and a table with corpus, split, speaker, duration_s and emotion of each row.

    Raises UserError if the folder is not a packed one.
    """
    splits, tables = [], []
    for name in manifest.SPLITS:
        if not (path / name).is_dir():
            continue
        loaded = packed.load(path, name, allow_empty=True)
        rows = pa.table({column: loaded.column(column) for column in _READ})
        shards = sorted((path / name).glob("*.arrow"))
        sums = {column: pc.sum(rows[column]).as_py() or 0 for column in _READ if column.endswith("_tokens")}
        splits.append(
            PackedSplit(
                split=name,
                rows=len(rows),
                continuations=pc.sum(pc.greater(rows["num_response_tokens"], 0)).as_py() or 0,
                speech_tokens=sums["num_speech_tokens"],
                text_tokens=sums["num_text_tokens"],
                response_tokens=sums["num_response_tokens"],
                files=len(shards),
                megabytes=sum(shard.stat().st_size for shard in shards) / 1e6,
            )
        )
        columns = {
            "corpus": rows["corpus"],
            "split": pa.array([name] * len(rows), pa.string()),
            "speaker": rows["speaker"],
            "duration_s": pc.divide(pc.cast(rows["num_samples"], pa.float64()), float(SAMPLE_RATE_HZ)),
            "emotion": rows["emotion"],
        }
        tables.append(pa.table(columns))
    if not splits:
        raise UserError(f"{path}: found no packed split; expected a folder that python -m pipeline.pack wrote")
    return splits, pa.concat_tables(tables)


def describe(splits: list[PackedSplit]) -> str:
    """Lay out the splits as plain text."""
    header = ["split", "rows", "continuations", "speech tokens", "transcript tokens", "response tokens", "files", "MB"]
    rows = [
        [
            each.split,
            *(f"{count:,}" for count in (each.rows, each.continuations, each.speech_tokens, each.text_tokens)),
            *(f"{each.response_tokens:,}", f"{each.files:,}", f"{each.megabytes:,.1f}"),
        ]
        for each in splits
    ]
    return lay_out([header, *rows])
