"""Tables of continuations: what generate writes and what filter keeps and drops.

The ids of an answer come without the token that ended it; whether there was one says the finish reason.
"""

import pyarrow as pa

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

KEPT_SCHEMA = SCHEMA.append(pa.field("echo", pa.float64()))  # share of the answer that repeats the transcript
DROPPED_SCHEMA = KEPT_SCHEMA.append(pa.field("reason", pa.string())).append(pa.field("score", pa.float64()))
