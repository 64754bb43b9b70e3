"""Write an engine's answers into the store, and read the table of continuations from it."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.generate.engines.interface import Answer, Engine, Request, check_logprob
from pipeline.generate.plan import Plan
from pipeline.generate.run import SHARD_S, Run, StartEngine, tokenised
from pipeline.generate.store import KEY, StoredAnswer
from pipeline.progress import Task
from pipeline.prompts import Prompter
from pipeline.stage import UserError
from pipeline.tables import continuations

_NOT_STORED = ("id", "key", "text_ids", "num_prompt_tokens", "agreement")
_STORED = [name for name in continuations.SCHEMA.names if name not in _NOT_STORED]


@dataclass(slots=True)
class ShardWriter:
    """Collects answers and writes them to the store, a shard at a time."""

    run: Run
    llm: Engine
    anew: bool
    on_shard: Callable[[list[StoredAnswer]], None]
    """Called with the answers of each shard after it is written."""
    answers: list[StoredAnswer] = field(default_factory=list)
    """Answers that are not in a shard yet."""
    started: float = field(default_factory=time.monotonic)
    num_tokens: int = 0
    written: int = 0

    @property
    def tokens_per_s(self) -> float:
        """The rate since the last shard."""
        return self.num_tokens / max(time.monotonic() - self.started, 1e-3)

    def take(self, request: Request, answer: Answer) -> bool:
        """Take an answer; return whether a shard is due."""
        engine, num_top = self.llm, self.run.settings.store_logprobs
        check_logprob(answer.logprob, engine.name, request.transcript)
        self.answers.append(stored_answer(request, answer, self.run.prompter, engine.name, engine.hardware, num_top))
        self.num_tokens += len(answer.token_ids)
        is_full = len(self.answers) == self.run.settings.rows_per_part
        return is_full or time.monotonic() - self.started > SHARD_S

    def write(self) -> None:
        """Write the answers to the store."""
        self.written += self.run.store.append(self.answers, anew=self.anew, tokens_per_s=self.tokens_per_s)
        self.on_shard(self.answers)
        self.answers, self.num_tokens, self.started = [], 0, time.monotonic()


def answer_requests(
    requests: Sequence[Request],
    run: Run,
    llm: Engine,
    *,
    anew: bool = False,
    on_shard: Callable[[list[StoredAnswer]], None] = lambda answers: None,
) -> int:
    """Let the engine answer, and write its answers to the store; return how many were written.

    Processes with the same requests share them: the second process begins at another request, and each leaves out
    requests that another process has answered meanwhile.
    """
    keys = pa.array((request.key for request in requests), KEY)
    fed: list[int] = []
    others: set[bytes] = set()

    def feed(first: int) -> Iterator[Request]:
        for number in chain(range(first, len(requests)), range(first)):
            request = requests[number]
            if request.key not in others:
                fed.append(number)
                yield request

    writer = ShardWriter(run, llm, anew, on_shard)
    with Task(f"generate {run.kind}", len(requests), "answers") as task, run.store.writing() as is_first:
        middle = 0 if is_first else random.randrange(len(requests))
        try:
            for position, given in llm.generate(feed(middle)):
                is_due = writer.take(requests[fed[position]], given)
                task.advance(note=f"{writer.tokens_per_s:.0f} tok/s")
                if is_due:
                    if run.store.refresh() and not anew:
                        others = run.store.known(keys)
                    writer.write()
        finally:  # also if the engine fails half way
            writer.write()
    if not anew and (lost := len(run.store.missing(keys.unique()))):
        raise UserError(f"generate: {llm.name}: no answer to {lost:,} of {len(requests):,} prompts; run again")
    return writer.written


def stored_answer(
    request: Request, given: Answer, prompter: Prompter, engine: str, hardware: str, num_top: int
) -> StoredAnswer:
    """Return an answer as the store holds it, with `num_top` likeliest tokens at each position."""
    top = likeliest(given, num_top, engine)
    return StoredAnswer(
        key=request.key,
        transcript=request.transcript,
        emotion=request.emotion,
        prompt_token_ids=request.prompt_ids,
        text_ids=request.text_ids or None,
        continuation=prompter.decode(given.token_ids),
        token_ids=given.token_ids,
        finish_reason=given.finish_reason,
        end_id=given.end_id,
        seed=request.seed,
        logprob=given.logprob,
        top_ids=[[token for token, _ in step] for step in top] or None,
        top_logprobs=[[logprob for _, logprob in step] for step in top] or None,
        engine=engine,
        hardware=hardware,
        written_at=datetime.now(UTC).replace(microsecond=0),
    )


def likeliest(given: Answer, num_top: int, engine: str) -> list[list[tuple[int, float]]]:
    """Return the `num_top` likeliest tokens at each position, the likeliest first.

    vLLM may add the token of the answer to the likeliest ones. Raises UserError if a position has too few.
    """
    num_positions = len(given.token_ids) + (given.finish_reason == continuations.STOP) if num_top else 0
    steps = given.top[:num_positions]
    top = [sorted(step.items(), key=lambda entry: (-entry[1], entry[0]))[:num_top] for step in steps]
    if len(top) < num_positions or any(len(step) < num_top for step in top):
        raise UserError(
            f"generate.store_logprobs: {engine} did not return the {num_top} likeliest tokens at each position; "
            "set store_logprobs to 0 for this engine"
        )
    return top


def carry_out(plan: Plan, start: StartEngine) -> Counter[str]:
    """Answer the requests of a plan; return the number of written answers by engine.

    A plan without requests starts no engine.
    """
    if not plan.requests:
        return Counter()
    llm = start()
    return Counter({llm.name: answer_requests(plan.requests, plan.run, llm)})


def read_continuations(utterances: pa.Table, keys: pa.Array, run: Run, chosen: dict[bytes, int]) -> pa.Table:
    """Return each utterance's continuation from the store; the finish reason says why there is none.

    The agreement is null.
    """
    num_top = run.settings.store_logprobs
    signals = continuations.SIGNALS_SCHEMA if num_top else pa.schema([])
    found = run.store.read(keys, chosen, [*_STORED, *signals.names, "text_ids", "prompt_token_ids"])
    no_text = pc.fill_null(pc.equal(utterances["text"], ""), True)
    reason = pc.if_else(no_text, continuations.NO_TRANSCRIPT, continuations.NO_EMOTION)
    reason = pc.if_else(pc.is_null(keys), reason, continuations.PROMPT_TOO_LONG)
    no_ids = pa.scalar([], pa.list_(pa.int32()))
    defaults = {"continuation": "", "token_ids": no_ids, "finish_reason": reason, "engine": ""}
    columns = {name: pc.coalesce(found[name], defaults[name]) if name in defaults else found[name] for name in _STORED}
    if run.backbone is not None:
        columns["token_ids"] = _retokenized(columns["continuation"], run.trained_prompter)
        columns["end_id"] = pa.nulls(len(keys), pa.int32())  # the trained LLM has other tokens
    columns |= {name: _first(found[name], num_top) for name in signals.names}
    schema = pa.schema([*continuations.SCHEMA, *signals])
    columns = {name: pa.nulls(len(keys), schema.field(name).type) for name in _NOT_STORED} | columns
    columns["id"] = utterances["id"]
    columns["key"] = pa.array([key and key.hex() for key in keys.to_pylist()], pa.string())
    columns["text_ids"], columns["num_prompt_tokens"] = _prompts(found, utterances, keys, run)
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def _prompts(found: pa.Table, utterances: pa.Table, keys: pa.Array, run: Run) -> tuple[pa.Array, pa.Array]:
    """Return the token ids of the transcripts and the lengths of the prompts, for the tokenizer of the trained LLM.

    Those of stored answers come from the store, so that no tokenizer is loaded if all answers are stored.
    """
    text_ids = found["text_ids"].combine_chunks()
    if run.backbone is not None:
        text_ids = pa.nulls(len(found), text_ids.type)
    lengths = pc.if_else(pc.is_valid(text_ids), pc.list_value_length(found["prompt_token_ids"].combine_chunks()), None)
    has_text = pc.fill_null(pc.not_equal(utterances["text"], ""), False).combine_chunks()
    unknown = pc.and_(has_text, pc.is_null(text_ids))
    rows = pc.indices_nonzero(unknown).to_numpy()
    texts = utterances["text"].take(pa.array(rows)).to_pylist()
    new = pa.array([*tokenised(texts, lambda: run.trained_prompter), []], text_ids.type)
    places = np.where(
        pc.is_valid(text_ids).to_numpy(zero_copy_only=False), np.arange(len(found)), len(found) + len(rows)
    )
    places[rows] = len(found) + np.arange(len(rows))
    text_ids = pa.concat_arrays([text_ids, new]).take(pa.array(places))
    emotions = utterances["emotion"].to_pylist() if run.signature.names_emotion else [None] * len(found)
    prompts = [
        len(run.trained_prompter.around(run.prompt, text_ids[row].as_py(), emotion=emotions[row]).ids)
        if keys[row].is_valid
        else None
        for row in rows.tolist()
    ]
    return text_ids, pc.replace_with_mask(lengths, unknown, pa.array(prompts, lengths.type))


def _first(column: pa.ChunkedArray, num_top: int) -> pa.Array:
    """Return the first `num_top` entries at each position; the store may hold more."""
    rows = column.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(rows), 0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pc.list_slice(rows.flatten(), 0, num_top), mask=pc.is_null(rows))


def _retokenized(texts: pa.ChunkedArray, prompter: Prompter) -> pa.Array:
    """Return another LLM's answers as token ids of the LLM that is trained."""
    return pa.array([prompter.answer_ids(text) for text in texts.to_pylist()], pa.list_(pa.int32()))
