"""Agreement: does the backbone, when it reads a transcript and its continuation, find the emotion that was asked for?

Each class of the run is scored by the log-probability of its name as the answer to the question `generate.agreement`,
by the engine that writes continuations. A score is kept in the store as an answer is: on a shelf of its own, whose
recipe is the question, with the name of the class as the continuation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from pipeline import continuations
from pipeline.engine import AgreementPrompt, Engine
from pipeline.job import Job, StartEngine
from pipeline.store import KEY, Shelf


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
        score(wanted, work, prompt, shelf, start())
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


def score(wanted: Sequence[Question], work: Job, prompt: AgreementPrompt, shelf: Shelf, llm: Engine) -> None:
    """Let the engine score questions, and put the scores on the shelf as they come."""
    prompter = work.prompter
    options = sorted(work.classes)
    names = {name: prompter.content_ids(name) for name in options}
    now = datetime.now(UTC).replace(microsecond=0)
    rows: list[dict[str, Any]] = []

    def pairs() -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        for each in wanted:
            filled = prompt.fill(each.transcript, each.continuation, options)
            yield prompter.words(prompt.system, filled).ids, names[each.emotion]

    try:
        for position, logprob in tqdm(llm.score(pairs()), total=len(wanted), desc="agreement", disable=None):
            each = wanted[position]
            rows.append(
                {
                    "key": each.key,
                    "transcript": f"{each.transcript}\n{each.continuation}",
                    "emotion": each.emotion,
                    "prompt_token_ids": [],
                    "continuation": each.emotion,
                    "token_ids": names[each.emotion],
                    "finish_reason": continuations.STOP,
                    "logprob": logprob,
                    "top_ids": None,
                    "top_logprobs": None,
                    "engine": llm.name,
                    "hardware": llm.hardware,
                    "written_at": now,
                }
            )
            if len(rows) == work.settings.rows_per_part:
                shelf.append(rows)
                rows = []
    finally:
        shelf.append(rows)


def read(asked: Sequence[Sequence[Question]], emotions: Sequence[str | None], shelf: Shelf) -> list[float | None]:
    """Return how likely each row's own emotion is among the classes, from 0 to 1; None of a row without questions.

    An LLM prefers some names whatever it reads, so each name's log-probability counts less its mean over the rows,
    those of every emotion alike (batch calibration, https://arxiv.org/abs/2309.17249).
    """
    rows = [(number, row) for number, row in enumerate(asked) if row]
    keys = [question.key for _, row in rows for question in row]
    found = shelf.read(pa.array(keys, KEY), {}, ["logprob"])["logprob"].to_numpy()
    own = np.array([[question.emotion == emotions[number] for question in row] for number, row in rows])
    shares: list[float | None] = [None] * len(asked)
    if rows:
        logprobs = found.reshape(own.shape)
        by_emotion = [logprobs[of_one].mean(0) for of_one in own.T if of_one.any()]
        logits = logprobs - np.mean(by_emotion, axis=0)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        for (number, _), share in zip(rows, weights[own] / weights.sum(1), strict=True):
            shares[number] = float(share)
    return shares
