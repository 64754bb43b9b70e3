"""The corpora of a run: section `ingest` of params.yaml."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline import params
from pipeline.params import Section

Check = Literal["samples", "headers"]


class CorpusParams(Section):
    """A corpus; its key in the section is its name. DVC passes all values to ingest as options."""

    reader: Annotated[str, Field(pattern="^[a-z0-9_]+$")]
    """Name of a file in pipeline/corpora/readers."""
    root: str
    check: Check
    """samples decodes all audio; headers reads only file headers, which suffices for LibriSpeech and GigaSpeech."""
    subset: str | None = None
    """A subset of the reader's corpus, such as M of GigaSpeech; without it, all of the corpus."""
    dataset: str | None = None
    """With the reader hub: the id of the Hugging Face data set."""


def read_roots(params_file: Path) -> dict[str, Path]:
    """Return the root of each corpus in the section."""
    corpora = params.load(params_file, "ingest", dict[str, CorpusParams])
    return {name: Path(corpus.root) for name, corpus in corpora.items()}
