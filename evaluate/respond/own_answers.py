"""Stage 2 on held-out speakers: which of the LLM's own continuations does the voice make likeliest?

The LLM has continued each transcript once for each emotion that it was told (pipeline/generate/told.py). Each of these
continuations gets its log-probability after the clip of a row, and after the controls:

    voice       the model of stage 2, with the row's own clip
    shuffled    as voice, with another speaker's clip of another emotion; of the same words if there is one
    silence     as voice, with zeros that are as long as the clip
    transcript  as voice, with the transcript in place of the clip
    heard       as transcript, with Whisper's transcript of the clip, if the stage transcribe has written it
    stage1      the model of stage 1, with the row's own clip
    told_true   as stage1, but the prompt names the row's emotion: what the LLM does with an emotion that it knows
    told_head   as stage1, but the prompt names the emotion that stage 2's head hears: stage 2 has to beat this cascade
    heard_told_head
                as told_head, with Whisper's transcript in place of the clip: a cascade without a trained LLM

If there is an emotion prompt (train/emotion_prompt.py), its embeddings stand before the clip in these systems:

    prompted_head  as stage1, with the emotions mixed by the probabilities of stage 2's head
    prompted_true  as stage1, with the row's emotion
    prompted_even  as stage1, with all emotions mixed evenly: what the prompt does without an emotion
    shuffled_prompted_head
                   as prompted_head, with the clip of `shuffled` and what the head hears in it

Each distinct question is asked once. So if the words are the same, the scores after a shuffled clip are those that this
clip has in its own row.

To some clips, the answers of WRITTEN_SYSTEMS are also written out. They may be as long as the longest continuation.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evaluate.asking.clip_choice import choose_clips
from evaluate.asking.finished import FinishedBatches
from evaluate.asking.shuffled_clips import wrong_clips
from evaluate.emotion_named import label
from evaluate.predictions import OWN_ANSWERS_SCHEMA, OWN_WRITTEN_SCHEMA
from evaluate.respond.own_queries import Answered, Asker, Found, Query
from evaluate.respond.params import RespondParams
from evaluate.respond.recognition import check_finite
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError, say
from pipeline.tables import packed, parquet
from pipeline.tables.continuations import NOT_GENERATED, TOLD_SCHEMA, response_ids
from pipeline.weights.source import fetch
from train.emotion_prompt import load_prompt
from train.model_config import load_config
from train.side_by_side import Answer

Row = dict[str, Any]
"""What is known of a packed row: _ABOUT."""

Systems = dict[str, dict[int, Query]]
"""system -> number of the row -> what the model is given"""

WRITTEN_SYSTEMS = ("voice", "transcript", "told_head", "heard_told_head", "prompted_head")
"""The systems whose answers are written out."""

_ABOUT = ("id", "corpus", "speaker", "emotion", "text", "num_speech_tokens")
_CLIP = ("id", "corpus", "speaker", "emotion", "text")


class Tables(NamedTuple):
    """The tables of own answers."""

    scores: pa.Table
    """OWN_ANSWERS_SCHEMA"""
    written: pa.Table
    """OWN_WRITTEN_SCHEMA"""


@dataclass(frozen=True, slots=True)
class Told:
    """The continuations of a transcript, in the order of the classes."""

    answers: list[Answer]
    named: list[bool]
    """Whether a continuation contains a word for an emotion."""

    @property
    def candidates(self) -> list[int]:
        """The number of each continuation's candidate; equal continuations are one candidate."""
        numbers = {answer: number for number, answer in enumerate(dict.fromkeys(self.answers))}
        return [numbers[answer] for answer in self.answers]


def read_told(path: Path, emotions: Sequence[str], end_id: int) -> dict[str, Told]:
    """Read the told continuations by transcript, without the transcripts that lack one.

    `end_id` ends an answer whose end token is not known. Raises UserError if the table has other emotions.
    """
    table = parquet.read(path, TOLD_SCHEMA, allow_empty=True)
    found = pc.unique(table["emotion"]).to_pylist()
    if found and set(found) != set(emotions):
        expected = f"expected the classes of the model: {', '.join(emotions)}"
        raise UserError(f"{path}: found continuations for {', '.join(found)}; {expected}")
    by_text: dict[str, dict[str, Row]] = {}
    for row in table.to_pylist():
        if row["finish_reason"] not in NOT_GENERATED:
            by_text.setdefault(row["text"], {})[row["emotion"]] = row
    return {
        text: Told(
            answers=[tuple(response_ids(of_text[emotion], end_id)) for emotion in emotions],
            named=[label(of_text[emotion]["continuation"], emotions) is not None for emotion in emotions],
        )
        for text, of_text in by_text.items()
        if len(of_text) == len(emotions)
    }


