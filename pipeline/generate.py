"""The backbone LLM answers each transcript of a manifest: the targets that the model of speech is to give.

An answer is written once, into the store (pipeline/store.py). Only what is missing there goes to the engine, which is
not even loaded when nothing is. The output is what the store holds for the manifest, ordered by id.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer
from tqdm import tqdm

from pipeline import choices, continuations, engine, job, tables
from pipeline.engine import Answer, Engine
from pipeline.job import Job, Request
from pipeline.params import ParamsFile
from pipeline.prompts import Kind, Prompter
from pipeline.stage import UserError, run, say

PART_S = 60.0  # after which the answers of a slow engine are written, however few

_STORED = [name for name in continuations.SCHEMA.names if name != "id"]


@dataclass(slots=True)
class Progress:
    """Requests on their way through an engine to the shelf."""

    job: Job
    prompter: Prompter
    llm: Engine
    anew: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Answers that no part holds yet."""
    started: float = field(default_factory=time.monotonic)
    num_tokens: int = 0
    written: int = 0

    @property
    def tokens_per_s(self) -> float:
        """The rate since the last part."""
        return self.num_tokens / max(time.monotonic() - self.started, 1e-3)

    def take(self, request: Request, answer: Answer) -> bool:
        """Take an answer; return whether it completes a part."""
        self.rows.append(_row(request, answer, self.prompter, self.llm))
        self.num_tokens += len(answer.token_ids)
        return len(self.rows) == self.job.settings.rows_per_part or time.monotonic() - self.started > PART_S

    def put(self) -> None:
        """Put the answers on the shelf."""
        self.written += self.job.shelf.append(self.rows, anew=self.anew, tokens_per_s=self.tokens_per_s)
        self.rows, self.num_tokens, self.started = [], 0, time.monotonic()


def answer(requests: Sequence[Request], work: Job, prompter: Prompter, llm: Engine, *, anew: bool = False) -> int:
    """Let the engine answer, and put the answers on the shelf as they come; return how many went there.

    Processes that answer the same requests share the work: the second one begins elsewhere, and what another has
    answered meanwhile is not asked again.
    """
    fed: list[Request] = []
    others: set[bytes] = set()

    def feed(ordered: Sequence[Request]) -> Iterator[Sequence[int]]:
        for request in ordered:
            if request.key not in others:
                fed.append(request)
                yield request.prompt_ids

    progress = Progress(work, prompter, llm, anew)
    bar = tqdm(total=len(requests), desc=f"generate {work.kind}", unit="row", disable=None)
    with bar, work.shelf.writing() as is_first:
        middle = 0 if is_first else random.randrange(len(requests))
        try:
            for position, given in llm.generate(feed([*requests[middle:], *requests[:middle]])):
                bar.update()
                if progress.take(fed[position], given):
                    bar.set_postfix_str(f"{progress.tokens_per_s:.0f} tok/s")
                    if work.shelf.refresh() and not anew:
                        others = work.shelf.known(request.key for request in requests)
                    progress.put()
        finally:  # of an engine that fails half way, too
            progress.put()
    return progress.written


def _row(request: Request, given: Answer, prompter: Prompter, llm: Engine) -> dict[str, Any]:
    return {
        "key": request.key,
        "transcript": request.transcript,
        "emotion": request.emotion,
        "prompt_token_ids": request.prompt_ids,
        "continuation": prompter.decode(given.token_ids),
        "token_ids": given.token_ids,
        "finish_reason": given.finish_reason,
        "logprob": given.logprob,
        "top_ids": [list(step) for step in given.top] or None,
        "top_logprobs": [list(step.values()) for step in given.top] or None,
        "engine": llm.name,
        "hardware": llm.hardware,
        "written_at": datetime.now(UTC).replace(microsecond=0),
    }


