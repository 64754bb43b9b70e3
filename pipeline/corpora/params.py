"""Where the corpora lie: section ingest of params.yaml."""

from pathlib import Path
from typing import Literal

from pipeline import params
from pipeline.params import Section

Check = Literal["samples", "headers"]


class CorpusParams(Section):
    """A corpus; its key in the section is its name."""

    reader: str
    """Name of a reader in pipeline/corpora/readers, as --corpus takes it."""
    root: str
    check: Check
    """What ingest looks at: all samples, or headers alone where they suffice, as for LibriSpeech and GigaSpeech."""


def read_roots(params_file: Path) -> dict[str, Path]:
    """Return the root of each corpus that the section lists."""
    corpora = params.load(params_file, "ingest", dict[str, CorpusParams])
    return {name: Path(corpus.root) for name, corpus in corpora.items()}
