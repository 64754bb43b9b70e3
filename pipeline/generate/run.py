"""What a run of generate has to answer: the utterances of a manifest, as prompts for the LLM of the parameters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import params
from pipeline.generate import signature
from pipeline.generate.engines import choose
from pipeline.generate.engines.interface import Engine
from pipeline.generate.params import GenerateParams
from pipeline.generate.signature import Recipe
from pipeline.generate.store import KEY, Shelf
from pipeline.params import Alignment
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError
from pipeline.tables import emotions, manifest, parquet
from pipeline.weights.source import Weights, fetch

StartEngine = Callable[[], Engine]
PART_S = 60.0  # after which what a slow engine gives is written, however little
READ = pa.schema([manifest.SCHEMA.field(name) for name in ("id", "text", "emotion")])


@dataclass(frozen=True, slots=True)
class JobParams:
    """What the parameters say of a run."""

    settings: GenerateParams
    prompt: Prompt
    llm: Weights
    """What writes."""
    backbone: Weights | None
    """The LLM that is trained, where it is another one."""
    classes: frozenset[str]
    """Emotions that a prompt may name."""


@dataclass(frozen=True)
class Job:
    """A run, and the shelf of its answers."""

    kind: Alignment
    settings: GenerateParams
    prompt: Prompt
    classes: frozenset[str]
    """Emotions that a prompt may name."""
    llm: Weights
    model: Path
    """Folder of the LLM."""
    backbone: Path | None
    """Folder of the LLM that is trained, where it is another one."""
    shelf: Shelf

    @property
    def recipe(self) -> Recipe:
        """What the answers depend on, beside the utterance."""
        return self.shelf.recipe

    @cached_property
    def prompter(self) -> Prompter:
        """The LLM's tokenizer, loaded when it is first asked for."""
        choose.prepare(self.settings)
        return Prompter.load(self.model)

    def start_engine(self, seed: int | None = None) -> Engine:
        """Load the LLM, to draw with another seed than the parameters' where one is given."""
        settings = self.settings if seed is None else self.settings.model_copy(update={"seed": seed})
        return choose.start(settings, self.llm, self.model, self.prompter.end_id)


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt that waits for its answer."""

    key: bytes
    transcript: str
    emotion: str | None
    """None where the prompt does not name it."""
    prompt_ids: tuple[int, ...]
    seed: int | None
    """None where decoding is greedy."""


def open_job(kind: Alignment, params_file: Path) -> Job:
    """Read the parameters and open the shelf; the LLM is fetched, but not loaded."""
    return open_with(kind, read_params(kind, params_file))


def read_params(kind: Alignment, params_file: Path) -> JobParams:
    """Read what a parameter file says of a run.

    Raises UserError where the LLM is not the one that is trained, and the file does not allow that.
    """
    settings = params.load(params_file, "generate", GenerateParams)
    if kind != "semantic":  # stage 2 has no teacher
        settings = settings.model_copy(update={"store_logprobs": 0})
    trained = params.load(params_file, "models.llm", Weights)
    llm = settings.generator or trained
    if llm != trained and not settings.allow_foreign_generator:
        raise UserError(
            f"generate.generator: found {llm.source}, expected {trained.source}, the model that is trained to continue "
            "as it does itself; set generate.allow_foreign_generator to true to let another one write"
        )
    if llm != trained and settings.store_logprobs:
        raise UserError(
            f"generate.store_logprobs: found {settings.store_logprobs}, expected 0: the likeliest tokens of "
            f"{llm.source} teach another model nothing"
        )
    return JobParams(
        settings=settings,
        prompt=params.load(params_file, f"prompts.{kind}", Prompt),
        llm=llm,
        backbone=None if llm == trained else trained,
        classes=frozenset(emotions.read_classes(params_file)),
    )


def open_with(kind: Alignment, given: JobParams) -> Job:
    """Open the shelf of a run with these parameters; the LLM is fetched, but not loaded."""
    model = fetch(given.llm)
    shelf = Shelf(signature.make(given.settings, given.prompt, given.llm, model), num_top=given.settings.store_logprobs)
    backbone = None if given.backbone is None else fetch(given.backbone)
    return Job(kind, given.settings, given.prompt, given.classes, given.llm, model, backbone, shelf)


def read_utterances(path: Path) -> pa.Table:
    """Read what generate needs of a manifest, ordered by id."""
    return parquet.read(path, READ).sort_by("id")


def keys_of(utterances: pa.Table, job: Job) -> pa.Array:
    """Return the key of each utterance's answer; null for one that no prompt can be made of.

    That is one without a transcript and, where the prompt names the emotion, one without a label or with another label
    than the run's classes.
    """
    key, texts = job.recipe.key, utterances["text"].to_pylist()
    if not job.recipe.names_emotion:
        return pa.array([key(text, None) if text else None for text in texts], KEY)
    pairs = zip(texts, utterances["emotion"].to_pylist(), strict=True)
    return pa.array([key(text, emotion) if text and emotion in job.classes else None for text, emotion in pairs], KEY)


def make_requests(utterances: pa.Table, keys: pa.Array, wanted: pa.Array, job: Job) -> list[Request]:
    """Make a request of each of the `wanted` among the utterances' keys."""
    rows = utterances.take(pc.index_in(wanted, value_set=keys)).to_pylist()
    return [make_request(key, row, job) for key, row in zip(wanted.to_pylist(), rows, strict=True)]


def make_request(key: bytes, utterance: Mapping[str, Any], job: Job) -> Request:
    """Make the request of an utterance's key."""
    text, emotion = utterance["text"], utterance["emotion"] if job.recipe.names_emotion else None
    ids = job.prompter.text(job.prompt, text, emotion=emotion).ids
    return Request(key, text, emotion, ids, job.recipe.seed)


def seed_anew(requests: Sequence[Request], job: Job) -> list[Request]:
    """Return requests for further generations: drawing, each has the seed of its number, counted from the recipe's."""
    if job.recipe.seed is None:
        return list(requests)
    newest = job.shelf.newest([request.key for request in requests])
    seeds = [job.recipe.seed + generations for generations in newest]
    return [replace(request, seed=seed) for request, seed in zip(requests, seeds, strict=True)]
