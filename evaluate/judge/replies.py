"""Ask the judge, and keep its replies in the store of generate, so that a killed run goes on where it was.

A reply is found again by the judge (weights, chat template, decoding), the whole prompt, the form that the engine makes
the reply follow, and the seed. So an edited answer or prompt is asked about anew, and everything else is not.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import xxhash

from evaluate.judge.params import JudgeParams
from evaluate.judge.questions import SYSTEM, Question, read_reply
from pipeline.generate.answers import stored_answer
from pipeline.generate.engines import choose, machine
from pipeline.generate.engines.interface import Engine, Request
from pipeline.generate.run import SHARD_S
from pipeline.generate.signature import make_signature
from pipeline.generate.store import KEY, AnswerStore, StoredAnswer
from pipeline.params import Processes
from pipeline.progress import Task, heartbeat
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError
from pipeline.weights.source import fetch, name_weights

ROWS_PER_SHARD = 1_000


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with the row that it is about."""

    about: Mapping[str, Any]
    """The row's columns that the reply does not change."""
    question: Question


class Judge:
    """An LLM that answers questions, and the store of its replies."""

    def __init__(self, params: JudgeParams, processes: Processes) -> None:
        """Fetch the LLM and open the store; the LLM is loaded when a reply is missing."""
        self.params, self.processes = params, processes
        self.settings = params.engine_params
        self.folder = fetch(params.llm)
        self.name = name_weights(params.llm, self.folder)
        prompt = Prompt(system=SYSTEM, text="", speech="")
        self.store = AnswerStore(make_signature(self.settings, prompt, params.llm, self.folder))

    def ask(self, asked: Sequence[Asked], name: str) -> list[dict[str, Any]]:
        """Return the rows about which was asked, with the replies and what was read from them.

        Equal questions of a repeat are asked once. `name` is for the progress. Raises UserError if a question is too
        long.
        """
        if not asked:
            return []
        keys = [self._key(each.question) for each in asked]
        questions = dict(zip(keys, (each.question for each in asked), strict=True))
        missing = self.store.missing(pa.array(list(questions), KEY)).to_pylist()
        if missing:
            self._answer([self._request(key, questions[key]) for key in missing], name)
        replies = self.store.read(pa.array(keys, KEY), {}, ["continuation"])["continuation"].to_pylist()
        return [self._row(each, reply) for each, reply in zip(asked, replies, strict=True)]

    def _row(self, asked: Asked, reply: str) -> dict[str, Any]:
        form = asked.question.form
        read = read_reply(reply, form)
        return {
            **asked.about,
            "repeat": asked.question.repeat,
            "seed": self._seed(asked.question),
            "judge": self.name,
            "prompt": xxhash.xxh3_128_hexdigest(f"{SYSTEM}\n{asked.question.said}".encode()),
            "reply": reply,
            **(dict.fromkeys(form.model_fields) if read is None else read.model_dump()),
        }

    def _seed(self, question: Question) -> int | None:
        return None if self.params.temperature == 0 else self.params.seed + question.repeat - 1

    def _schema(self, question: Question) -> str | None:
        return None if self.params.engine == "transformers" else question.json_schema

    def _key(self, question: Question) -> bytes:
        return xxhash.xxh3_128_digest(f"{self._seed(question)}\n{self._schema(question)}\n{question.said}".encode())

    def _request(self, key: bytes, question: Question) -> Request:
        ids = self._prompter.words(SYSTEM, question.said).ids
        if len(ids) > self.settings.max_prompt_tokens:
            raise UserError(
                f"judge.max_model_len: found a question of {len(ids)} tokens, expected at most "
                f"{self.settings.max_prompt_tokens}, which leaves room for judge.max_new_tokens; it is "
                f"{question.said[:200]!r}…"
            )
        return Request(key, question.said, None, ids, self._seed(question), json_schema=self._schema(question))

    def _answer(self, requests: Sequence[Request], name: str) -> None:
        """Let the engine reply, and write its replies into the store, a shard at a time."""
        llm, shard, started = self._engine, list[StoredAnswer](), time.monotonic()
        with Task(f"judge: {name}", len(requests), "replies") as task:
            try:
                for position, given in llm.generate(requests):
                    reply = stored_answer(requests[position], given, self._prompter, llm.name, llm.hardware, 0)
                    shard.append(reply)
                    task.advance()
                    if len(shard) == ROWS_PER_SHARD or time.monotonic() - started > SHARD_S:
                        self.store.append(shard)
                        shard, started = [], time.monotonic()
            finally:  # also if the engine fails half way
                self.store.append(shard)
        if lost := len(self.store.missing(pa.array([request.key for request in requests], KEY))):
            raise UserError(f"judge: {llm.name}: no reply to {lost:,} of {len(requests):,} questions; run again")

    @cached_property
    def _prompter(self) -> Prompter:
        choose.prepare(self.settings)
        return Prompter.load(self.folder)

    @cached_property
    def _engine(self) -> Engine:
        with heartbeat(f"judge: starting the engine {self.params.engine}"):
            return machine.start(self.settings, self.processes, self.params.llm, self.folder, self._prompter)
