"""Split: join the manifests of the corpora into one of speech with transcripts and one of emotional speech.

A corpus keeps its official splits, unless `lists` names the split of each clip. `folds` and `test_speakers` name the
test speakers of a corpus without an official test split. pipeline/split/speakers.py assigns the other speakers, each
to one split. Official splits and lists may share speakers; the stage leaks reports them.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer
from pydantic import Field

from pipeline import params
from pipeline.corpora.params import CorpusParams
from pipeline.corpora.transcript import normalise
from pipeline.params import Alignment, ParamsFile, Section
from pipeline.split import emobox_lists, speakers
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import emotions, manifest, parquet

EXCLUDED_SCHEMA = manifest.SCHEMA.append(pa.field("reason", pa.string()))

Fraction = Annotated[float, Field(ge=0, lt=1)]
Corpora = Annotated[list[str], Field(min_length=1)]


class SplitParams(Section):
    """The corpora of both manifests, and their splits. A corpus is in at most one of test_speakers, folds and lists."""

    seed: int
    semantic: Corpora
    """Corpora of stage 1."""
    emotion: Corpora
    """Corpora of stage 2."""
    dev_fraction: Fraction
    test_fraction: Fraction
    test_speakers: dict[str, list[str]]
    """Corpus: published ids of its test speakers, in place of test_fraction."""
    folds: dict[str, str]
    """Corpus: name of a fold of its reader; the fold names the test speakers."""
    lists: dict[str, str]
    """For each corpus, the folder with EmoBox's lists of one fold.

    The lists replace the official splits. A clip that is in no list is left out.
    """
    test_sentences: list[str]
    """Transcripts that only test may have: the rows of train and dev with these words are left out."""


@dataclass(frozen=True, slots=True)
class Divided:
    """The rows of a manifest, and the rows that it leaves out, each with a reason."""

    kept: pa.Table
    excluded: pa.Table


def assign(table: pa.Table, corpus: str, options: SplitParams, folds: Mapping[str, Collection[str]]) -> pa.Table:
    """Assign a split to each row of a corpus; `folds` maps each of its folds to the test speakers.

    The split of a row is null if the row is in no list, or if the corpus has official splits that do not cover the row.
    Raises UserError if the parameters do not fit the corpus.
    """
    chosen: set[str] = set()
    if corpus in options.lists:
        table = speakers.with_splits(table, emobox_lists.match(table, corpus, Path(options.lists[corpus])))
    elif corpus in options.test_speakers:
        chosen = speakers.choose(table, corpus, options.test_speakers[corpus], "split.test_speakers")
    elif corpus in options.folds:
        name = options.folds[corpus]
        if name not in folds:
            raise UserError(f"split.folds: {corpus} has no fold {name}; expected one of {', '.join(folds) or 'none'}")
        chosen = speakers.choose(table, corpus, folds[name], "split.folds", allow_missing=True)
        if len(chosen) < len(folds[name]):
            say(f"split: {corpus}: found {len(chosen)} of the {len(folds[name])} test speakers of {name}")
    fractions = {"dev_fraction": options.dev_fraction, "test_fraction": options.test_fraction}
    return speakers.assign_speakers(table, corpus, chosen, seed=options.seed, **fractions)


def divide(table: pa.Table, kind: Alignment, classes: Iterable[str], options: SplitParams) -> Divided:
    """Leave out the rows that an alignment of this kind cannot use."""
    no_split, no_text, emotion = pc.is_null(table["split"]), pc.is_null(table["text"]), table["emotion"]
    is_listed = pc.is_in(table["corpus"], pa.array(list(options.lists), pa.string()))
    rules: list[tuple[Any, Any]] = [(pc.and_(no_split, is_listed), "in no list"), (no_split, "no official part")]
    if kind == "emotion":
        is_class = pc.is_in(emotion, pa.array(list(classes), pa.string()))
        rules.append((pc.is_null(emotion), "no emotion"))
        rules.append((pc.invert(is_class), pc.binary_join_element_wise("not a class", emotion, ": ")))
        # a test clip needs no transcript; in training, the LLM continues the transcript
        no_text = pc.and_(no_text, pc.not_equal(table["split"], "test"))
    rules.append((no_text, "no transcript"))
    if options.test_sentences:
        not_test = pc.not_equal(table["split"], "test")
        rules.append((pc.and_(has_sentence(table, options.test_sentences), not_test), "words of test_sentences"))
    conditions = pc.make_struct(*(rule[0] for rule in rules), field_names=[str(i) for i in range(len(rules))])
    reasons = pc.case_when(conditions, *(rule[1] for rule in rules))
    excluded = table.append_column(EXCLUDED_SCHEMA.field("reason"), reasons).filter(pc.is_valid(reasons))
    return Divided(table.filter(pc.is_null(reasons)), excluded)


def has_sentence(table: pa.Table, sentences: Iterable[str]) -> pa.Array:
    """Return which rows have the words of one of `sentences`, without regard to case and punctuation."""
    texts = table["text"].combine_chunks().dictionary_encode()
    wanted = {normalise(sentence) for sentence in sentences}
    is_wanted = pa.array([normalise(text) in wanted for text in texts.dictionary.to_pylist()], pa.bool_())
    return pc.fill_null(is_wanted.take(texts.indices), False)


def check_sentences(sentences: Iterable[str], tested: pa.Table) -> None:
    """Raise UserError if no row of `tested` has the words of a sentence."""
    found = {normalise(text) for text in pc.unique(tested["text"]).to_pylist() if text}
    for sentence in sentences:
        if normalise(sentence) not in found:
            raise UserError(f"split.test_sentences: no test clip has the words {sentence!r}")


def check_classes(table: pa.Table, classes: Iterable[str]) -> None:
    """Raise UserError if a class has no row."""
    found = {label for label in table["emotion"].unique().to_pylist() if label}
    for name in classes:
        if name not in found:
            expected = ", ".join(sorted(found)) or "none"
            raise UserError(f"emotions: no clip has the emotion {name}; expected some of {expected}")


def read_folds(summary: Path) -> Mapping[str, Collection[str]]:
    """Read the folds of a corpus from the summary that ingest has written: the test speakers by fold."""
    try:
        folds: dict[str, list[str]] = json.loads(summary.read_bytes())["folds"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{summary}: found no folds; expected a summary that ingest has written; run ingest") from None
    return folds


def join(manifests: Path, corpora: list[str], options: SplitParams) -> pa.Table:
    """Read the manifests of `corpora`, assign their splits, and sort the rows by id."""
    if len(set(corpora)) < len(corpora):
        raise UserError(f"split: expected each corpus once, found {', '.join(corpora)}")
    joined = []
    for corpus in corpora:
        folds = read_folds(manifests / "ingested" / f"{corpus}.json") if corpus in options.folds else {}
        joined.append(assign(manifest.read(manifests / f"{corpus}.parquet"), corpus, options, folds))
    return pa.concat_tables(joined).sort_by("id")


def check_corpora(options: SplitParams, ingested: Collection[str]) -> None:
    """Raise UserError if a corpus is unknown, is in neither manifest, or gets its splits from two parameters."""
    corpora = [*options.semantic, *options.emotion]
    unknown = [corpus for corpus in corpora if corpus not in ingested]
    if unknown:
        raise UserError(f"split: {unknown[0]} is not listed under ingest; expected some of {', '.join(ingested)}")
    keys: dict[str, str] = {}
    for key in ("test_speakers", "folds", "lists"):
        for corpus in getattr(options, key):
            if corpus not in corpora:
                raise UserError(f"split.{key}: {corpus} is in neither split.semantic nor split.emotion")
            if keys.setdefault(corpus, key) != key:
                raise UserError(f"split: expected {corpus} in one of {keys[corpus]} and {key}, found it in both")


def main(
    manifests: Annotated[Path, typer.Option(help="Folder with the manifests of the corpora.")],
    semantic: Annotated[Path, typer.Option(help="Output: the manifest of speech with transcripts.")],
    emotion: Annotated[Path, typer.Option(help="Output: the manifest of emotional speech.")],
    excluded: Annotated[Path, typer.Option(help="Output: the table of the rows left out, with reasons.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Join the corpora into two manifests, and assign a split to each row."""
    options = params.load(params_file, "split", SplitParams)
    ingested = params.load(params_file, "ingest", dict[str, CorpusParams])
    classes = emotions.read_classes(params_file)
    check_corpora(options, ingested)
    emotional = join(manifests, options.emotion, options)
    check_classes(emotional, classes)
    speech = divide(join(manifests, options.semantic, options), "semantic", classes, options)
    acted = divide(emotional, "emotion", classes, options)
    if options.test_sentences:
        kept = pa.concat_tables([speech.kept, acted.kept])
        check_sentences(options.test_sentences, kept.filter(pc.field("split") == "test"))
    left_out = pa.concat_tables([speech.excluded, acted.excluded])
    parquet.write(speech.kept, semantic)
    parquet.write(acted.kept, emotion)
    parquet.write(left_out, excluded)
    counts = f"semantic {_count(speech.kept)}, emotion {_count(acted.kept)}"
    reasons = _counted(left_out["reason"]).most_common()
    why = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
    say(f"split: {counts} rows for train/dev/test; {left_out.num_rows:,} excluded" + (f" ({why})" if why else ""))


def _count(table: pa.Table) -> str:
    counts = _counted(table["split"])
    return "/".join(f"{counts[split]:,}" for split in manifest.SPLITS)


def _counted(column: pa.ChunkedArray) -> Counter[str]:
    """Count the values of a column, in the order in which they first appear."""
    found = column.value_counts()
    return Counter(dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)))


if __name__ == "__main__":
    run_stage(main)
