"""Where the corpora lie: section ingest of params.yaml."""

from pathlib import Path

from pipeline import params
from pipeline.params import Section


class CorpusParams(Section):
    """A corpus; its key in the section is its name."""

    reader: str
    """Name of a reader in pipeline/corpora, as --corpus takes it."""
    root: str


def read(params_file: Path) -> dict[str, Path]:
    """Return the root of each corpus that the section lists."""
    corpora = params.load(params_file, "ingest", dict[str, CorpusParams])
    return {name: Path(corpus.root) for name, corpus in corpora.items()}
