"""The readers of corpora by name. A file in pipeline/corpora/readers is a reader; it is imported when it is used."""

import dataclasses
import functools
import importlib
from pathlib import Path
from types import ModuleType

from pipeline.corpora.corpus import Corpus
from pipeline.stage import UserError

FOLDER = Path(__file__).parent / "readers"
_OF_ANY_CORPUS = ("table", "hub")  # a table of clips, and a data set on the Hugging Face hub


def names() -> list[str]:
    """Return the names of the readers of published corpora."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", *_OF_ANY_CORPUS))


def load(name: str, subset: str | None = None) -> Corpus:
    """Import a reader and return its corpus, or one subset of it; raises UserError if one does not exist."""
    if name not in names():
        raise UserError(f"--reader: found {name}, expected one of {', '.join([*names(), *_OF_ANY_CORPUS])}")
    corpus: Corpus = _import(name).CORPUS
    if not subset:
        return corpus
    if subset not in corpus.subsets:
        expected = ", ".join(corpus.subsets) or "none"
        raise UserError(f"--subset: {name}: found {subset}, expected one of {expected}")
    return dataclasses.replace(corpus, read=functools.partial(corpus.read, subset=subset))


def open_corpus(
    reader: str,
    root: Path,
    *,
    subset: str | None = None,
    dataset: str | None = None,
    table: Path | None = None,
    mapping: Path | None = None,
) -> Corpus:
    """Return the corpus of a reader: a published one, `table`, or `hub` for a Hugging Face data set.

    NAME:SUBSET and hub:DATASET are short for a reader with its subset or data set.
    """
    name, _, rest = reader.partition(":")
    mapping = mapping or root / "mapping.yaml"
    corpus: Corpus
    if name == "table":
        corpus = _import(name).open_table(root, table, mapping)
    elif name == "hub":
        corpus = _import(name).open_dataset(dataset or rest or None, root, mapping)
    else:
        corpus = load(name, subset or rest)
    return corpus


def _import(name: str) -> ModuleType:
    return importlib.import_module(f"pipeline.corpora.readers.{name}")
