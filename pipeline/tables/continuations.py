"""Tables of continuations: those that generate writes, and those that filter keeps or drops.

The token ids of an answer do not include the end token; the finish reason says whether there was one.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

STOP = "stop"
"""The LLM ended its turn by itself."""
LENGTH = "length"
"""The answer was cut at generate.max_new_tokens."""
PROMPT_TOO_LONG = "prompt too long"
"""Nothing was generated: the prompt leaves no room for an answer in generate.max_model_len."""
NO_TRANSCRIPT = "no transcript"
"""Nothing was generated: the corpus publishes no transcript."""
NO_EMOTION = "no emotion"
"""Nothing was generated: the prompt names the emotion, and the utterance has none of the run's classes."""
NOT_GENERATED = (PROMPT_TOO_LONG, NO_TRANSCRIPT, NO_EMOTION)

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # id of the manifest's row
        ("key", pa.string()),  # key of the prompt in the store, in hexadecimal; null if there is no prompt
        ("text_ids", pa.list_(pa.int32())),  # the tokens of the transcript; empty if there is none
        ("num_prompt_tokens", pa.int32()),  # length of the prompt; null if there is no prompt
        ("continuation", pa.string()),  # the decoded answer, stripped of white space at its ends
        ("token_ids", pa.list_(pa.int32())),  # the tokens of the answer, without the end token
        ("finish_reason", pa.string()),  # one of the five above
        ("end_id", pa.int32()),  # the end token; null if there is none, or if the engine did not say which one it was
        ("engine", pa.string()),  # name and version, as in "vllm 0.32.0"
        ("logprob", pa.float64()),  # log-probability of the answer and its end token, in nats
        ("generation", pa.int32()),  # number of the attempt, from 1: the store may have several
        ("agreement", pa.float64()),  # probability that the LLM gives to the row's emotion; null if it was not asked
    ]
)

SIGNALS_SCHEMA = pa.schema(
    [
        ("top_ids", pa.list_(pa.list_(pa.int32()))),  # the LLM's likeliest tokens at each position, end token included
        ("top_logprobs", pa.list_(pa.list_(pa.float32()))),  # their log-probabilities, in nats
    ]
)
"""Teacher signals: additional columns, written only if generate.store_logprobs is above 0.

They are null if nothing was generated.
"""

KEPT_SCHEMA = SCHEMA.append(pa.field("echo", pa.float64()))  # share of the answer that repeats the transcript
DROPPED_SCHEMA = KEPT_SCHEMA.append(pa.field("reason", pa.string())).append(pa.field("score", pa.float64()))

TOLD_SCHEMA = pa.schema(
    [
        ("text", pa.string()),  # a transcript of dev or test
        ("emotion", pa.string()),  # the emotion that the prompt names: each class of the run
        *(
            SCHEMA.field(name)
            for name in SCHEMA.names
            if name not in ("id", "text_ids", "num_prompt_tokens", "agreement")
        ),
    ]
)
"""The told continuations: the LLM's answers to a transcript for each emotion, whatever the speaker's emotion is."""


def response_ids(answer: Mapping[str, Any], end_id: int) -> list[int]:
    """Return the continuation's ids, with the end token only if the LLM ended the continuation itself.

    `end_id` is the end token if the answer does not say which one it was.
    """
    if answer["finish_reason"] != STOP:
        return list(answer["token_ids"])
    return [*answer["token_ids"], end_id if answer["end_id"] is None else answer["end_id"]]
