"""Answers asked for by hand: a look at some, and answers given anew.

What is done here goes to the store and to manifests/choices.csv; `dvc repro` takes it from there.
"""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from pipeline.commands import selection
from pipeline.commands.options import Ids, Json, KindArgument, Reason, Where
from pipeline.generate import answers, choices, plan, run
from pipeline.generate.engines import choose
from pipeline.generate.engines.interface import Answer, Engine
from pipeline.generate.plan import Work
from pipeline.generate.run import Job, Request
from pipeline.generate.store import KEY, Shelf
from pipeline.params import ParamsFile
from pipeline.stage import say
from pipeline.terminal import lay_out_record


@dataclass(frozen=True, slots=True)
class Previewed:
    """A prompt with its answer, which nothing keeps."""

    transcript: str
    prompt: str
    answer: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Written:
    """What a run by hand has written."""

    written: int
    unchanged: int
    """Of these, answers given anew that are the ones in use before, which stay in use."""


def answer_some(work: Work, number: int) -> list[Previewed]:
    """Answer the first requests without writing anything."""
    prompter, answers = work.job.prompter, dict[bytes, Answer]()

    def answer(requests: list[Request], llm: Engine) -> None:
        given = llm.generate(request.prompt_ids for request in requests)
        answers.update((requests[position].key, each) for position, each in given)

    requests = work.requests[:number]
    _for_each_seed(work.job, requests, answer)
    return [
        Previewed(
            request.transcript,
            str(prompter.tokenizer.decode(list(request.prompt_ids))),
            prompter.decode(answers[request.key].token_ids),
            answers[request.key].finish_reason,
        )
        for request in requests
    ]


def describe_preview(previewed: Sequence[Previewed]) -> str:
    """Lay out prompts and answers as plain text."""
    if not previewed:
        return "nothing to answer; --force previews answers that the store has"
    records = []
    for each in previewed:
        facts = {"prompt": json.dumps(each.prompt, ensure_ascii=False), "answer": each.answer}
        records.append(lay_out_record(each.transcript, {**facts, "ended": each.finish_reason}))
    return "\n\n".join(records)


def carry_out(work: Work) -> Written:
    """Answer what the store lacks."""
    return Written(answers.carry_out(work, work.job.start_engine).total(), 0)


def carry_out_anew(work: Work, choices_file: Path) -> Written:
    """Answer all anew; each answer is chosen in place of the one in use, part by part, where it is another one."""
    recipe = work.job.recipe
    chosen = choices.read(choices_file, recipe.name)
    keys = [request.key for request in work.requests]
    shelf = Shelf(recipe)  # of answers with any number of likeliest tokens
    lacking = shelf.lacking(chosen)
    there = {key: generation for key, generation in chosen.items() if key not in lacking}
    before = shelf.read(pa.array(keys, KEY), there, ["token_ids"])["token_ids"].to_pylist()
    in_use = dict(zip(keys, before, strict=True))
    done = Counter[str]()

    def choose(rows: Sequence[Mapping[str, Any]]) -> None:
        changed = [row["key"] for row in rows if list(row["token_ids"]) != in_use[row["key"]]]
        done.update(written=len(rows), unchanged=len(rows) - len(changed))
        if changed:
            choose_newest(work.job, changed, choices_file)

    def answer(requests: list[Request], llm: Engine) -> None:
        answers.answer(requests, work.job, llm, anew=True, on_part=choose)

    _for_each_seed(work.job, work.requests, answer)
    return Written(done["written"], done["unchanged"])


def describe(done: Written, job: Job) -> str:
    """Say what was written."""
    line = f"generate: {done.written:,} answers written; dvc repro takes them over"
    if done.unchanged:
        why = " (temperature 0 draws nothing: another prompt or temperature does)" if job.recipe.seed is None else ""
        line += f"; {done.unchanged:,} came out as they were and change nothing{why}"
    return line


def _for_each_seed(job: Job, requests: Sequence[Request], do: Callable[[list[Request], Engine], None]) -> None:
    """Do something with the requests of each seed and an engine that draws with it, one engine after the other."""
    ordered = sorted(requests, key=lambda request: request.seed or 0)
    for seed, same in itertools.groupby(ordered, lambda request: request.seed):
        do(list(same), job.start_engine(seed))
        choose.release(job.settings)


def choose_newest(job: Job, keys: Sequence[bytes], choices_file: Path) -> None:
    """Choose the newest generation of each key."""
    choices.add(choices_file, job.recipe.name, dict(zip(keys, job.shelf.newest(keys), strict=True)))


def main(
    kind: KindArgument,
    where: Where = None,
    ids: Ids = None,
    reason: Reason = None,
    preview: Annotated[int, typer.Option(help="Show so many prompts with their answers; write nothing.", min=0)] = 0,
    force: Annotated[bool, typer.Option("--force", help="Answer what is answered, too, and take the new one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    params_file: ParamsFile = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Let the LLM answer rows: what is missing, or all anew.

    Shows the plan first. Answers go to the store, which keeps the ones before; dvc repro takes them over.

    \b
    python -m pipeline generate emotion --where "corpus == 'meld'" --preview 5
    python -m pipeline generate emotion --reason refusal --force

    \b
    JSON: rows, left_out, prompts, stored, prompt_tokens, new_tokens, minutes;
    previews: with --preview a list of transcript, prompt, answer, finish_reason;
    written, unchanged (came out as they were, stay in use): unless --dry-run.
    """
    selected = selection.select(selection.manifest_of(kind), where, ids or [], reason, selection.dropped_of(kind))
    opened = run.open_job(kind, params_file)
    work = plan.make(selected, run.keys_of(selected, opened), opened, anew=force)
    told = asdict(work.plan)
    if not as_json:
        say(plan.describe(work))
    if preview:
        previewed = answer_some(work, preview)
        told["previews"] = [asdict(each) for each in previewed]
        if not as_json:
            say(f"\n{describe_preview(previewed)}")
    elif not dry_run and work.requests:
        done = carry_out_anew(work, choices.FILE) if force else carry_out(work)
        told |= asdict(done)
        if not as_json:
            say(describe(done, opened))
    if as_json:
        say(json.dumps(told, indent=2, ensure_ascii=False))
