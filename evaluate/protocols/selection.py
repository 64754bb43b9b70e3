"""The rows of a run that a protocol tests, and the check that the run keeps its conditions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from evaluate.protocols.definition import Protocol, choose_corpus, corpora_of
from pipeline.corpora.params import CorpusParams
from pipeline.params import Alignment, load
from pipeline.stage import UserError
from pipeline.tables import manifest, parquet
from pipeline.tables.emotions import read_classes

_TRAINED_SCHEMA = pa.schema([manifest.SCHEMA.field(name) for name in ("corpus", "speaker", "split")])
_OFFICIAL_SCHEMA = pa.schema([manifest.SCHEMA.field(name) for name in ("id", "split")])
_ALIGNMENTS: tuple[Alignment, ...] = ("semantic", "emotion")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What decides whether a run keeps the conditions of a protocol."""

    classes: Sequence[str]
    """The emotions that the model may answer."""
    readers: Mapping[str, str]
    """Reader of each corpus."""
    manifests: Path
    """Folder of the manifests; those of the corpora have the official splits."""
    recognition_prompt: Mapping[str, str]
    trained: Mapping[str, Collection[str]]
    """Published ids of the speakers of each corpus that either stage of training has in train or dev."""


@dataclass(frozen=True, slots=True)
class SelectedRows:
    """The predictions of the rows that a protocol tests."""

    corpus: str
    predictions: pa.Table
    num_rows: int
    left_out: int
    """Number of the corpus' rows with predictions that are of other classes or other speakers."""


def read_facts(params_file: Path, manifests: Path) -> RunFacts:
    """Read the facts of a run from its parameters and from the manifests that split has written."""
    trained: dict[str, set[str]] = {}
    for kind in _ALIGNMENTS:
        table = parquet.read(manifests / f"{kind}.parquet", _TRAINED_SCHEMA)
        speakers = table.filter(pc.field("split") != "test").group_by(["corpus", "speaker"]).aggregate([])
        for corpus, speaker in zip(speakers["corpus"].to_pylist(), speakers["speaker"].to_pylist(), strict=True):
            trained.setdefault(corpus, set()).add(_published(speaker))
    ingested = load(params_file, "ingest", dict[str, CorpusParams])
    return RunFacts(
        classes=read_classes(params_file),
        readers={name: corpus.reader for name, corpus in ingested.items()},
        manifests=manifests,
        recognition_prompt=load(params_file, "prompts.recognition", dict[str, str]),
        trained=trained,
    )


def select(protocol: Protocol, predictions: pa.Table, run: RunFacts) -> SelectedRows | None:
    """Return the predictions of the rows that a protocol tests; None if they have none of its corpus.

    Raises UserError if the run does not keep the conditions of the protocol.
    """
    corpora = corpora_of(protocol, run.readers)
    there = [corpus for corpus in predictions["corpus"].unique().to_pylist() if corpus in corpora]
    if not there:
        return None
    corpus = choose_corpus(protocol, there, "among the predictions")
    _check_conditions(protocol, run)
    of_corpus = predictions.filter(pc.field("corpus") == corpus)
    selected = of_corpus.filter(pc.is_in(of_corpus["emotion"], pa.array(protocol.classes)))
    if protocol.folds is not None:
        speakers = [f"{corpus}/{speaker}" for fold in protocol.folds.values() for speaker in fold]
        selected = selected.filter(pc.is_in(selected["speaker"], pa.array(speakers)))
    counts = _count_rows(selected)
    num_rows = sum(counts.values())
    if num_rows == 0:
        raise UserError(f"{protocol.name}: found no test row of its classes and speakers in {corpus}, expected some")
    for emotion, count in counts.items():
        if protocol.counts and count > protocol.counts[emotion]:
            expected = f"at most {protocol.counts[emotion]:,}"
            raise UserError(f"{protocol.name}: {corpus}: found {count:,} test rows of {emotion}, expected {expected}")
    if protocol.folds is None:
        _check_official(protocol, corpus, selected["id"], run.manifests)
    _check_training(protocol, corpora, speakers_of(selected), run.trained)
    return SelectedRows(corpus, selected, num_rows, sum(_count_rows(of_corpus).values()) - num_rows)


def speakers_of(predictions: pa.Table) -> set[str]:
    """Return the published ids of the speakers."""
    return {_published(speaker) for speaker in predictions["speaker"].unique().to_pylist()}


def _check_conditions(protocol: Protocol, run: RunFacts) -> None:
    for emotion in protocol.classes:
        if emotion not in run.classes:
            expected = f"all of {', '.join(protocol.classes)}"
            raise UserError(f"{protocol.name}: emotions: found {', '.join(run.classes)}, expected {expected}")
    prompt = protocol.recognition_prompt
    if prompt and prompt != run.recognition_prompt:
        raise UserError(f"{protocol.name}: prompts.recognition: found {run.recognition_prompt}, expected {prompt}")


def _check_official(protocol: Protocol, corpus: str, ids: pa.ChunkedArray, manifests: Path) -> None:
    """Raise UserError if a test row is not of the official test split; the run may have other splits.

    DVC does not know that score reads this manifest; the check changes no output.
    """
    table = parquet.read(manifests / f"{corpus}.parquet", _OFFICIAL_SCHEMA)
    official = table.filter(pc.field("split") == "test")["id"].combine_chunks()
    for found in ids.filter(pc.invert(pc.is_in(ids, official)))[:1].to_pylist():
        raise UserError(f"{protocol.name}: found the test row {found}, expected only rows of the official test split")


def _check_training(
    protocol: Protocol, corpora: Sequence[str], tested: Collection[str], trained: Mapping[str, Collection[str]]
) -> None:
    """Raise UserError if training has rows that the protocol forbids, also under another name of the corpus."""
    for corpus in corpora:
        speakers = trained.get(corpus, ())
        if protocol.zero_shot and speakers:
            raise UserError(f"{protocol.name}: found rows of {corpus} in train or dev, expected none (zero-shot)")
        if protocol.folds is not None and (both := sorted(set(speakers) & set(tested))):
            found = f"test speaker {both[0]} of {corpus}"
            raise UserError(f"{protocol.name}: found the {found} in train or dev, expected only other speakers")


def _count_rows(predictions: pa.Table) -> dict[str, int]:
    """Count the rows of each emotion; a row has predictions of several systems."""
    counts = predictions.group_by("emotion").aggregate([("id", "count_distinct")])
    return dict(zip(counts["emotion"].to_pylist(), counts["id_count_distinct"].to_pylist(), strict=True))


def _published(speaker: str) -> str:
    """Return the published id of a speaker, whose id begins with the name of the corpus."""
    return speaker.partition("/")[2]