def measure(
    stage1: Path,
    stage2: Path,
    rows: packed.Rows,
    told_file: Path,
    trained: Sequence[packed.Rows],
    whisper_texts: Mapping[str, str] | None,
    prompt: Prompt,
    settings: RespondParams,
    finished: FinishedBatches,
    prompt_folder: Path | None = None,
) -> Tables:
    """Return the tables of own answers of test rows; only one model is in memory at a time.

    The words of the rows `trained`, and of the sentences of an emotion prompt, count as seen in training.
    `whisper_texts` are Whisper's transcripts by id. A row whose transcript lacks a continuation for an emotion is left
    out; these rows are counted and told.
    """
    config = load_config(stage2)
    if (llm := load_config(stage1).models.llm) != config.models.llm:
        raise UserError(f"{stage1}: found a model of the LLM {llm.source}, expected {config.models.llm.source}")
    learnt = None if prompt_folder is None else load_prompt(prompt_folder, config.models.llm, config.emotions)
    prompter = Prompter.load(fetch(config.models.llm))
    told = read_told(told_file, config.emotions, prompter.end_id)
    usable = rows.select(np.flatnonzero(pc.is_in(rows.column("text"), value_set=pa.array(told, pa.string()))))
    if missing := len(rows) - len(usable):
        found = f"{missing:,} of {len(rows):,} test clips have no continuation for each emotion"
        say(f"respond: own answers: {found}; they are left out")
    if not len(usable):
        return Tables(OWN_ANSWERS_SCHEMA.empty_table(), OWN_WRITTEN_SCHEMA.empty_table())
    about: list[Row] = pa.table({name: usable.column(name) for name in _ABOUT}).to_pylist()
    seen = {text for split in trained for text in split.column("text").unique().to_pylist()}
    if learnt is not None:
        seen |= learnt[1].known(row["text"] for row in about)
    answers = {text: of_text.answers for text, of_text in told.items()}
    chosen = choose_clips([f"{row['corpus']} {row['emotion']}" for row in about], settings.written, settings.seed)

    def ask(folder: Path, systems: Systems) -> Found:
        queries = [query for of_system in systems.values() for query in of_system.values()]
        written = {systems[name][number] for name in WRITTEN_SYSTEMS if name in systems for number in chosen}
        emotion_prompt = None if learnt is None else learnt[0]
        return Asker(folder, usable, answers, prompt, settings, finished, emotion_prompt).ask(queries, written)

    of_stage2 = systems_of_stage2(about, whisper_texts, settings.seed)
    by_stage2 = ask(stage2, of_stage2)
    heads = {number: np.array(scores) for number, scores in by_stage2.heads.items()}
    named = {number: config.emotions[int(scores.argmax())] for number, scores in heads.items()}
    of_stage1 = systems_of_stage1(about, whisper_texts, named)
    if learnt is not None:
        of_stage1 |= systems_of_prompt(about, heads, config.emotions, settings.seed)
    by_stage1 = ask(stage1, of_stage1)
    both = ((of_stage2, by_stage2.answers), (of_stage1, by_stage1.answers))
    scores = (_table(about, told, seen, systems, found) for systems, found in both)
    written = (_written(about, told, prompter, chosen, systems, found) for systems, found in both)
    return Tables(pa.concat_tables(scores), pa.concat_tables(written))


def systems_of_stage2(rows: Sequence[Row], whisper_texts: Mapping[str, str] | None, seed: int) -> Systems:
    """Return what each system gives to the model of stage 2 in place of each row."""
    systems = {
        "voice": {number: Query(row["text"], clip=number) for number, row in enumerate(rows)},
        "shuffled": {number: Query(rows[number]["text"], clip=clip) for number, clip in shuffled(rows, seed).items()},
        "silence": {number: Query(row["text"], silence=row["num_speech_tokens"]) for number, row in enumerate(rows)},
        "transcript": {number: Query(row["text"], given=row["text"]) for number, row in enumerate(rows)},
    }
    return systems if whisper_texts is None else systems | {"heard": _of_whisper(rows, whisper_texts)}


