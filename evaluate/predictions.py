"""The tables of predictions: respond writes them, score and report read them.

Every comparison of systems or conditions is paired. So the functions that read these tables check that each system or
condition has the same rows, except those with a wrong clip, which may all lack the same rows. A baseline may be absent,
but not for some of the rows. Without this check, missing rows would make the scores incomparable without any warning.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluate.table_checks import check_finite, check_labels, check_once, check_one_of_each, check_paired, first
from pipeline.stage import UserError
from pipeline.tables import parquet


@dataclass(frozen=True, slots=True)
class System:
    """A way to predict the emotion of a clip; the end of its name says how the answer is read."""

    name: str
    given: str


CONDITIONS = ("before", "after", "shuffled")
"""Conditions of the stage-1 KL: before training, after it, and after it with another speaker's clip."""

VOICE, TRANSCRIPT, SHUFFLED = "the clip", "only the transcript", "another speaker's clip of another emotion"
SILENCE, WHISPER = "silence as long as the clip", "only Whisper's transcript"

SYSTEMS = (
    System("head", VOICE),
    System("logprob", VOICE),
    System("prompted", VOICE),
    System("transcript_logprob", TRANSCRIPT),
    System("transcript_prompted", TRANSCRIPT),
    System("shuffled_head", SHUFFLED),
    System("shuffled_logprob", SHUFFLED),
    System("shuffled_prompted", SHUFFLED),
)
"""The systems of the stage respond."""
BASELINES = (
    System("silence_logprob", SILENCE),
    System("heard_logprob", WHISPER),
    System("heard_prompted", WHISPER),
)
"""More systems of the stage respond; a table may lack one, for example if Whisper has not transcribed the clips."""
DEV_HEAD = SYSTEMS[0]
"""The system of the table of dev clips, which has the schema of recognition, too."""
PROBE = System("probe", VOICE)
"""The system of the stage probe, in a table of its own."""

OWN_SYSTEMS = ("voice", "shuffled", "silence", "transcript", "stage1", "told_true", "told_head")
"""What the LLM's own continuations are scored after (evaluate/respond/own_answers.py)."""
OWN_BASELINES = ("heard", "heard_told_head")
"""More such systems, with Whisper's transcript; a table may lack them."""
OWN_PROMPTED = ("prompted_head", "prompted_true", "prompted_even", "shuffled_prompted_head")
"""More such systems, with an emotion prompt; a table may lack them."""

DIVERGENCE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("condition", pa.string()),  # one of CONDITIONS
        ("kl", pa.float64()),  # nats per continuation token at temperature 1: mean over the row's tokens
        ("num_tokens", pa.int32()),
        ("num_agree", pa.int32()),  # tokens for which speech and transcript have the same likeliest token
    ]
)

RECOGNITION_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("emotion", pa.string()),  # true emotion of the row's own clip, even if another clip was given
        ("system", pa.string()),  # name of a system in SYSTEMS or BASELINES, or of PROBE
        ("answer", pa.string()),  # null if the system writes no answer
        ("predicted", pa.string()),  # null if the answer names no label
        ("scores", pa.list_(pa.float64())),  # log-probabilities in the order of the classes; or null
    ]
)

PROMPTS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("emotion", pa.string()),
        ("split", pa.string()),  # test or dev
        ("prompt", pa.string()),  # WORDING-ORDER, both numbers from 0; 0-0 is the prompt of the other systems
        (
            "scores",
            pa.list_(pa.float64()),
        ),  # log-probabilities of the labels, in the order of the classes
    ]
)

OWN_ANSWERS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("emotion", pa.string()),  # true emotion of the row's own clip, even if another clip was given
        ("text", pa.string()),
        (
            "seen_words",
            pa.bool_(),
        ),  # whether a train row of either training stage, or an emotion prompt, has the same words
        ("system", pa.string()),  # one of OWN_SYSTEMS, OWN_BASELINES or OWN_PROMPTED
        # of the told continuations, in the order of the classes:
        ("logprobs", pa.list_(pa.float64())),  # log-probability of the continuation and its end token, in nats
        ("num_tokens", pa.list_(pa.int32())),  # number of these tokens
        ("candidates", pa.list_(pa.int32())),  # number of the candidate; equal continuations are one candidate
        ("named", pa.list_(pa.bool_())),  # whether the continuation contains a word for an emotion
    ]
)

