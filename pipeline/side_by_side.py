"""The answers to two prompts, or of two models, beside each other on a few rows drawn at random.

What the store has is taken from there; the rest is generated and kept, each answer under its own recipe.
"""

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from pipeline import choices, engine, generate, job, params, plans
from pipeline.engine import GenerateParams
from pipeline.job import Job, JobParams
from pipeline.params import Section
from pipeline.plans import Work
from pipeline.prompts import Kind
from pipeline.recipe import Recipe
from pipeline.replies import Reply, Summary, score, summarise, word
from pipeline.stage import UserError
from pipeline.text_tables import lay_out, lay_out_record
from pipeline.weights import Weights

_NAMES = {"text": "prompt"}  # of a recipe's fields where the parameters call them otherwise
_NOT_SHOWN = "tokenizer"  # a hash, which tells nothing that the model does not

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Pair:
    """An utterance and both replies."""

    id: str
    transcript: str
    emotion: str | None
    a: Reply
    b: Reply


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two."""

    recipe: Recipe
    stored: int
    """Distinct prompts of the sample that the store had an answer to."""
    generated: int
    summary: Summary


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Two recipes on a sample."""

    prompts: int
    """Distinct pairs of prompts from which was drawn."""
    same: int
    """Rows with equal answers."""
    a: Side
    b: Side
    rows: list[Pair]


def change(kind: Kind, given: JobParams, changes: Mapping[str, Any]) -> JobParams:
    """Put values in place of parameters of the same name; another source of the LLM drops the pins of the one before.

    Raises UserError where one is no value of its parameter.
    """
    if "source" in changes:
        changes = {"revision": None, "sha256": None, **changes}

    def replaced(name: str, section: S) -> S:
        own = {key: value for key, value in changes.items() if key in type(section).model_fields}
        return params.check("B", name, {**section.model_dump(), **own}, type(section))

    return replace(
        given,
        settings=replaced("generate", given.settings),
        prompt=replaced(f"prompts.{kind}", given.prompt),
        llm=replaced("models.llm", given.llm),
    )


def compare(utterances: pa.Table, a: Job, b: Job, number: int, seed: int, choices_file: Path) -> SideBySide:
    """Answer some of the utterances both ways, generating what the store lacks.

    Rows with equal prompts on both sides count once. Raises UserError where A and B are the same.
    """
    if a.recipe == b.recipe:
        raise UserError(
            "compare: A and B ask the same of the same model; expected another prompt, model or sampling, as in "
            "--prompt-b or --params-b"
        )
    drawn, num_prompts = _draw(utterances, a, b, number, seed)
    for each in (a, b):
        choices.check(choices_file, each.shelf, job.keys_of(drawn, each))
    todo = [plans.make(drawn, job.keys_of(drawn, each), each) for each in (a, b)]
    _answer(todo)
    replies_a, replies_b = (_replies(drawn, work.job, choices_file) for work in todo)
    sides = zip(drawn.to_pylist(), replies_a, replies_b, strict=True)
    pairs = [Pair(row["id"], row["text"], row["emotion"], *replies) for row, *replies in sides]
    return SideBySide(
        prompts=num_prompts,
        same=sum(pair.a.is_answer and pair.a.continuation == pair.b.continuation for pair in pairs),
        a=_side(todo[0], replies_a),
        b=_side(todo[1], replies_b),
        rows=pairs,
    )


def describe(found: SideBySide) -> str:
    """Lay out what differs, the replies under each other, and the numbers beside each other."""
    recipes = {"A": asdict(found.a.recipe), "B": asdict(found.b.recipe)}
    differing = [name for name in recipes["A"] if name != _NOT_SHOWN and recipes["A"][name] != recipes["B"][name]]
    parts = []
    for side, recipe in recipes.items():
        facts = {_NAMES.get(name, name): json.dumps(recipe[name], ensure_ascii=False) for name in differing}
        parts.append(lay_out_record(side, facts))
    for pair in found.rows:
        name = pair.id if pair.emotion is None else f"{pair.id}, {pair.emotion}"
        parts.append(lay_out_record(name, {"said": pair.transcript, "A": word(pair.a), "B": word(pair.b)}))
    parts.append(_describe_sides(found.a, found.b))
    parts.append(f"{len(found.rows):,} of {found.prompts:,} prompts, {found.same:,} answered the same")
    return "\n\n".join(parts)


def _draw(utterances: pa.Table, a: Job, b: Job, number: int, seed: int) -> tuple[pa.Table, int]:
    """Return some of the rows that both sides can ask for, each pair of prompts once, and how many pairs there are."""
    keys = zip(job.keys_of(utterances, a).to_pylist(), job.keys_of(utterances, b).to_pylist(), strict=True)
    first: dict[tuple[bytes, bytes], int] = {}
    for i, pair in enumerate(keys):
        if None not in pair:
            first.setdefault(pair, i)
    if not first:
        raise UserError(f"compare: none of {len(utterances):,} rows has what both prompts ask for")
    chosen = random.Random(seed).sample(list(first.values()), min(number, len(first)))
    return utterances.take(sorted(chosen)), len(first)


def _answer(todo: Sequence[Work]) -> None:
    """Answer what is missing; one engine serves both sides where it can, else one is loaded after the other."""
    missing = [work for work in todo if work.requests]
    for (settings, _, _), sharing in itertools.groupby(missing, lambda work: _loaded(work.job)):
        _answer_by_one(list(sharing))
        engine.release(settings)


def _answer_by_one(todo: Sequence[Work]) -> None:
    llm = todo[0].job.start_engine()
    for work in todo:
        generate.answer(work.requests, work.job, llm)


def _loaded(work: Job) -> tuple[GenerateParams, Weights, Path]:
    """Return what an engine is loaded with."""
    return work.settings, work.llm, work.model


def _replies(utterances: pa.Table, work: Job, choices_file: Path) -> list[Reply]:
    chosen = choices.read(choices_file, work.recipe.name)
    answers = generate.project(utterances, job.keys_of(utterances, work), work, chosen).to_pylist()
    return [score(answer, text) for answer, text in zip(answers, utterances["text"].to_pylist(), strict=True)]


def _side(work: Work, replies: Sequence[Reply]) -> Side:
    return Side(work.job.recipe, work.plan.stored, len(work.requests), summarise(replies))


def _describe_sides(a: Side, b: Side) -> str:
    def row(name: str, form: str, *values: float | None) -> list[str]:
        return [name, *("" if value is None else format(value, form) for value in values)]

    both = (a.summary, b.summary)
    rows = [
        ["", "A", "B"],
        row("answers", ",", *(side.answered for side in both)),
        row("from the store", ",", a.stored, b.stored),
        row("tokens, mean", ".1f", *(side.tokens for side in both)),
        row("cut", ".0%", *(side.cut for side in both)),
        row("repeats transcript", ".0%", *(side.echo for side in both)),
        row("repeats itself", ".0%", *(side.repetition for side in both)),
        row("refuses", ".0%", *(side.refusal for side in both)),
        row("says it is a model", ".0%", *(side.model_talk for side in both)),
        row("log-prob. a token", ".2f", *(side.logprob_per_token for side in both)),
    ]
    return lay_out(rows)
