"""What a run of generate has to answer: the utterances of a manifest, and of them what no one has answered yet."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import manifest, params, recipe, tables, taxonomy
from pipeline.engine import GenerateParams
from pipeline.prompts import Kind, Prompt, Prompter
from pipeline.recipe import Recipe
from pipeline.store import KEY, Shelf
from pipeline.weights import Weights, fetch

READ = pa.schema([manifest.SCHEMA.field(name) for name in ("id", "text", "emotion")])


@dataclass(frozen=True, slots=True)
class Job:
    """The parameters of a run, and the shelf of its answers."""

    kind: Kind
    settings: GenerateParams
    prompt: Prompt
    classes: frozenset[str]
    """Emotions that a prompt may name."""
    llm: Weights
    model: Path
    """Folder of the LLM."""
    shelf: Shelf

    @property
    def recipe(self) -> Recipe:
        """What the answers depend on, beside the utterance."""
        return self.shelf.recipe


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt that waits for its answer."""

    key: bytes
    transcript: str
    emotion: str | None
    """None where the prompt does not name it."""
    prompt_ids: tuple[int, ...]


def open_job(kind: Kind, params_file: Path) -> Job:
    """Read the parameters and open the shelf; the LLM is fetched, but not loaded."""
    settings = params.load(params_file, "generate", GenerateParams)
    prompt = params.load(params_file, f"prompts.{kind}", Prompt)
    llm = params.load(params_file, "models.llm", Weights)
    classes = taxonomy.read_classes(params_file)
    model = fetch(llm)
    shelf = Shelf(recipe.make(settings, prompt, llm, model))
    return Job(kind, settings, prompt, frozenset(classes), llm, model, shelf)


def read_utterances(path: Path) -> pa.Table:
    """Read what generate needs of a manifest, ordered by id."""
    return tables.read(path, READ).sort_by("id")


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


def missing(keys: pa.Array, job: Job) -> pa.Array:
    """Return the distinct keys that have no answer yet, in their order."""
    return job.shelf.missing(keys.drop_null().unique())


def make_requests(
    utterances: pa.Table, keys: pa.Array, wanted: pa.Array, job: Job, prompter: Prompter
) -> list[Request]:
    """Make a request of each of the `wanted` among the utterances' keys."""
    rows = utterances.take(pc.index_in(wanted, value_set=keys)).to_pylist()
    requests = []
    for key, row in zip(wanted.to_pylist(), rows, strict=True):
        emotion = row["emotion"] if job.recipe.names_emotion else None
        requests.append(Request(key, row["text"], emotion, prompter.text(job.prompt, row["text"], emotion=emotion).ids))
    return requests
