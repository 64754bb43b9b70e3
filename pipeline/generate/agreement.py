"""Agreement: does the backbone, when it reads a transcript and its continuation, find the emotion that was asked for?

Each class of the run is scored by the log-probability of its name as the answer to the question `generate.agreement`,
by the engine that writes continuations. A score is kept in the store as an answer is: on a shelf of its own, whose
recipe is the question, with the name of the class as the continuation.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from pipeline.generate.engines.interface import Engine
from pipeline.generate.params import AgreementPrompt
from pipeline.generate.run import PART_S, Job, StartEngine
from pipeline.generate.store import KEY, Shelf
from pipeline.stage import say
from pipeline.tables import continuations

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of the answer to be scored."""


@dataclass(frozen=True, slots=True)
class Question:
    """A transcript with its continuation, to be scored for one class."""

    key: bytes
    transcript: str
    continuation: str
    emotion: str


def judge(utterances: pa.Table, answers: pa.Table, work: Job, prompt: AgreementPrompt, start: StartEngine) -> pa.Table:
    """Fill the column `agreement` of continuations; the engine is started where scores are missing."""
    shelf = open_shelf(work, prompt)
    asked = questions(utterances, answers, sorted(work.classes), shelf)
    if wanted := missing(asked, shelf):
        pairs = make_pairs(wanted, work, prompt)
        fitting = [i for i, (ids, name) in enumerate(pairs) if len(ids) + len(name) < work.settings.max_model_len]
        too_long = f"; {len(pairs) - len(fitting):,} are longer than max_model_len" if len(fitting) < len(pairs) else ""
        say(f"generate {work.kind}: agreement: {len(fitting):,} scores to ask{too_long}")
        if fitting:
            score([wanted[i] for i in fitting], [pairs[i] for i in fitting], work, shelf, start())
    shares = pa.array(read(asked, utterances["emotion"].to_pylist(), shelf), pa.float64())
    return answers.set_column(answers.schema.get_field_index("agreement"), "agreement", shares)


def open_shelf(work: Job, prompt: AgreementPrompt) -> Shelf:
    """Open the shelf of the scores that one question gives of the run's classes."""
    text = f"{prompt.text.replace('{options}', ', '.join(sorted(work.classes)))}\n{{emotion}}"
    recipe = replace(work.recipe, system=prompt.system, text=text, max_new_tokens=0, temperature=0.0, seed=None)
    return Shelf(recipe)


def questions(utterances: pa.Table, answers: pa.Table, classes: Sequence[str], shelf: Shelf) -> list[list[Question]]:
    """Return the questions of each row, one of each of `classes` in their order; none where nothing was answered."""
    asked = []
    columns = (utterances["text"], utterances["emotion"], answers["continuation"], answers["finish_reason"])
    for text, emotion, continuation, reason in zip(*(column.to_pylist() for column in columns), strict=True):
        both = f"{text}\n{continuation}"
        wanted = classes if emotion in classes and reason not in continuations.NOT_GENERATED else []
        asked.append([Question(shelf.recipe.key(both, name), text, continuation, name) for name in wanted])
    return asked


def missing(asked: Sequence[Sequence[Question]], shelf: Shelf) -> list[Question]:
    """Return the distinct questions that the store has no score for."""
    distinct = {question.key: question for row in asked for question in row}
    return [distinct[key] for key in shelf.missing(pa.array(distinct, KEY)).to_pylist()]


def make_pairs(wanted: Sequence[Question], work: Job, prompt: AgreementPrompt) -> list[Pair]:
    """Return the prompt and the class' name of each question, as token ids."""
    prompter, options = work.prompter, sorted(work.classes)
    names = {name: prompter.content_ids(name) for name in options}
    filled = (prompt.fill(each.transcript, each.continuation, options) for each in wanted)
    return [
        (prompter.words(prompt.system, said).ids, names[each.emotion])
        for said, each in zip(filled, wanted, strict=True)
    ]


def score(wanted: Sequence[Question], pairs: Sequence[Pair], work: Job, shelf: Shelf, llm: Engine) -> None:
    """Let the engine score questions, and put the scores on the shelf as they come."""
    now = datetime.now(UTC).replace(microsecond=0)
    rows: list[dict[str, Any]] = []
    written = time.monotonic()
    try:
        for position, logprob in tqdm(llm.score(pairs), total=len(wanted), desc="agreement", disable=None):
            each = wanted[position]
            rows.append(
                {
                    "key": each.key,
                    "transcript": f"{each.transcript}\n{each.continuation}",
                    "emotion": each.emotion,
                    "prompt_token_ids": [],
                    "continuation": each.emotion,
                    "token_ids": pairs[position][1],
                    "finish_reason": continuations.STOP,
                    "seed": None,
                    "logprob": logprob,
                    "top_ids": None,
                    "top_logprobs": None,
                    "engine": llm.name,
                    "hardware": llm.hardware,
                    "written_at": now,
                }
            )
            if len(rows) == work.settings.rows_per_part or time.monotonic() - written > PART_S:
                shelf.append(rows)
                rows, written = [], time.monotonic()
    finally:
        shelf.append(rows)


def read(asked: Sequence[Sequence[Question]], emotions: Sequence[str | None], shelf: Shelf) -> list[float | None]:
    """Return how likely each row's own emotion is among the classes, from 0 to 1; None of a row without scores.

    An LLM prefers some names whatever it reads, so each name's log-probability counts less its mean over the rows,
    those of every emotion alike (batch calibration, https://arxiv.org/abs/2309.17249).
    """
    numbers = np.array([number for number, row in enumerate(asked) if row], int)
    questions = [question for row in asked for question in row]
    found = shelf.read(pa.array([each.key for each in questions], KEY), {}, ["logprob"])["logprob"].to_numpy()
    own = np.array([[each.emotion == emotions[number] for each in asked[number]] for number in numbers])
    whole = ~np.isnan(found).reshape(own.shape).any(-1)
    numbers, own = numbers[whole], own[whole]
    shares: list[float | None] = [None] * len(asked)
    if len(numbers):
        logprobs = found.reshape(len(whole), -1)[whole]
        by_emotion = [logprobs[of_one].mean(0) for of_one in own.T if of_one.any()]
        logits = logprobs - np.mean(by_emotion, axis=0)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        for number, share in zip(numbers, weights[own] / weights.sum(1), strict=True):
            shares[number] = float(share)
    return shares
