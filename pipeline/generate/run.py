"""A run of generate: its parameters, its store, and the requests for the utterances of a manifest."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import params
from pipeline.generate.engines import choose, machine
from pipeline.generate.engines.interface import Engine, Request
from pipeline.generate.params import GenerateParams
from pipeline.generate.signature import Signature, make_signature
from pipeline.generate.store import KEY, AnswerStore
from pipeline.params import Alignment, Processes
from pipeline.progress import heartbeat
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError
from pipeline.tables import emotions, manifest, parquet
from pipeline.weights.check import TrainingModels, check_models, read_training_models
from pipeline.weights.llm import outline_llm
from pipeline.weights.source import Weights, fetch

StartEngine = Callable[[], Engine]
SHARD_S = 60.0  # longest time between two shards: a slow engine writes small ones
REQUESTS = pa.schema(
    [
        ("key", KEY),
        ("text", pa.string()),
        ("emotion", pa.string()),
        ("text_ids", pa.list_(pa.int32())),
        ("num_prompt_tokens", pa.int32()),
        ("seed", pa.int64()),
    ]
)
READ = pa.schema([manifest.SCHEMA.field(name) for name in ("id", "text", "emotion")])


@dataclass(frozen=True, slots=True)
class RunParams:
    """The parameters of a run."""

    settings: GenerateParams
    prompt: Prompt
    llm: Weights
    """The LLM that writes."""
    backbone: Weights | None
    """The LLM that is trained, if it is another one."""
    classes: frozenset[str]
    """Emotions that a prompt may name."""
    training: TrainingModels
    """What training will use; it is checked before the engine starts."""
    processes: Processes
    """The number of engines on this machine, or auto; answers do not depend on it."""


@dataclass(frozen=True)
class Run:
    """A run and its store."""

    kind: Alignment
    settings: GenerateParams
    prompt: Prompt
    classes: frozenset[str]
    """Emotions that a prompt may name."""
    llm: Weights
    model: Path
    """Folder of the LLM."""
    backbone: Path | None
    """Folder of the LLM that is trained, if it is another one."""
    training: TrainingModels
    """What training will use; it is checked before the engine starts."""
    processes: Processes
    """The number of engines on this machine, or auto; answers do not depend on it."""
    store: AnswerStore

    @property
    def signature(self) -> Signature:
        """Everything that the answers depend on, except the utterance."""
        return self.store.signature

    @cached_property
    def prompter(self) -> Prompter:
        """The tokenizer of the LLM that writes; it is loaded at the first use."""
        choose.prepare(self.settings)
        return Prompter.load(self.model)

    @cached_property
    def trained_prompter(self) -> Prompter:
        """The tokenizer of the LLM that is trained; it is loaded at the first use."""
        return self.prompter if self.backbone is None else Prompter.load(self.backbone)

    def check_models(self) -> None:
        """Raise UserError if training could not use the models: its targets would be generated in vain."""
        choose.prepare(self.settings)
        with heartbeat(f"generate {self.kind}: checking the models"):
            if self.backbone is not None:
                outline_llm(self.model, "generate.generator")
            check_models(self.training, self.backbone or self.model)

    def start_engine(self) -> Engine:
        """Check the models of the whole run, and load the LLM."""
        self.check_models()
        with heartbeat(f"generate {self.kind}: starting the engine {self.settings.engine}"):
            return machine.start(self.settings, self.processes, self.llm, self.model, self.prompter)


def open_run(kind: Alignment, params_file: Path) -> Run:
    """Read the parameters and open the store; the LLM is fetched, but not loaded."""
    return open_run_with(kind, read_params(kind, params_file))


def read_params(kind: Alignment, params_file: Path) -> RunParams:
    """Read the parameters of a run.

    Raises UserError if another LLM than the trained one would write, and the file does not allow that.
    """
    settings = params.load(params_file, "generate", GenerateParams)
    if kind != "semantic":  # stage 2 has no teacher
        settings = settings.model_copy(update={"store_logprobs": 0})
    trained = params.load(params_file, "models.llm", Weights)
    llm = settings.generator or trained
    if llm != trained and not settings.allow_foreign_generator:
        raise UserError(
            f"generate.generator: found {llm.source}, expected {trained.source}: the trained LLM learns to continue "
            "speech as it continues text itself; set generate.allow_foreign_generator to true to use another LLM"
        )
    if llm != trained and settings.store_logprobs:
        raise UserError(
            f"generate.store_logprobs: found {settings.store_logprobs}, expected 0: the likeliest tokens of "
            f"{llm.source} cannot teach {trained.source}"
        )
    return RunParams(
        settings=settings,
        prompt=params.load(params_file, f"prompts.{kind}", Prompt),
        llm=llm,
        backbone=None if llm == trained else trained,
        classes=frozenset(emotions.read_classes(params_file)),
        training=read_training_models(params_file),
        processes=params.read_processes(params_file),
    )


def open_run_with(kind: Alignment, given: RunParams) -> Run:
    """Open the store of a run with these parameters; the LLM is fetched, but not loaded."""
    model = fetch(given.llm)
    signature = make_signature(given.settings, given.prompt, given.llm, model)
    store = AnswerStore(signature, num_top=given.settings.store_logprobs)
    backbone = None if given.backbone is None else fetch(given.backbone)
    return Run(
        kind,
        given.settings,
        given.prompt,
        given.classes,
        given.llm,
        model,
        backbone,
        given.training,
        given.processes,
        store,
    )


def read_utterances(path: Path) -> pa.Table:
    """Read the columns of a manifest that generate needs, ordered by id."""
    return parquet.read(path, READ).sort_by("id")


def keys_of(utterances: pa.Table, run: Run) -> pa.Array:
    """Return the key of each utterance's answer; null for an utterance without a possible prompt.

    A prompt needs a transcript. A prompt that names the emotion also needs a label among the run's classes.
    """
    key, names_emotion, classes = run.signature.key, run.signature.names_emotion, run.classes

    def of_row(text: str | None, emotion: str | None) -> bytes | None:
        if not text or (names_emotion and emotion not in classes):
            return None
        return key(text, emotion if names_emotion else None)

    made = [pa.array([], KEY)]
    for chunk in _chunks(utterances):
        made.append(pa.array(map(of_row, chunk["text"].to_pylist(), chunk["emotion"].to_pylist()), KEY))
    return pa.concat_arrays(made)


class Requests(Sequence[Request]):
    """The requests of a run as a table of REQUESTS; each is made when it is read.

    As objects, a million requests would need 2 GB.
    """

    def __init__(self, table: pa.Table, run: Run) -> None:
        self.table = table
        self._run = run

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Request]:
        for chunk in self.table.to_batches(max_chunksize=parquet.ROWS_AT_ONCE):
            yield from map(self._make, chunk.to_pylist())

    @overload
    def __getitem__(self, place: int) -> Request: ...

    @overload
    def __getitem__(self, place: slice) -> "Requests": ...

    def __getitem__(self, place: int | slice) -> "Request | Requests":
        if isinstance(place, slice):
            return Requests(self.table.take(pa.array(range(len(self))[place], pa.int64())), self._run)
        (row,) = self.table.slice(range(len(self))[place], 1).to_pylist()
        return self._make(row)

    def fitting(self) -> "Requests":
        """Return the requests whose prompt leaves room for a whole answer."""
        fits = pc.less_equal(self.table["num_prompt_tokens"], self._run.settings.max_prompt_tokens)
        return Requests(self.table.filter(fits), self._run)

    def with_seeds(self, seeds: Sequence[int]) -> "Requests":
        """Return the requests, each with a seed of its own."""
        number = self.table.schema.get_field_index("seed")
        return Requests(self.table.set_column(number, "seed", pa.array(seeds, pa.int64())), self._run)

    def _make(self, row: Mapping[str, Any]) -> Request:
        return replace(make_request(row["key"], row, row["text_ids"], self._run), seed=row["seed"])


def make_requests(utterances: pa.Table, keys: pa.Array, wanted: pa.Array, run: Run) -> Requests:
    """Make a request for each of the `wanted` keys; `keys` are those of the utterances."""
    rows = utterances.select(["text", "emotion"]).take(pc.index_in(wanted, value_set=keys)).append_column("key", wanted)
    tables = [REQUESTS.empty_table()]
    for chunk in _chunks(rows):
        made = chunk.to_pylist()
        text_ids = run.prompter.all_content_ids([row["text"] for row in made])
        pairs = zip(made, text_ids, strict=True)
        prompts = [make_request(row["key"], row, ids, run).prompt_ids for row, ids in pairs]
        columns = {
            **{name: chunk[name] for name in ("key", "text", "emotion")},
            "text_ids": pa.array(text_ids, REQUESTS.field("text_ids").type),
            "num_prompt_tokens": pa.array(map(len, prompts), pa.int32()),
            "seed": pa.array([run.signature.seed] * len(made), pa.int64()),
        }
        tables.append(pa.table(columns, REQUESTS))
    return Requests(pa.concat_tables(tables).combine_chunks(), run)


def tokenised(texts: Sequence[str], prompter: Callable[[], Prompter]) -> list[tuple[int, ...]]:
    """Return the token ids of transcripts; the tokenizer is not loaded if there are none."""
    return [ids for chunk in parquet.chunked(texts) for ids in prompter().all_content_ids(chunk)]


def make_request(key: bytes, utterance: Mapping[str, Any], text_ids: Sequence[int], run: Run) -> Request:
    """Make the request for an utterance's key, from the token ids of its transcript."""
    emotion = utterance["emotion"] if run.signature.names_emotion else None
    ids = run.prompter.around(run.prompt, text_ids, emotion=emotion).ids
    return Request(key, utterance["text"], emotion, ids, run.signature.seed, tuple(text_ids))


def seed_attempts(requests: Requests, run: Run) -> Requests:
    """Give each request the seed of its next attempt: the signature's seed plus the number of attempts so far.

    Greedy requests stay as they are.
    """
    if run.signature.seed is None:
        return requests
    newest = run.store.newest(requests.table["key"].to_pylist())
    return requests.with_seeds([run.signature.seed + attempts for attempts in newest])


def _chunks(table: pa.Table) -> list[pa.RecordBatch]:
    return table.to_batches(max_chunksize=parquet.ROWS_AT_ONCE)  # type: ignore[no-any-return]
