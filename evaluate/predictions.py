"""The tables of predictions: respond writes them, score and report read them.

Every comparison of systems or conditions is paired. So the functions that read these tables check that each system or
condition has the same rows. Without this check, missing rows would make the scores incomparable without any warning.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.stage import UserError
from pipeline.tables import parquet


@dataclass(frozen=True, slots=True)
class System:
    """A way to predict the emotion of a clip: its input, and the way its answer is read."""

    name: str
    given: str
    read_by: str


CONDITIONS = ("before", "after", "shuffled")
"""Conditions of the stage-1 KL: before training, after it, and after it with another speaker's clip."""

VOICE, TRANSCRIPT, SHUFFLED = "the clip", "only the transcript", "another speaker's clip of another emotion"
GIVEN = (VOICE, TRANSCRIPT, SHUFFLED)
HEAD, LOGPROB, PROMPTED = "emotion head", "likeliest label", "written answer"

SYSTEMS = (
    System("head", VOICE, HEAD),
    System("logprob", VOICE, LOGPROB),
    System("prompted", VOICE, PROMPTED),
    System("transcript_logprob", TRANSCRIPT, LOGPROB),
    System("transcript_prompted", TRANSCRIPT, PROMPTED),
    System("shuffled_head", SHUFFLED, HEAD),
    System("shuffled_logprob", SHUFFLED, LOGPROB),
    System("shuffled_prompted", SHUFFLED, PROMPTED),
)

DIVERGENCE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("condition", pa.string()),  # one of CONDITIONS
        ("kl", pa.float64()),  # nats per continuation token at temperature 1: mean over the row's tokens
        ("num_tokens", pa.int32()),
    ]
)

RECOGNITION_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("emotion", pa.string()),  # true emotion of the row's own clip, even if another clip was given
        ("system", pa.string()),  # name of a system in SYSTEMS
        ("answer", pa.string()),  # null if the system writes no answer
        ("predicted", pa.string()),  # null if the answer names no label
        ("scores", pa.list_(pa.float64())),  # log-probabilities in the order of the classes; or null
    ]
)

EXAMPLES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("emotion", pa.string()),
        ("text", pa.string()),
        ("audio", pa.binary()),  # FLAC, 16 kHz, mono
        ("predicted", pa.string()),  # by the emotion head
        ("voice_answer", pa.string()),  # the model's answer to the voice
        ("transcript_answer", pa.string()),  # the LLM's answer to the transcript
        ("target", pa.string()),  # the LLM's continuation; its prompt named the emotion
    ]
)


def read_divergence(path: Path) -> pa.Table:
    """Read the stage-1 KL; check that every id has each condition once, a finite KL and at least one token."""
    table = parquet.read(path, DIVERGENCE_SCHEMA)
    _check_paired(path, table, "condition", CONDITIONS)
    wrong = ~np.isfinite(table["kl"].to_numpy()) | (table["num_tokens"].to_numpy() < 1)
    if wrong.any():
        row = table.slice(int(wrong.argmax()), 1).to_pylist()[0]
        raise UserError(
            f"{path}: {row['id']} ({row['condition']}): found kl {row['kl']} over {row['num_tokens']} tokens, "
            "expected a finite number over at least one"
        )
    return table


def read_recognition(path: Path, emotions: Collection[str]) -> pa.Table:
    """Read the recognised emotions; check that every id has each system once and only labels in `emotions`."""
    table = parquet.read(path, RECOGNITION_SCHEMA)
    _check_paired(path, table, "system", [system.name for system in SYSTEMS])
    for column, allowed in (("emotion", {*emotions}), ("predicted", {*emotions, None})):
        for id_, label in zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True):
            if label not in allowed:
                raise UserError(f"{path}: {id_}: {column}: found {label}, expected one of {', '.join(emotions)}")
    return table


def read_examples(path: Path) -> pa.Table:
    """Read the example answers with their audio."""
    return parquet.read(path, EXAMPLES_SCHEMA)


def _check_paired(path: Path, table: pa.Table, column: str, expected: Collection[str]) -> None:
    names, ids = table[column].to_pylist(), table["id"].to_pylist()
    seen: dict[str, set[str]] = {name: set() for name in expected}
    for name, id_ in zip(names, ids, strict=True):
        if name not in seen:
            raise UserError(f"{path}: {id_}: {column}: found {name}, expected one of {', '.join(expected)}")
        if id_ in seen[name]:
            raise UserError(f"{path}: {id_}: {column} {name} found twice, expected once")
        seen[name].add(id_)
    every = set(ids)
    for name in expected:
        if missing := every - seen[name]:
            raise UserError(f"{path}: {min(missing)}: found no {column} {name}, expected every {column} for every id")