def fill(utterances: pa.Table, keys: pa.Array, work: Job) -> Counter[str]:
    """Generate what the shelf lacks of the utterances' answers; return how many were generated, by engine.

    A prompt that leaves no room for an answer is left out.
    """
    wanted = job.missing(keys, work)
    if not len(wanted):
        return Counter()
    engine.prepare(work.settings)
    prompter = Prompter.load(work.model)
    requests = job.make_requests(utterances, keys, wanted, work, prompter)
    limit = work.settings.max_prompt_tokens
    fitting = [request for request in requests if len(request.prompt_ids) <= limit]
    if not fitting:
        return Counter()
    say(f"generate {work.kind}: {describe_plan(fitting, work)}")
    llm = engine.start(work.settings, work.llm, work.model, prompter.end_id)
    return Counter({llm.name: answer(fitting, work, prompter, llm)})


def describe_plan(requests: Sequence[Request], work: Job) -> str:
    """Say what the engine is about to do, and how long that takes at the rate of the newest part."""
    num_prompt = sum(len(request.prompt_ids) for request in requests)
    num_new = len(requests) * work.settings.max_new_tokens
    plan = f"{len(requests):,} to answer: {num_prompt:,} tokens of prompts, at most {num_new:,} new ones"
    rate = work.shelf.tokens_per_s()
    return (
        plan
        if rate is None
        else f"{plan}; at most {num_new / rate / 60:,.1f} min at the {rate:,.0f} tok/s of last time"
    )


def project(utterances: pa.Table, keys: pa.Array, work: Job, chosen: dict[bytes, int]) -> pa.Table:
    """Return the continuation of each utterance as the shelf has it; those without one say why."""
    found = work.shelf.read(keys, chosen, _STORED)
    no_text = pc.fill_null(pc.equal(utterances["text"], ""), True)
    reason = pc.if_else(no_text, continuations.NO_TRANSCRIPT, continuations.NO_EMOTION)
    reason = pc.if_else(pc.is_null(keys), reason, continuations.PROMPT_TOO_LONG)
    no_ids = pa.scalar([], pa.list_(pa.int32()))
    defaults = {"continuation": "", "token_ids": no_ids, "finish_reason": reason, "engine": ""}
    columns = {name: pc.coalesce(found[name], defaults[name]) if name in defaults else found[name] for name in _STORED}
    return pa.table({"id": utterances["id"], **columns}).cast(continuations.SCHEMA)


def main(
    kind: Annotated[Kind, typer.Option(help="Which prompt: for stage 1 or for stage 2.")],
    manifest_file: Annotated[Path, typer.Option("--manifest", help="Utterances to continue.")],
    output: Annotated[Path, typer.Option(help="Where the continuations go.")],
    choices_file: Annotated[
        Path, typer.Option("--choices", help="Generations that count in place of the first; may be missing.")
    ] = choices.FILE,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Write a continuation for each utterance of a manifest; only those that the store lacks are generated."""
    work = job.open_job(kind, params_file)
    utterances = job.read_utterances(manifest_file)
    keys = job.keys_of(utterances, work)
    generated = fill(utterances, keys, work)
    answers = project(utterances, keys, work, choices.read(choices_file, work.recipe.name))
    reasons = Counter(answers["finish_reason"].to_pylist())
    if not reasons[continuations.STOP] + reasons[continuations.LENGTH]:
        found = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        raise UserError(f"{manifest_file}: no utterance to answer; expected at least one, found {found}")
    tables.write(answers, output)
    say(f"generate {kind}: {_describe(keys, generated, reasons)}")


def _describe(keys: pa.Array, generated: Counter[str], reasons: Counter[str]) -> str:
    num_distinct = len(keys.drop_null().unique())
    new = ", ".join(f"{count:,} generated ({name})" for name, count in generated.items()) or "none generated"
    line = (
        f"{len(keys):,} rows, {num_distinct:,} distinct prompts, {new}; {reasons[continuations.LENGTH]:,} answers cut"
    )
    for reason in (continuations.PROMPT_TOO_LONG, continuations.NO_TRANSCRIPT, continuations.NO_EMOTION):
        if reasons[reason]:
            line += f", {reasons[reason]:,} left out, {reason}"
    return line


if __name__ == "__main__":
    run(main)
