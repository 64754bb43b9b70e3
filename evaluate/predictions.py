"""The tables of predictions: respond writes them, score and report read them.

Every comparison of systems or conditions is paired. So the functions that read these tables check that each system or
condition has the same rows, except those with a wrong clip, which may all lack the same rows. Without this check,
missing rows would make the scores incomparable without any warning.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
WRONG_CLIP = "shuffled"
"""The beginning of the names of systems and conditions with another speaker's clip; some rows have no such clip."""

VOICE, TRANSCRIPT, SHUFFLED = "the clip", "only the transcript", "another speaker's clip of another emotion"
GIVEN = (VOICE, TRANSCRIPT, SHUFFLED)
HEAD, LOGPROB, PROMPTED, LINEAR = "emotion head", "likeliest label", "written answer", "probe of the frozen encoder"

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
"""The systems of the stage respond."""
DEV_HEAD = SYSTEMS[0]
"""The system of the table of dev clips, which has the schema of recognition, too."""
PROBE = System("probe", VOICE, LINEAR)
"""The system of the stage probe, in a table of its own."""

OWN_SYSTEMS = ("voice", "shuffled", "silence", "transcript", "stage1", "told_true", "told_head")
"""What the LLM's own continuations are scored after (evaluate/respond/own_answers.py)."""

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
        ("system", pa.string()),  # name of a system in SYSTEMS, or of PROBE
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
        ("seen_words", pa.bool_()),  # whether a train row of either training stage has the same words
        ("system", pa.string()),  # one of OWN_SYSTEMS
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

_ASKED = (
    ("repeat", pa.int32()),  # from 1; each repeat has another seed
    ("seed", pa.int64()),  # null if the judge's decoding is greedy
    ("judge", pa.string()),  # model and revision of the judge, or a hash of its weights
    ("prompt", pa.string()),  # hash of all that the judge read
    ("reply", pa.string()),  # as the judge wrote it
)
MARKS_SCHEMA = pa.schema(
    [
        *WRITTEN_SCHEMA,
        *_ASKED,
        ("quality", pa.int32()),  # 0 to 10; null if the reply holds no marks
        ("empathy", pa.int32()),  # the same
    ]
)
"""The judge's marks of answers. In the marks of the exam, the corpus is "exam", and each item has its own speaker."""

PAIRS_SCHEMA = pa.schema(
    [
        *WRITTEN_SCHEMA,
        ("other", pa.string()),  # the system whose answer to the same clip is compared
        ("other_answer", pa.string()),
        ("is_first", pa.bool_()),  # whether `answer` was shown as A, and `other_answer` as B
        *_ASKED,
        ("choice", pa.string()),  # one of CHOICES; null if the reply holds no choice
    ]
)
"""The judge's choices between two answers; each two are shown in both orders."""
CHOICES = ("A", "B", "tie")
RANDOM_LABEL, TRUE_LABEL = "random_label", "true_label"
"""Systems of the stage judge: the LLM reads the transcript, and is told a random emotion of the run or the true one."""
EXAM = "exam"
"""The corpus of the rows of the judge's exam."""
WARM, COLD, EQUAL = "warm", "cold", "equal"
"""Systems of the exam: the better answer of a pair, the worse one, and an answer that is compared with itself."""
EXAM_MARKS, EXAM_PAIRS, MARKS, PAIRS = "exam_marks.parquet", "exam_pairs.parquet", "marks.parquet", "pairs.parquet"
"""The tables in the folder of the stage judge."""


def read_divergence(path: Path) -> pa.Table:
    """Read the stage-1 KL; check that every id has its conditions once, a finite KL and possible counts of tokens."""
    table = parquet.read(path, DIVERGENCE_SCHEMA)
    _check_paired(path, table, "condition", CONDITIONS)
    wrong = ~np.isfinite(table["kl"].to_numpy()) | (table["num_tokens"].to_numpy() < 1)
    if wrong.any():
        row = table.slice(int(wrong.argmax()), 1).to_pylist()[0]
        raise UserError(
            f"{path}: {row['id']} ({row['condition']}): found kl {row['kl']} over {row['num_tokens']} tokens, "
            "expected a finite number over at least one"
        )
    agree = table["num_agree"].to_numpy(zero_copy_only=False)
    for row in _first(table, pa.array(~((agree >= 0) & (agree <= table["num_tokens"].to_numpy())))):
        where = f"{path}: {row['id']} ({row['condition']})"
        raise UserError(f"{where}: found num_agree {row['num_agree']}, expected 0 to {row['num_tokens']}, its tokens")
    return table


