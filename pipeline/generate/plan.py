"""What a run of generate has to do: counted before anything is generated, and the requests to carry it out."""

from dataclasses import dataclass

import pyarrow as pa

from pipeline.generate.run import Job, Request, make_requests, seed_anew
from pipeline.terminal import lay_out_record


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
    requests: list[Request]


def make(utterances: pa.Table, keys: pa.Array, work: Job, *, anew: bool = False) -> Work:
    """Plan the answers to utterances with these keys: those that are missing, or with `anew` all of them."""
    distinct = keys.drop_null().unique()
    missing = work.shelf.missing(distinct)
    requests = make_requests(utterances, keys, distinct if anew else missing, work)
    fitting = [request for request in requests if len(request.prompt_ids) <= work.settings.max_prompt_tokens]
    if anew:
        fitting = seed_anew(fitting, work)
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
    return Work(plan, work, fitting)


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
