"""The plan of a run of generate: its requests, and their number before anything is generated."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.generate.run import Requests, Run, make_requests, seed_attempts


@dataclass(frozen=True, slots=True)
class Counts:
    """The size of a plan."""

    rows: int
    left_out: int
    """Rows without a possible prompt, or whose prompt leaves no room for an answer."""
    prompts: int
    """Distinct prompts of the other rows."""
    stored: int
    """Distinct prompts that have an answer in the store."""
    prompt_tokens: int
    """Tokens of the prompts to answer."""
    new_tokens: int
    """Largest possible number of tokens in the answers."""
    minutes: float | None
    """Longest possible time at the rate of the newest shard; None if nothing has been generated yet."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The requests of a run and their number."""

    run: Run
    requests: Requests
    counts: Counts


def make_plan(utterances: pa.Table, keys: pa.Array, run: Run, *, anew: bool = False) -> Plan:
    """Plan the missing answers to utterances with these keys; with `anew`, a further answer to each."""
    distinct = keys.drop_null().unique()
    missing = run.store.missing(distinct)
    requests = make_requests(utterances, keys, distinct if anew else missing, run)
    fitting = requests.fitting()
    if anew:
        fitting = seed_attempts(fitting, run)
    new_tokens = len(fitting) * run.settings.max_new_tokens
    rate = run.store.tokens_per_s()
    counts = Counts(
        rows=len(utterances),
        left_out=keys.null_count + len(requests) - len(fitting),
        prompts=len(distinct),
        stored=len(distinct) - len(missing),
        prompt_tokens=pc.sum(fitting.table["num_prompt_tokens"], min_count=0).as_py(),
        new_tokens=new_tokens,
        minutes=None if rate is None else new_tokens / rate / 60,
    )
    return Plan(run, fitting, counts)