def read_recognition(
    path: Path, emotions: Collection[str], systems: Sequence[System] = SYSTEMS, *, allow_empty: bool = False
) -> pa.Table:
    """Read the recognised emotions; check that every id has its systems once, labels in `emotions`, finite scores."""
    table = parquet.read(path, RECOGNITION_SCHEMA, allow_empty=allow_empty)
    _check_paired(path, table, "system", [system.name for system in systems])
    _check_labels(path, table, "emotion", emotions)
    _check_labels(path, table, "predicted", [*emotions, None])
    _check_finite(path, table)
    return table


def read_prompts(path: Path, emotions: Collection[str]) -> pa.Table:
    """Read the scores under several prompts; check that every id has every prompt once, and one score of each class."""
    table = parquet.read(path, PROMPTS_SCHEMA)
    _check_paired(path, table, "prompt", sorted(table["prompt"].unique().to_pylist()))
    _check_labels(path, table, "emotion", emotions)
    _check_labels(path, table, "split", ["test", "dev"])
    for row in _first(table, pc.not_equal(pc.fill_null(pc.list_value_length(table["scores"]), -1), len(emotions))):
        raise UserError(f"{path}: {row['id']}: scores: found {row['scores']}, expected {len(emotions)} values")
    _check_finite(path, table)
    return table


def read_own_answers(path: Path, emotions: Collection[str]) -> pa.Table:
    """Read the scores of told continuations; the table may be empty.

    Checks that every id has its systems once, a known emotion, and for each class a finite log-probability.
    """
    table = parquet.read(path, OWN_ANSWERS_SCHEMA, allow_empty=True)
    _check_paired(path, table, "system", OWN_SYSTEMS)
    for row in _first(table, pc.invert(pc.is_in(table["emotion"], value_set=pa.array(emotions, pa.string())))):
        raise UserError(f"{path}: {row['id']}: emotion: found {row['emotion']}, expected one of {', '.join(emotions)}")
    for name in ("logprobs", "num_tokens", "candidates", "named"):
        for row in _first(table, pc.not_equal(pc.fill_null(pc.list_value_length(table[name]), -1), len(emotions))):
            raise UserError(f"{path}: {row['id']}: {name}: found {row[name]}, expected {len(emotions)} values")
    logprobs = np.asarray(pc.list_flatten(table["logprobs"])).reshape(-1, len(emotions))
    for row in _first(table, pa.array(~np.isfinite(logprobs).all(axis=1))):
        raise UserError(f"{path}: {row['id']}: logprobs: found {row['logprobs']}, expected finite numbers")
    return table


def read_written(path: Path) -> pa.Table:
    """Read written answers; check that no value is missing, and that each system has at most one answer to a clip."""
    table = parquet.read(path, WRITTEN_SCHEMA, allow_empty=True)
    for name in table.column_names:
        for row in _first(table, pc.is_null(table[name])):
            raise UserError(f"{path}: {row['id']}: {name}: found no value, expected a text")
    _check_once(path, table, ["system", "id"])
    return table


def read_marks(path: Path) -> pa.Table:
    """Read the judge's marks; check that they are 0 to 10, or both missing. The table may be empty."""
    table = parquet.read(path, MARKS_SCHEMA, allow_empty=True)
    both = pc.equal(pc.is_null(table["quality"]), pc.is_null(table["empathy"]))
    for name in ("quality", "empathy"):
        in_range = pc.and_(pc.greater_equal(table[name], 0), pc.less_equal(table[name], 10))
        for row in _first(table, pc.invert(pc.and_(both, pc.fill_null(in_range, True)))):
            raise UserError(f"{path}: {row['id']}: {name}: found {row[name]}, expected 0 to 10, or no mark at all")
    _check_once(path, table, ["system", "id", "repeat"])
    return table


def read_pairs(path: Path) -> pa.Table:
    """Read the judge's choices; check that each is one of CHOICES or missing. The table may be empty."""
    table = parquet.read(path, PAIRS_SCHEMA, allow_empty=True)
    for row in _first(table, pc.invert(pc.is_in(table["choice"], value_set=pa.array([*CHOICES, None], pa.string())))):
        raise UserError(f"{path}: {row['id']}: choice: found {row['choice']}, expected one of {', '.join(CHOICES)}")
    _check_once(path, table, ["system", "id", "repeat", "is_first"])
    return table


def read_transcripts(path: Path) -> pa.Table:
    """Read Whisper's transcripts; checks that the counts of words are possible."""
    table = parquet.read(path, TRANSCRIPTS_SCHEMA)
    counts = [pc.fill_null(table[name], 0) for name in ("errors", "words")]
    is_wrong = pc.or_(*(pc.less(count, 0) for count in counts))
    for row in _first(table, pc.or_(is_wrong, pc.xor(pc.is_null(table["errors"]), pc.is_null(table["words"])))):
        found = f"found {row['errors']} errors in {row['words']} words"
        raise UserError(f"{path}: {row['id']}: {found}, expected two counts or none")
    return table


