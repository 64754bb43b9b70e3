"""What a protocol is: the YAML file that defines it, and the parameters that a run needs for it.

A number of emotion recognition can be compared with another one only under the same protocol. The files beside this one
are the protocols by name. A file elsewhere has the same keys, and its path stands for its name.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field

from pipeline.params import Section, check, load_yaml
from pipeline.stage import UserError
from pipeline.tables.emotions import EMOTIONS

FOLDER = Path(__file__).parent
ANY_CORPUS = ("table", "hub")
"""Readers that read any corpus, so that they do not say which one."""

HeadlineMetric = Literal["ua", "wa", "macro_f1", "weighted_f1"]
"""Unweighted accuracy, weighted accuracy, macro-F1, and F1 weighted by the rows of each class."""

Name = Annotated[str, Field(pattern="^[a-z0-9]+(-[a-z0-9]+)*$")]
Names = Annotated[list[str], Field(min_length=1)]


class Published(Section):
    """A published result under the protocol."""

    system: str
    metric: HeadlineMetric
    percent: float = Field(ge=0, le=100)
    source: str
    """Paper or page, and the table."""
    note: str | None = None
    """In what the publication may differ from the protocol."""


class Protocol(Section):
    """The keys of a protocol's file; those with a default may be missing."""

    name: Name
    """The name of the file without .yaml: corpus, test rows, number of classes."""
    about: str
    """One sentence: what is tested, and what may be trained on."""
    reader: str
    """The corpus, by its reader: `ingest` of params.yaml gives each corpus a reader."""
    corpus: str | None = None
    """The name of the corpus under `ingest`, if its reader reads any corpus, as table and hub do."""
    classes: Annotated[list[str], Field(min_length=2)]
    """Unified emotions; rows of another emotion are left out."""
    folds: dict[Name, Names] | None = None
    """Name of a fold: the published ids of its test speakers. null: the rows of the official test split."""
    zero_shot: bool = False
    """Whether the corpus may not be in training at all. Otherwise only the test speakers of `folds` may not."""
    recognition_prompt: dict[Literal["system", "text", "speech"], str] | None = None
    """prompts.recognition of params.yaml, if the protocol prescribes it."""
    headline: Annotated[list[HeadlineMetric], Field(min_length=1)]
    counts: dict[str, int] | None = None
    """Published number of test rows of each class; null if it is not known of every class."""
    source: str
    """Who publishes the test rows or uses them."""
    note: str | None = None
    published: list[Published] = Field(default_factory=list)

    @property
    def rows_expected(self) -> int | None:
        """The number of test rows of all folds together, if it is known."""
        return sum(self.counts.values()) if self.counts else None

    @property
    def test_rows(self) -> str:
        """The test rows in a few words."""
        speakers = sum(map(len, (self.folds or {}).values()))
        folds = f"{len(self.folds or {})} folds, " if len(self.folds or {}) > 1 else ""
        tested = f"{folds}{speakers} speakers" if self.folds else "official test split"
        return tested + (", zero-shot" if self.zero_shot else "")


def names() -> list[str]:
    """Return the names of the protocols that this software knows."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_protocol(name: str) -> Protocol:
    """Read a protocol by its name, or by the path of its file; raises UserError if it is missing or invalid."""
    path = FOLDER / f"{name}.yaml" if name in names() else Path(name)
    if path.suffix != ".yaml" or not path.is_file():
        raise UserError(
            f"protocol {name}: no such file; expected a path to a .yaml file, or one of {', '.join(names())}"
        )
    protocol = check(str(path), "protocol", load_yaml(path, yaml.SafeLoader), Protocol)
    for found, expected in _mistakes(protocol, path):
        raise UserError(f"{path}: protocol.{found}; expected {expected}")
    return protocol


def load_protocols(wanted: Sequence[str]) -> list[Protocol]:
    """Read protocols as `load_protocol` does; raises UserError also if two have the same name."""
    protocols = [load_protocol(name) for name in wanted]
    for name, count in Counter(protocol.name for protocol in protocols).items():
        if count > 1:
            raise UserError(f"protocol {name}: found {count} times, expected once")
    return protocols


def _mistakes(protocol: Protocol, path: Path) -> Iterator[tuple[str, str]]:
    """Yield what is found, and what is expected, for keys that do not fit the file or each other."""
    if protocol.name != path.stem:
        yield f"name: found {protocol.name}", f"{path.stem}, the name of the file"
    for emotion in sorted(set(protocol.classes) - set(EMOTIONS)):
        yield f"classes: found {emotion}", f"some of {', '.join(EMOTIONS)}"
    speakers = [speaker for fold in (protocol.folds or {}).values() for speaker in fold]
    for key, values in (("classes", protocol.classes), ("folds", speakers)):
        for value in [value for value, count in Counter(values).items() if count > 1]:
            yield f"{key}: found {value} twice", "it once"
    if protocol.folds == {}:
        yield "folds: found none", "at least one, or null for the official test split"
    if protocol.counts is not None and set(protocol.counts) != set(protocol.classes):
        yield f"counts: found {', '.join(protocol.counts) or 'none'}", f"each of {', '.join(protocol.classes)}, or null"
    if (protocol.reader in ANY_CORPUS) != (protocol.corpus is not None):
        yield f"corpus: found {protocol.corpus}", f"a name with the readers {' and '.join(ANY_CORPUS)}, else null"


def check_folded(protocol: Protocol) -> None:
    """Raise UserError if the protocol has no folds."""
    if protocol.folds is None:
        raise UserError(f"{protocol.name}: found no folds, expected some; score tests it in a single run")


def find_fold(protocol: Protocol, fold: str) -> str:
    """Return the name of a fold, given by its name or its number from 1; raises UserError if there is none."""
    folds = list(protocol.folds or {"test": []})
    if fold.isdecimal() and 1 <= int(fold) <= len(folds):
        return folds[int(fold) - 1]
    if fold not in folds:
        expected = f"{', '.join(folds)} or a number from 1 to {len(folds)}"
        raise UserError(f"{protocol.name}: no fold {fold}; expected {expected}")
    return fold


def corpora_of(protocol: Protocol, readers: Mapping[str, str]) -> list[str]:
    """Return the corpora of the protocol; `readers` has the reader of each corpus under `ingest`."""
    return [name for name, reader in readers.items() if reader == protocol.reader and protocol.corpus in (None, name)]


def choose_corpus(protocol: Protocol, corpora: Sequence[str], where: str) -> str:
    """Return the only corpus of the protocol; raises UserError if `corpora` are none or several."""
    if len(corpora) != 1:
        found = ", ".join(corpora) or "none"
        raise UserError(f"{protocol.name}: expected one corpus of the reader {protocol.reader} {where}, found {found}")
    return corpora[0]
