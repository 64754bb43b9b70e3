"""Agreement: does the LLM find the requested emotion in a transcript and its continuation?

The engine that writes continuations answers the question `generate.agreement`. Each class of the run is scored by the
log-probability of its name as the answer. Scores are stored like answers: their signature holds the question, and their
continuation is the name of the class.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from pipeline.generate.engines.interface import Engine, PromptAndAnswer
from pipeline.generate.params import AgreementPrompt
from pipeline.generate.run import SHARD_S, Run, StartEngine
from pipeline.generate.store import KEY, AnswerStore, StoredAnswer
from pipeline.progress import Task
from pipeline.stage import say
from pipeline.tables import continuations


@dataclass(frozen=True, slots=True)
class Question:
    """A transcript and its continuation, to be scored for one class."""

    key: bytes
    transcript: str
    continuation: str
    emotion: str


def score_agreement(
    utterances: pa.Table, answers: pa.Table, run: Run, prompt: AgreementPrompt, start: StartEngine
) -> pa.Table:
    """Fill the column `agreement` of continuations; the engine starts only if scores are missing."""
    store = open_scores(run, prompt)
    asked = questions(utterances, answers, sorted(run.classes), store)
    if wanted := missing(asked, store):
        pairs = make_pairs(wanted, run, prompt)
        fitting = [i for i, (ids, name) in enumerate(pairs) if len(ids) + len(name) < run.settings.max_model_len]
        excess = len(pairs) - len(fitting)
        too_long = f"; {excess:,} more prompts are too long for max_model_len and get no score" if excess else ""
        say(f"generate {run.kind}: agreement: {len(fitting):,} scores to compute{too_long}")
        if fitting:
            score([wanted[i] for i in fitting], [pairs[i] for i in fitting], run, store, start())
    shares = pa.array(read(asked, utterances["emotion"].to_pylist(), store), pa.float64())
    return answers.set_column(answers.schema.get_field_index("agreement"), "agreement", shares)


def open_scores(run: Run, prompt: AgreementPrompt) -> AnswerStore:
    """Open the store of the scores for an agreement prompt and the run's classes."""
    text = f"{prompt.text.replace('{options}', ', '.join(sorted(run.classes)))}\n{{emotion}}"
    signature = replace(run.signature, system=prompt.system, text=text, max_new_tokens=0, temperature=0.0, seed=None)
    return AnswerStore(signature)


def questions(
    utterances: pa.Table, answers: pa.Table, classes: Sequence[str], store: AnswerStore
) -> list[list[Question]]:
    """Return each row's questions: one for each of the `classes`, in their order.

    A row without an answer, or with an emotion that is not a class, has no questions.
    """
    asked = []
    columns = (utterances["text"], utterances["emotion"], answers["continuation"], answers["finish_reason"])
    for text, emotion, continuation, reason in zip(*(column.to_pylist() for column in columns), strict=True):
        both = f"{text}\n{continuation}"
        wanted = classes if emotion in classes and reason not in continuations.NOT_GENERATED else []
        asked.append([Question(store.signature.key(both, name), text, continuation, name) for name in wanted])
    return asked


def missing(asked: Sequence[Sequence[Question]], store: AnswerStore) -> list[Question]:
    """Return the distinct questions without a score in the store."""
    distinct = {question.key: question for row in asked for question in row}
    return [distinct[key] for key in store.missing(pa.array(distinct, KEY)).to_pylist()]


def make_pairs(wanted: Sequence[Question], run: Run, prompt: AgreementPrompt) -> list[PromptAndAnswer]:
    """Return each question's prompt and the name of its class, as token ids."""
    prompter, options = run.prompter, sorted(run.classes)
    names = {name: prompter.content_ids(name) for name in options}
    filled = (prompt.fill(each.transcript, each.continuation, options) for each in wanted)
    return [
        (prompter.words(prompt.system, said).ids, names[each.emotion])
        for said, each in zip(filled, wanted, strict=True)
    ]


def score(
    wanted: Sequence[Question], pairs: Sequence[PromptAndAnswer], run: Run, store: AnswerStore, llm: Engine
) -> None:
    """Let the engine score questions, and write the scores to the store."""
    now = datetime.now(UTC).replace(microsecond=0)
    scores: list[StoredAnswer] = []
    written = time.monotonic()
    try:
        with Task("generate: agreement", len(wanted), "scores") as task:
            for position, logprob in llm.score(pairs):
                scores.append(_stored_score(wanted[position], pairs[position][1], logprob, llm, now))
                task.advance()
                if len(scores) == run.settings.rows_per_part or time.monotonic() - written > SHARD_S:
                    store.append(scores)
                    scores, written = [], time.monotonic()
    finally:
        store.append(scores)


def _stored_score(
    question: Question, name_ids: Sequence[int], logprob: float, llm: Engine, now: datetime
) -> StoredAnswer:
    return StoredAnswer(
        key=question.key,
        transcript=f"{question.transcript}\n{question.continuation}",
        emotion=question.emotion,
        prompt_token_ids=[],
        continuation=question.emotion,
        token_ids=name_ids,
        finish_reason=continuations.STOP,
        seed=None,
        logprob=logprob,
        top_ids=None,
        top_logprobs=None,
        engine=llm.name,
        hardware=llm.hardware,
        written_at=now,
    )


def read(asked: Sequence[Sequence[Question]], emotions: Sequence[str | None], store: AnswerStore) -> list[float | None]:
    """Return the probability of each row's own emotion among the classes; None for a row without scores.

    An LLM prefers some names, whatever the text is. So each name's mean log-probability is subtracted first. The mean
    is taken per emotion, and then over the emotions, so that a frequent emotion weighs no more than a rare one (batch
    calibration, https://arxiv.org/abs/2309.17249).
    """
    numbers = np.array([number for number, row in enumerate(asked) if row], int)
    all_questions = [question for row in asked for question in row]
    found = store.read(pa.array([each.key for each in all_questions], KEY), {}, ["logprob"])["logprob"].to_numpy()
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