def read_semantics(path: Path) -> pa.Table:
    """Read what the stage semantics measured of a model; checks tasks, systems and values."""
    table = parquet.read(path, SEMANTICS_SCHEMA, allow_empty=True)
    for task, systems in SEMANTICS_TASKS.items():
        of_task = table.filter(pc.field("task") == task)
        for row in _first(of_task, pc.invert(pc.is_in(of_task["system"], value_set=pa.array(systems)))):
            found = f"found {row['system']}, expected one of {', '.join(systems)}"
            raise UserError(f"{path}: {row['id']}: {task}: system: {found}")
    for row in _first(table, pc.invert(pc.is_in(table["task"], value_set=pa.array(list(SEMANTICS_TASKS))))):
        found = f"found {row['task']}, expected one of {', '.join(SEMANTICS_TASKS)}"
        raise UserError(f"{path}: {row['id']}: task: {found}")
    finite = [pc.fill_null(pc.is_finite(table[name]), False) for name in ("value", "weight")]
    for row in _first(table, pc.invert(pc.and_(*finite))):
        found = f"found the value {row['value']} of the weight {row['weight']}"
        raise UserError(f"{path}: {row['id']}: {row['task']}: {found}, expected finite numbers")
    return table


def read_examples(path: Path) -> pa.Table:
    """Read the example answers with their audio."""
    return parquet.read(path, EXAMPLES_SCHEMA)


def _first(table: pa.Table, is_wrong: pa.ChunkedArray) -> list[dict[str, Any]]:
    """Return the first wrong row, if there is one."""
    rows: list[dict[str, Any]] = table.take(pc.indices_nonzero(is_wrong)[:1]).to_pylist()
    return rows


def _check_once(path: Path, table: pa.Table, keys: list[str]) -> None:
    """Raise UserError if two rows have the same keys; the ids are among them."""
    counts = table.group_by(keys).aggregate([([], "count_all")])
    for row in _first(counts, pc.greater(counts["count_all"], 1)):
        found = ", ".join(f"{name} {row[name]}" for name in keys if name != "id")
        raise UserError(f"{path}: {row['id']}: found {found} {row['count_all']} times, expected it once")


def _check_labels(path: Path, table: pa.Table, column: str, allowed: Collection[str | None]) -> None:
    is_allowed = pc.is_in(table[column], value_set=pa.array(allowed, pa.string()))
    for row in _first(table, pc.invert(is_allowed)):
        expected = ", ".join(name for name in allowed if name is not None)
        raise UserError(f"{path}: {row['id']}: {column}: found {row[column]}, expected one of {expected}")


def _check_finite(path: Path, table: pa.Table) -> None:
    scores = table["scores"].combine_chunks()
    is_finite = pc.fill_null(pc.is_finite(pc.list_flatten(scores)), False)
    of_row = pc.list_parent_indices(scores).filter(pc.invert(is_finite))
    for row in table.take(of_row[:1]).to_pylist():
        raise UserError(f"{path}: {row['id']}: scores: found {row['scores']}, expected finite numbers")


def _check_paired(path: Path, table: pa.Table, column: str, expected: Sequence[str]) -> None:
    names = pc.fill_null(pc.index_in(table[column], value_set=pa.array(expected, pa.string())), -1).to_numpy()
    ids = table["id"].combine_chunks().dictionary_encode(null_encoding="encode")
    numbers = ids.indices.to_numpy()
    is_twice = np.ones(len(table), bool)
    is_twice[np.unique(numbers * np.int64(1 + len(expected)) + names, return_index=True)[1]] = False
    for row in _first(table, pa.array((names < 0) | is_twice)):
        if row[column] not in expected:
            raise UserError(
                f"{path}: {row['id']}: {column}: found {row[column]}, expected one of {', '.join(expected)}"
            )
        raise UserError(f"{path}: {row['id']}: {column} {row[column]} found twice, expected once")
    has = np.zeros((len(ids.dictionary), len(expected)), bool)
    has[numbers, names] = True
    is_wrong_clip = np.array([name.startswith(WRONG_CLIP) for name in expected])
    with_wrong_clip = has[:, is_wrong_clip].any(axis=1)
    for name, having, is_wrong in zip(expected, has.T, is_wrong_clip.tolist(), strict=True):
        missing = np.flatnonzero(with_wrong_clip & ~having if is_wrong else ~having)
        if len(missing):
            first = min(ids.dictionary.take(pa.array(missing)).to_pylist())
            raise UserError(f"{path}: {first}: found no {column} {name}, expected every {column} for every id")