TRANSCRIPTS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("kind", pa.string()),  # the packed data: semantic or emotion
        ("language", pa.string()),
        ("text", pa.string()),  # the transcript of the corpus, or null
        ("heard", pa.string()),  # what Whisper writes
        ("errors", pa.int32()),  # word errors of `heard` after normalisation; null without a transcript
        ("words", pa.int32()),  # words of `text` after normalisation; null without a transcript
    ]
)

SEMANTICS_TASKS = {
    "repeat": ("voice", "transcript", "shuffled", "whisper"),
    "answers": ("voice", "shuffled"),
    "answers_cosine": ("voice", "shuffled"),
    "instructions": ("voice", "transcript"),
    "text_alone": ("transcript",),
}
"""Tasks of the stage semantics, and their systems: what is given, or whose words are compared with the transcript."""

SEMANTICS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),  # "instructions" in this task
        ("speaker", pa.string()),  # in the task instructions, the instruction: its questions resemble each other
        ("model", pa.string()),  # name of the model's folder
        ("task", pa.string()),  # a key of SEMANTICS_TASKS
        ("system", pa.string()),  # one of the task's systems
        ("prompt", pa.string()),  # hash of the prompt around the clip or the transcript
        ("answer", pa.string()),  # null in the task text_alone
        # repeat: word errors. answers: F1 of words, or cosine, with the LLM's answer to the transcript. instructions:
        # 1 if the answer complies, else 0. text_alone: largest difference from the LLM's own logits.
        ("value", pa.float64()),
        ("weight", pa.float64()),  # repeat: words of the transcript; otherwise 1
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

WRITTEN_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("emotion", pa.string()),  # true emotion of the row's own clip
        ("text", pa.string()),  # transcript of the row's own clip
        ("system", pa.string()),
        ("answer", pa.string()),
    ]
)
"""Written answers of any systems to clips, for the stage judge."""
OWN_WRITTEN_SCHEMA = pa.schema(
    [
        *WRITTEN_SCHEMA,
        ("continuations", pa.list_(pa.string())),  # told continuations of the transcript, in the order of the classes
    ]
)
"""Written answers of the stage respond."""


def read_divergence(path: Path) -> pa.Table:
    """Read the stage-1 KL; check that every id has its conditions once, a finite KL and possible counts of tokens."""
    table = parquet.read(path, DIVERGENCE_SCHEMA)
    check_paired(path, table, "condition", CONDITIONS)
    wrong = ~np.isfinite(table["kl"].to_numpy()) | (table["num_tokens"].to_numpy() < 1)
    if wrong.any():
        row = table.slice(int(wrong.argmax()), 1).to_pylist()[0]
        raise UserError(
            f"{path}: {row['id']} ({row['condition']}): found kl {row['kl']} over {row['num_tokens']} tokens, "
            "expected a finite number over at least one"
        )
    agree = table["num_agree"].to_numpy(zero_copy_only=False)
    for row in first(table, pa.array(~((agree >= 0) & (agree <= table["num_tokens"].to_numpy())))):
        where = f"{path}: {row['id']} ({row['condition']})"
        raise UserError(f"{where}: found num_agree {row['num_agree']}, expected 0 to {row['num_tokens']}, its tokens")
    return table


def read_recognition(
    path: Path, emotions: Collection[str], systems: Sequence[System] = SYSTEMS, *, allow_empty: bool = False
) -> pa.Table:
    """Read the recognised emotions; check that every id has its systems once, labels in `emotions`, finite scores.

    A table of SYSTEMS may have BASELINES, too.
    """
    table = parquet.read(path, RECOGNITION_SCHEMA, allow_empty=allow_empty)
    baselines = [system.name for system in BASELINES] if systems == SYSTEMS else []
    check_paired(path, table, "system", [system.name for system in systems], baselines)
    check_labels(path, table, "emotion", emotions)
    check_labels(path, table, "predicted", [*emotions, None])
    check_finite(path, table)
    return table


def read_prompts(path: Path, emotions: Collection[str]) -> pa.Table:
    """Read the scores under several prompts; check that every id has every prompt once, and one score of each class."""
    table = parquet.read(path, PROMPTS_SCHEMA)
    check_paired(path, table, "prompt", sorted(table["prompt"].unique().to_pylist()))
    check_labels(path, table, "emotion", emotions)
    check_labels(path, table, "split", ["test", "dev"])
    check_one_of_each(path, table, "scores", len(emotions))
    check_finite(path, table)
    return table