def systems_of_stage1(
    rows: Sequence[Row], whisper_texts: Mapping[str, str] | None, heads: Mapping[int, str]
) -> Systems:
    """Return what each system gives to the model of stage 1; `heads` are the emotions that stage 2's head hears."""
    own = {number: Query(row["text"], clip=number) for number, row in enumerate(rows)}
    systems = {
        "stage1": own,
        "told_true": {number: query._replace(told=rows[number]["emotion"]) for number, query in own.items()},
        "told_head": {number: query._replace(told=heads[number]) for number, query in own.items()},
    }
    if whisper_texts is not None:
        queries = _of_whisper(rows, whisper_texts).items()
        systems["heard_told_head"] = {number: query._replace(told=heads[number]) for number, query in queries}
    return systems


def systems_of_prompt(
    rows: Sequence[Row], heads: Mapping[int, NDArray[np.float64]], emotions: Sequence[str], seed: int
) -> Systems:
    """Return what each system with an emotion prompt gives to the model of stage 1.

    `heads` are the log-probabilities of the emotions that stage 2's head gives to the clip of each row.
    """
    one_hot = np.eye(len(emotions)).tolist()
    mixtures = {number: tuple(np.exp(scores).tolist()) for number, scores in heads.items()}
    true = {number: tuple(one_hot[emotions.index(row["emotion"])]) for number, row in enumerate(rows)}
    even = (1 / len(emotions),) * len(emotions)
    clips = shuffled(rows, seed)
    return {
        "prompted_head": {n: Query(row["text"], clip=n, mixture=mixtures[n]) for n, row in enumerate(rows)},
        "prompted_true": {n: Query(row["text"], clip=n, mixture=true[n]) for n, row in enumerate(rows)},
        "prompted_even": {n: Query(row["text"], clip=n, mixture=even) for n, row in enumerate(rows)},
        "shuffled_prompted_head": {
            n: Query(rows[n]["text"], clip=clip, mixture=mixtures[clip]) for n, clip in clips.items()
        },
    }


def _of_whisper(rows: Sequence[Row], whisper_texts: Mapping[str, str]) -> dict[int, Query]:
    return {number: Query(row["text"], given=whisper_texts[row["id"]]) for number, row in enumerate(rows)}


def shuffled(rows: Sequence[Row], seed: int) -> dict[int, int]:
    """Return the row whose clip each row is given: of another speaker and emotion, and if possible of the same words.

    A row for which there is no such clip is left out.
    """
    differ = ("speaker", "emotion")
    pools = [row | {"corpus": (row["corpus"], row["text"])} for row in rows]
    same_words = {
        n: clip for n, clip in wrong_clips(pools, differ, seed) if pools[n]["corpus"] == pools[clip]["corpus"]
    }
    return dict(wrong_clips(rows, differ, seed)) | same_words


def _table(
    rows: Sequence[Row],
    told: Mapping[str, Told],
    seen: Collection[str],
    systems: Systems,
    answers: Mapping[Query, Answered],
) -> pa.Table:
    made = []
    for system, queries in systems.items():
        for number, query in queries.items():
            row, of_text, (scores, _) = rows[number], told[query.text], answers[query]
            check_finite(f"respond: own answers, {system}", [scores], [row["id"]])
            made.append(
                {name: row[name] for name in _CLIP}
                | {"system": system, "logprobs": scores, "seen_words": row["text"] in seen}
                | {"num_tokens": [len(answer) for answer in of_text.answers]}
                | {"candidates": of_text.candidates, "named": of_text.named}
            )
    return parquet.from_rows(made, OWN_ANSWERS_SCHEMA)


def _written(
    rows: Sequence[Row],
    told: Mapping[str, Told],
    prompter: Prompter,
    chosen: Sequence[int],
    systems: Systems,
    answers: Mapping[Query, Answered],
) -> pa.Table:
    """Return the written answers of systems to the chosen rows; continuations are decoded as written answers are."""
    made = []
    for system in WRITTEN_SYSTEMS:
        for number in chosen if system in systems else ():
            row = rows[number]
            words = ([id_ for id_ in ids if id_ not in prompter.end_ids] for ids in told[row["text"]].answers)
            continuations = [prompter.answer(ids) for ids in words]
            answer = answers[systems[system][number]][1]
            made.append(
                {name: row[name] for name in _CLIP}
                | {"system": system, "answer": answer, "continuations": continuations}
            )
    return parquet.from_rows(made, OWN_WRITTEN_SCHEMA)
