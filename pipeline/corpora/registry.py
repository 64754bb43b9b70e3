"""The readers of pipeline/corpora/readers by name; a file there is a reader, and nothing else makes it known."""

import dataclasses
import functools
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.corpora.corpus import Corpus
from pipeline.corpora.readers.hub import open_dataset
from pipeline.corpora.readers.table import open_table
from pipeline.stage import UserError

FOLDER = Path(__file__).parent / "readers"
_OF_ANY_CORPUS = {"__init__", "table", "hub"}  # not of one corpus: a table of clips, a dataset on the hub


def names() -> list[str]:
    """Return the names of all readers."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in _OF_ANY_CORPUS)


def load(name: str) -> Corpus:
    """Import one reader alone; NAME:PART is one that reads a part of the corpus."""
    name, _, subset = name.partition(":")
    if name not in names():
        raise UserError(f"--corpus: found {name}, expected one of {', '.join([*names(), 'table', 'hub:ID'])}")
    module = importlib.import_module(f"pipeline.corpora.readers.{name}")
    corpus: Corpus = module.CORPUS
    if not subset:
        return corpus
    if subset not in corpus.subsets:
        expected = ", ".join(corpus.subsets) or "no part"
        raise UserError(f"--corpus: {name}: found the part {subset}, expected {expected}")
    return dataclasses.replace(corpus, read=functools.partial(corpus.read, subset=subset))


def folds(name: str) -> Mapping[str, Sequence[str]]:
    """Return the published folds of a reader's corpus; a table or a Hugging Face dataset has none."""
    return load(name).folds if name.partition(":")[0] in names() else {}


def open_corpus(name: str, root: Path, table: Path | None, mapping: Path | None) -> Corpus:
    """Return the corpus that --corpus names: a reader, `table`, or `hub:ID` for a Hugging Face dataset."""
    if mapping is None:
        mapping = root / "mapping.yaml"
    if name == "table":
        return open_table(root, table, mapping)
    if name.startswith("hub:"):
        return open_dataset(name.removeprefix("hub:"), root, mapping)
    return load(name)
