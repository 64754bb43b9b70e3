"""The answers to judge: those of the LLM that is told an emotion, and those of other systems, to the same clips."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from evaluate.judge.questions import ask_marks, ask_pair
from evaluate.judge.replies import Asked
from evaluate.judge_tables import RANDOM_LABEL, TRUE_LABEL
from evaluate.predictions import WRITTEN_SCHEMA
from pipeline.stage import UserError
from pipeline.tables.continuations import NOT_GENERATED

_CLIP = ["id", "corpus", "speaker", "emotion", "text"]


def answered_clips(clips: pa.Table, written: pa.Table) -> pa.Table:
    """Return the clips that every system of `written` has answered, so that all systems are judged on the same clips.

    Raises UserError if two systems have the name of one of the bounds, or if a row of `written` has another emotion or
    transcript than its clip.
    """
    systems = written["system"].unique().to_pylist()
    for system in {RANDOM_LABEL, TRUE_LABEL} & {*systems}:
        raise UserError(f"written answers: found a system {system}, expected another name: the judge uses this one")
    joined = written.join(clips.select(_CLIP), "id", join_type="inner", right_suffix="_of_clip")
    for name in ("emotion", "text"):
        different = joined.filter(pc.not_equal(joined[name], joined[f"{name}_of_clip"])).sort_by("id")
        for row in different.slice(0, 1).to_pylist():
            raise UserError(
                f"written answers: {row['id']} of {row['system']}: {name}: found {row[name]!r}, expected "
                f"{row[f'{name}_of_clip']!r}, as in the test rows"
            )
    for system in systems:
        clips = clips.filter(pc.is_in(clips["id"], value_set=written["id"].filter(pc.equal(written["system"], system))))
    return clips


def draw(clips: pa.Table, rows: int, seed: int) -> pa.Table:
    """Draw up to `rows` clips of each corpus, ordered by id.

    A clip's place in the draw depends on nothing but its id and the seed, so a larger draw has all clips of a smaller.
    """
    places = np.array(
        [xxhash.xxh3_64_intdigest(f"{seed} {key}".encode()) for key in clips["id"].to_pylist()], np.uint64
    )
    order = np.argsort(places, kind="stable")
    corpora = clips["corpus"].combine_chunks().dictionary_encode().indices.to_numpy()[order]
    drawn = [order[corpora == corpus][:rows] for corpus in np.unique(corpora)]
    return clips.take(pa.array(np.concatenate([np.zeros(0, np.int64), *drawn]))).sort_by("id")


def told_answers(clips: pa.Table, told: pa.Table, emotions: Sequence[str], seed: int) -> pa.Table:
    """Return the LLM's answers to the transcripts of clips if it is told the true emotion, or a random one.

    The random one may be the true one, so that a system that guesses the emotion is at this bound.
    """
    told = told.filter(pc.is_in(told["text"], value_set=clips["text"]))
    told = told.filter(pc.invert(pc.is_in(told["finish_reason"], value_set=pa.array(NOT_GENERATED))))
    answers = {(row["text"], row["emotion"]): row["continuation"] for row in told.to_pylist()}
    rows = []
    for clip in clips.select(_CLIP).to_pylist():
        drawn = emotions[xxhash.xxh3_64_intdigest(f"{seed} emotion {clip['id']}".encode()) % len(emotions)]
        for system, emotion in ((RANDOM_LABEL, drawn), (TRUE_LABEL, clip["emotion"])):
            if (clip["text"], emotion) not in answers:
                raise UserError(
                    f"{clip['id']}: found no told continuation of {clip['text']!r} for {emotion}, expected one, as for "
                    "all clips of own answers"
                )
            rows.append({**clip, "system": system, "answer": answers[clip["text"], emotion]})
    return pa.Table.from_pylist(rows, WRITTEN_SCHEMA)


def ask_about(answers: pa.Table, repeats: int) -> tuple[list[Asked], list[Asked]]:
    """Return the questions about the marks of all answers, and those that compare each with that to a random label."""
    rows = answers.sort_by([("system", "ascending"), ("id", "ascending")]).to_pylist()
    others = {row["id"]: row["answer"] for row in rows if row["system"] == RANDOM_LABEL}
    marks = [asked for row in rows for asked in ask_for_marks(row, repeats)]
    compared = [row for row in rows if row["system"] != RANDOM_LABEL]
    pairs = (ask_for_choices(row, RANDOM_LABEL, others[row["id"]], repeats) for row in compared)
    return marks, list(chain.from_iterable(pairs))


def ask_for_marks(row: Mapping[str, Any], repeats: int) -> Iterator[Asked]:
    """Ask for the marks of a written answer."""
    for repeat in range(1, repeats + 1):
        yield Asked(row, ask_marks(row["text"], row["emotion"], row["answer"], repeat))


def ask_for_choices(row: Mapping[str, Any], other: str, other_answer: str, repeats: int) -> Iterator[Asked]:
    """Ask in both orders whether a written answer is better than another system's."""
    about = {**row, "other": other, "other_answer": other_answer}
    text, emotion, answer = row["text"], row["emotion"], row["answer"]
    for repeat in range(1, repeats + 1):
        yield Asked({**about, "is_first": True}, ask_pair(text, emotion, answer, other_answer, repeat))
        yield Asked({**about, "is_first": False}, ask_pair(text, emotion, other_answer, answer, repeat))
