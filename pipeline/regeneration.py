"""Answers asked for by hand: the plan of a run, a look at some answers, and answers given anew.

What is done here goes to the store and to manifests/choices.csv; `dvc repro` takes it from there.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline import choices, engine, generate, job
from pipeline.job import Job, Request
from pipeline.prompts import Prompter
from pipeline.text_tables import lay_out_record


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run has to do."""

    rows: int
    left_out: int
    """Rows that no prompt can be made of, or none with room for an answer."""
    prompts: int
    """Distinct prompts of the others."""
    stored: int
    """Of these, those that the store answers."""
    prompt_tokens: int
    """Of the prompts that remain."""
    new_tokens: int
    """At most."""
    minutes: float | None
    """At most, at the rate of the last part; None where nothing was generated yet."""


@dataclass(frozen=True, slots=True)
class Work:
    """A plan with what it takes to carry it out."""

    plan: Plan
    job: Job
    prompter: Prompter
    requests: list[Request]


def prepare(utterances: pa.Table, work: Job, *, anew: bool) -> Work:
    """Plan the answers to utterances: those that are missing, or with `anew` all of them."""
    engine.prepare(work.settings)
    prompter = Prompter.load(work.model)
    keys = job.keys_of(utterances, work)
    distinct = keys.drop_null().unique()
    missing = work.shelf.missing(distinct)
    requests = job.make_requests(utterances, keys, distinct if anew else missing, work, prompter)
    fitting = [request for request in requests if len(request.prompt_ids) <= work.settings.max_prompt_tokens]
    new_tokens = len(fitting) * work.settings.max_new_tokens
    rate = work.shelf.tokens_per_s()
    plan = Plan(
        rows=len(utterances),
        left_out=keys.null_count + len(requests) - len(fitting),
        prompts=len(distinct),
        stored=len(distinct) - len(missing),
        prompt_tokens=sum(len(request.prompt_ids) for request in fitting),
        new_tokens=new_tokens,
        minutes=None if rate is None else new_tokens / rate / 60,
    )
    return Work(plan, work, prompter, fitting)


def describe(work: Work) -> str:
    """Lay out a plan as plain text."""
    plan = work.plan
    facts = {
        "rows": f"{plan.rows:,}" + (f", of which {plan.left_out:,} cannot be answered" if plan.left_out else ""),
        "prompts": f"{plan.prompts:,} distinct, {plan.stored:,} answered in the store",
        "to answer": f"{len(work.requests):,}: {plan.prompt_tokens:,} tokens, at most {plan.new_tokens:,} new ones",
        "time": "unknown before the first part" if plan.minutes is None else f"at most {plan.minutes:.1f} min",
        "store": str(work.job.shelf.folder),
    }
    return lay_out_record(f"generate {work.job.kind}", facts)


def preview(work: Work, number: int) -> str:
    """Answer the first requests without writing anything; return prompts and answers as plain text."""
    requests = work.requests[:number]
    if not requests:
        return "nothing to answer; --force previews answers that the store has"
    llm = engine.start(work.job.settings, work.job.llm, work.job.model, work.prompter.end_id)
    answers = dict(llm.generate(request.prompt_ids for request in requests))
    records = []
    for i, request in enumerate(requests):
        prompt = work.prompter.tokenizer.decode(list(request.prompt_ids))
        facts = {"prompt": json.dumps(prompt, ensure_ascii=False), "answer": work.prompter.decode(answers[i].token_ids)}
        records.append(lay_out_record(request.transcript, {**facts, "ended": answers[i].finish_reason}))
    return "\n\n".join(records)


def carry_out(work: Work, choices_file: Path, *, anew: bool) -> int:
    """Answer the requests; answers given anew are chosen in place of those before. Return how many were written."""
    if not work.requests:
        return 0
    llm = engine.start(work.job.settings, work.job.llm, work.job.model, work.prompter.end_id)
    written = generate.answer(work.requests, work.job, work.prompter, llm, anew=anew)
    if anew:
        keys = [request.key for request in work.requests]
        newest = work.job.shelf.newest(keys)
        choices.add(choices_file, work.job.recipe.name, dict(zip(keys, newest, strict=True)))
    return written
