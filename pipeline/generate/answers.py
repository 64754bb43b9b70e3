"""Answers on their way from an engine into the store, and from the store to the table of continuations."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from pipeline.generate.engines.interface import Answer, Engine
from pipeline.generate.plan import Work
from pipeline.generate.run import PART_S, Job, Request, StartEngine
from pipeline.prompts import Prompter
from pipeline.stage import UserError
from pipeline.tables import continuations

_STORED = [name for name in continuations.SCHEMA.names if name not in ("id", "agreement")]


@dataclass(slots=True)
class Progress:
    """Requests on their way through an engine to the shelf."""

    job: Job
    llm: Engine
    anew: bool
    on_part: Callable[[list[dict[str, Any]]], None]
    """Called with the answers of each part that is written."""
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
        engine, num_top = self.llm, self.job.settings.store_logprobs
        self.rows.append(store_row(request, answer, self.job.prompter, engine.name, engine.hardware, num_top))
        self.num_tokens += len(answer.token_ids)
        return len(self.rows) == self.job.settings.rows_per_part or time.monotonic() - self.started > PART_S

    def put(self) -> None:
        """Put the answers on the shelf."""
        self.written += self.job.shelf.append(self.rows, anew=self.anew, tokens_per_s=self.tokens_per_s)
        self.on_part(self.rows)
        self.rows, self.num_tokens, self.started = [], 0, time.monotonic()


def answer(
    requests: Sequence[Request],
    work: Job,
    llm: Engine,
    *,
    anew: bool = False,
    on_part: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> int:
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

    progress = Progress(work, llm, anew, on_part)
    bar = tqdm(total=len(requests), desc=f"generate {work.kind}", unit="row", disable=None)
    with bar, work.shelf.writing() as is_first:
        middle = 0 if is_first else random.randrange(len(requests))
        try:
            for position, given in llm.generate(feed([*requests[middle:], *requests[:middle]])):
                is_part = progress.take(fed[position], given)
                bar.set_postfix_str(f"{progress.tokens_per_s:.0f} tok/s", refresh=False)
                bar.update()
                if is_part:
                    if work.shelf.refresh() and not anew:
                        others = work.shelf.known(request.key for request in requests)
                    progress.put()
        finally:  # of an engine that fails half way, too
            progress.put()
    if lost := set() if anew else {request.key for request in requests} - work.shelf.known(r.key for r in requests):
        raise UserError(f"generate: {llm.name}: no answer to {len(lost):,} of {len(requests):,} prompts; run again")
    return progress.written


def store_row(
    request: Request, given: Answer, prompter: Prompter, engine: str, hardware: str, num_top: int
) -> dict[str, Any]:
    """Return an answer as the store takes it, with so many likeliest tokens at each position."""
    top = likeliest(given, num_top, engine)
    return {
        "key": request.key,
        "transcript": request.transcript,
        "emotion": request.emotion,
        "prompt_token_ids": request.prompt_ids,
        "continuation": prompter.decode(given.token_ids),
        "token_ids": given.token_ids,
        "finish_reason": given.finish_reason,
        "seed": request.seed,
        "logprob": given.logprob,
        "top_ids": [[token for token, _ in step] for step in top] or None,
        "top_logprobs": [[logprob for _, logprob in step] for step in top] or None,
        "engine": engine,
        "hardware": hardware,
        "written_at": datetime.now(UTC).replace(microsecond=0),
    }


def likeliest(given: Answer, num_top: int, engine: str) -> list[list[tuple[int, float]]]:
    """Return so many likeliest tokens at each position, likeliest first; vLLM gives the answer's own, too."""
    num_positions = len(given.token_ids) + (given.finish_reason == continuations.STOP) if num_top else 0
    steps = given.top[:num_positions]
    top = [sorted(step.items(), key=lambda entry: (-entry[1], entry[0]))[:num_top] for step in steps]
    if len(top) < num_positions or any(len(step) < num_top for step in top):
        raise UserError(
            f"generate.store_logprobs: found an answer of {engine} without its {num_top} likeliest tokens at each "
            "position; expected them of every answer; 0 is for an engine that does not tell them"
        )
    return top


def carry_out(work: Work, start: StartEngine) -> Counter[str]:
    """Answer what a plan asks for; return how many answers were written, by engine, which is not started for none."""
    if not work.requests:
        return Counter()
    llm = start()
    return Counter({llm.name: answer(work.requests, work.job, llm)})


def project(utterances: pa.Table, keys: pa.Array, work: Job, chosen: dict[bytes, int]) -> pa.Table:
    """Return the continuation of each utterance as the shelf has it; those without one say why."""
    num_top = work.settings.store_logprobs
    signals = continuations.SIGNALS_SCHEMA if num_top else pa.schema([])
    found = work.shelf.read(keys, chosen, [*_STORED, *signals.names])
    no_text = pc.fill_null(pc.equal(utterances["text"], ""), True)
    reason = pc.if_else(no_text, continuations.NO_TRANSCRIPT, continuations.NO_EMOTION)
    reason = pc.if_else(pc.is_null(keys), reason, continuations.PROMPT_TOO_LONG)
    no_ids = pa.scalar([], pa.list_(pa.int32()))
    defaults = {"continuation": "", "token_ids": no_ids, "finish_reason": reason, "engine": ""}
    columns = {name: pc.coalesce(found[name], defaults[name]) if name in defaults else found[name] for name in _STORED}
    if work.backbone is not None:
        columns["token_ids"] = _retokenised(columns["continuation"], work.backbone)
    columns["agreement"] = pa.nulls(len(keys), pa.float64())
    columns |= {name: _first(found[name], num_top) for name in signals.names}
    return pa.table({"id": utterances["id"], **columns}).cast(pa.schema([*continuations.SCHEMA, *signals]))


def _first(column: pa.ChunkedArray, num_top: int) -> pa.Array:
    """Return the first `num_top` entries at each position: the store may have more."""
    rows = column.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(rows), 0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pc.list_slice(rows.flatten(), 0, num_top), mask=pc.is_null(rows))


def _retokenised(texts: pa.ChunkedArray, backbone: Path) -> pa.Array:
    """Return another model's answers in the ids of the LLM that is trained."""
    prompter = Prompter.load(backbone)
    return pa.array([prompter.content_ids(text) for text in texts.to_pylist()], pa.list_(pa.int32()))
