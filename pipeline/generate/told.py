"""Transcripts or sentences, each once for each emotion: the prompts of the told continuations.

Training continues a transcript for the emotion of its speaker. The evaluation asks which of the LLM's continuations of
a transcript the voice chooses, so it needs one for each emotion that the LLM may be told: for each transcript of dev
and test. An emotion prompt is learnt from such continuations of sentences without speech (docs/emotion-prompt.md).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stage import UserError, say
from pipeline.tables import manifest, parquet, sentences
from pipeline.tables.continuations import TOLD_SCHEMA

_SPLITS = manifest.SPLITS[1:]
_READ = pa.schema([manifest.SCHEMA.field(name) for name in ("text", "emotion", "split")])


def read_transcripts(path: Path, kind: str, classes: Sequence[str]) -> pa.Table:
    """Return utterances with id, text and emotion: each distinct transcript of dev and test with each of `classes`.

    The id is the transcript. Rows without a transcript, or without an emotion of the run, ask for nothing; they are
    counted and told.
    """
    _check_kind("--told", kind)
    rows = parquet.read(path, _READ)
    rows = rows.filter(pc.is_in(rows["split"], value_set=pa.array(_SPLITS)))
    has_text = pc.fill_null(pc.not_equal(rows["text"], ""), False)
    has_emotion = pc.is_in(rows["emotion"], value_set=pa.array(classes, pa.string()))
    texts = pc.unique(rows["text"].filter(pc.and_(has_text, has_emotion))).sort()
    no_text = pc.sum(pc.invert(has_text), min_count=0).as_py()
    no_emotion = pc.sum(pc.and_(has_text, pc.invert(has_emotion)), min_count=0).as_py()
    say(
        f"generate {kind}: {len(texts):,} distinct transcripts of {len(rows):,} dev and test rows, each with "
        f"{len(classes)} emotions; left out {no_text:,} rows without a transcript, {no_emotion:,} without an emotion"
    )
    return _with_each(texts, classes)


def read_sentences(path: Path, kind: str, classes: Sequence[str]) -> pa.Table:
    """Return utterances as `read_transcripts` does, from the table of the stage sentences, which may be empty."""
    _check_kind("--sentences", kind)
    texts = parquet.read(path, sentences.SCHEMA, allow_empty=True)["text"].combine_chunks()
    return _with_each(texts, classes)


def _with_each(texts: pa.Array, classes: Sequence[str]) -> pa.Table:
    text = texts.take(pa.array(np.arange(len(texts)).repeat(len(classes))))
    return pa.table({"id": text, "text": text, "emotion": pa.array([*classes] * len(texts), pa.string())})


def _check_kind(option: str, kind: str) -> None:
    if kind != "emotion":
        raise UserError(f"{option}: found --kind {kind}, expected emotion, whose prompt names an emotion")


def told_table(utterances: pa.Table, answers: pa.Table) -> pa.Table:
    """Return the table of told continuations from utterances and their continuations, in the same order."""
    columns = {name: utterances[name] for name in ("text", "emotion")}
    return pa.table({name: columns[name] if name in columns else answers[name] for name in TOLD_SCHEMA.names})
