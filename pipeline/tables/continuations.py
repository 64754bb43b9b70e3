"""Tables of continuations: what generate writes and what filter keeps and drops.

The ids of an answer come without the token that ended it; whether there was one says the finish reason.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tables import parquet

STOP = "stop"
"""The LLM ended its turn by itself."""
LENGTH = "length"
"""The answer was cut at generate.max_new_tokens."""
PROMPT_TOO_LONG = "prompt too long"
"""Nothing was generated: the prompt leaves no room for an answer in generate.max_model_len."""
NO_TRANSCRIPT = "no transcript"
"""Nothing was generated: the corpus publishes none."""
NO_EMOTION = "no emotion"
"""Nothing was generated: the prompt names the emotion, and the utterance has none, or none of the run's classes."""
NOT_GENERATED = (PROMPT_TOO_LONG, NO_TRANSCRIPT, NO_EMOTION)

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # of the manifest's row
        ("continuation", pa.string()),  # the decoded answer, stripped of white space at its ends
        ("token_ids", pa.list_(pa.int32())),  # the answer as the LLM gave it, without the end token
        ("finish_reason", pa.string()),  # one of the five above
        ("engine", pa.string()),  # name and version, as in "vllm 0.32.0"
        ("logprob", pa.float64()),  # of the answer with its end token, in nats, as the LLM itself finds it
        ("generation", pa.int32()),  # counts the answers that the store has to the same prompt, from 1
        ("agreement", pa.float64()),  # P(the row's emotion), as the LLM finds it in the answer; null where not asked
    ]
)

SIGNALS_SCHEMA = pa.schema(
    [
        ("top_ids", pa.list_(pa.list_(pa.int32()))),  # the LLM's likeliest tokens at each position of the answer and of
        ("top_logprobs", pa.list_(pa.list_(pa.float32()))),  # the token that ended it; natural logarithms
    ]
)
"""Teacher signals: further columns where generate.store_logprobs is above 0; null where nothing was generated."""

KEPT_SCHEMA = SCHEMA.append(pa.field("echo", pa.float64()))  # share of the answer that repeats the transcript
DROPPED_SCHEMA = KEPT_SCHEMA.append(pa.field("reason", pa.string())).append(pa.field("score", pa.float64()))


def read_signals(path: Path, ids: pa.ChunkedArray) -> pa.Table | None:
    """Return the teacher signals of the rows of these ids, in their order; None where the table has none."""
    if "top_ids" not in parquet.columns(path):
        return None
    found = parquet.read(path, pa.schema([SCHEMA.field("id"), *SIGNALS_SCHEMA]))
    rows = pc.index_in(ids, value_set=found["id"].combine_chunks())
    return found.select(SIGNALS_SCHEMA.names).take(rows)


def with_signals(rows: pa.Table, path: Path) -> pa.Table:
    """Append the teacher signals that the table at `path` has of these rows."""
    signals = read_signals(path, rows["id"])
    if signals is None:
        return rows
    for name in SIGNALS_SCHEMA.names:
        rows = rows.append_column(SIGNALS_SCHEMA.field(name), signals[name])
    return rows