def read_own_answers(path: Path, emotions: Collection[str]) -> pa.Table:
    """Read the scores of told continuations; the table may be empty.

    Checks that every id has its systems once, a known emotion, and for each class a finite log-probability.
    """
    table = parquet.read(path, OWN_ANSWERS_SCHEMA, allow_empty=True)
    check_paired(path, table, "system", OWN_SYSTEMS, [*OWN_BASELINES, *OWN_PROMPTED])
    for row in first(table, pc.invert(pc.is_in(table["emotion"], value_set=pa.array(emotions, pa.string())))):
        raise UserError(f"{path}: {row['id']}: emotion: found {row['emotion']}, expected one of {', '.join(emotions)}")
    for name in ("logprobs", "num_tokens", "candidates", "named"):
        check_one_of_each(path, table, name, len(emotions))
    logprobs = np.asarray(pc.list_flatten(table["logprobs"])).reshape(-1, len(emotions))
    for row in first(table, pa.array(~np.isfinite(logprobs).all(axis=1))):
        raise UserError(f"{path}: {row['id']}: logprobs: found {row['logprobs']}, expected finite numbers")
    return table


def read_written(path: Path, schema: pa.Schema = WRITTEN_SCHEMA) -> pa.Table:
    """Read written answers; check that no value is missing, and that each system has at most one answer to a clip."""
    table = parquet.read(path, schema, allow_empty=True)
    for name in table.column_names:
        for row in first(table, pc.is_null(table[name])):
            raise UserError(f"{path}: {row['id']}: {name}: found no value, expected a text")
    check_once(path, table, ["system", "id"])
    return table


def read_own_written(path: Path, emotions: Collection[str]) -> pa.Table:
    """Read the written answers of respond; checks as `read_written`, and that there is a continuation of each class."""
    table = read_written(path, OWN_WRITTEN_SCHEMA)
    check_labels(path, table, "emotion", emotions)
    check_one_of_each(path, table, "continuations", len(emotions))
    return table


def read_transcripts(path: Path) -> pa.Table:
    """Read Whisper's transcripts; checks that the counts of words are possible."""
    table = parquet.read(path, TRANSCRIPTS_SCHEMA)
    counts = [pc.fill_null(table[name], 0) for name in ("errors", "words")]
    is_wrong = pc.or_(*(pc.less(count, 0) for count in counts))
    for row in first(table, pc.or_(is_wrong, pc.xor(pc.is_null(table["errors"]), pc.is_null(table["words"])))):
        found = f"found {row['errors']} errors in {row['words']} words"
        raise UserError(f"{path}: {row['id']}: {found}, expected two counts or none")
    return table


def read_semantics(path: Path) -> pa.Table:
    """Read what the stage semantics measured of a model; checks tasks, systems and values."""
    table = parquet.read(path, SEMANTICS_SCHEMA, allow_empty=True)
    for task, systems in SEMANTICS_TASKS.items():
        of_task = table.filter(pc.field("task") == task)
        for row in first(of_task, pc.invert(pc.is_in(of_task["system"], value_set=pa.array(systems)))):
            found = f"found {row['system']}, expected one of {', '.join(systems)}"
            raise UserError(f"{path}: {row['id']}: {task}: system: {found}")
    for row in first(table, pc.invert(pc.is_in(table["task"], value_set=pa.array(list(SEMANTICS_TASKS))))):
        found = f"found {row['task']}, expected one of {', '.join(SEMANTICS_TASKS)}"
        raise UserError(f"{path}: {row['id']}: task: {found}")
    finite = [pc.fill_null(pc.is_finite(table[name]), False) for name in ("value", "weight")]
    for row in first(table, pc.invert(pc.and_(*finite))):
        found = f"found the value {row['value']} of the weight {row['weight']}"
        raise UserError(f"{path}: {row['id']}: {row['task']}: {found}, expected finite numbers")
    return table


def read_examples(path: Path) -> pa.Table:
    """Read the example answers with their audio."""
    return parquet.read(path, EXAMPLES_SCHEMA)
