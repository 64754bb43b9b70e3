"""Split: the manifests of the corpora become one of speech with transcripts and one of emotional speech.

A corpus with official parts keeps them; where it has train but no dev, dev_fraction of the train speakers
become dev, and it gives test speakers only where test_speakers names them. The speakers of any other corpus
are dealt to test, dev and train in an order that hashes the seed and the published speaker id: the same on
every machine, and the same for two names of one corpus. Fractions are of speakers, at least one where above 0.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import typer
import xxhash
from pydantic import Field

from pipeline import manifest, params, tables, taxonomy
from pipeline.params import ParamsFile, Section
from pipeline.stage import UserError, run, say

EXCLUDED_SCHEMA = manifest.SCHEMA.append(pa.field("reason", pa.string()))

Fraction = Annotated[float, Field(ge=0, lt=1)]
Corpora = Annotated[list[str], Field(min_length=1)]


class SplitParams(Section):
    """Which corpora go into which manifest, and how speakers are dealt."""

    seed: int
    semantic: Corpora
    """Corpora of stage 1."""
    emotion: Corpora
    """Corpora of stage 2."""
    dev_fraction: Fraction
    test_fraction: Fraction
    test_speakers: dict[str, list[str]]
    """Corpus: published ids of the speakers that make its test part, in place of test_fraction."""


def assign(table: pa.Table, corpus: str, options: SplitParams) -> pa.Table:
    """Give each row of a corpus its part; raises UserError where the speakers do not allow it."""
    part_of = _official(table, corpus)
    has_official = any(part_of.values())
    chosen = _chosen(corpus, set(part_of), options)
    if chosen and "test" in part_of.values():
        raise UserError(f"split.test_speakers: {corpus} has an official test part; expected no speakers for it")
    part_of.update(dict.fromkeys(chosen, "test"))
    free = _shuffled((speaker for speaker, part in part_of.items() if part in (None, "train")), options.seed)
    num_test = 0 if has_official or chosen else _share(options.test_fraction, len(free))
    num_dev = 0 if "dev" in part_of.values() else _share(options.dev_fraction, len(free))
    if free and num_test + num_dev >= len(free):
        raise UserError(
            f"split: {corpus}: expected speakers left for train, found {len(free)}, "
            f"of which test takes {num_test} and dev {num_dev}"
        )
    for i, speaker in enumerate(free):
        part_of[speaker] = "test" if i < num_test else "dev" if i < num_test + num_dev else "train"
    speakers = table["speaker"].combine_chunks().dictionary_encode()
    parts = pa.array([part_of[speaker] for speaker in speakers.dictionary.to_pylist()], pa.string())
    return table.set_column(manifest.SCHEMA.get_field_index("split"), "split", parts.take(speakers.indices))


def _official(table: pa.Table, corpus: str) -> dict[str, str | None]:
    """Read each speaker's official part."""
    part_of: dict[str, str | None] = {}
    pairs = table.select(["speaker", "split"]).group_by(["speaker", "split"]).aggregate([]).to_pylist()
    for pair in pairs:
        speaker, part = pair["speaker"], pair["split"]
        if part_of.setdefault(speaker, part) != part:
            raise UserError(f"split: {corpus}: expected one part for each speaker, found {speaker} in two")
    if None in part_of.values() and any(part_of.values()):
        raise UserError(f"split: {corpus}: expected an official part for all rows or for none, found both")
    return part_of


def _chosen(corpus: str, speakers: set[str], options: SplitParams) -> set[str]:
    chosen = {f"{corpus}/{speaker}" for speaker in options.test_speakers.get(corpus, [])}
    unknown = sorted(chosen - speakers)
    if unknown:
        raise UserError(f"split.test_speakers: no speaker {unknown[0]}; expected some of {', '.join(sorted(speakers))}")
    return chosen


def _shuffled(speakers: Iterable[str], seed: int) -> list[str]:
    def key(speaker: str) -> tuple[str, str]:
        published = speaker.partition("/")[2]
        return xxhash.xxh3_128_hexdigest(f"{seed}/{published}".encode()), speaker

    return sorted(speakers, key=key)


def _share(fraction: float, num_speakers: int) -> int:
    return max(1, round(fraction * num_speakers)) if fraction > 0 else 0


def select_classes(table: pa.Table, classes: list[str]) -> tuple[pa.Table, pa.Table]:
    """Divide emotion rows into those of the run's classes and the excluded ones, which carry a reason."""
    found = {label for label in table["emotion"].unique().to_pylist() if label}
    for name in classes:
        if name not in found:
            expected = ", ".join(sorted(found)) or "none"
            raise UserError(f"emotions: no emotion clip is {name}; expected some of {expected}")
    keep = pc.fill_null(pc.is_in(table["emotion"], pa.array(classes)), False)
    excluded = table.filter(pc.invert(keep))
    reasons = [f"not a class: {label}" if label else "no emotion" for label in excluded["emotion"].to_pylist()]
    return table.filter(keep), excluded.append_column("reason", pa.array(reasons, pa.string()))


def check_disjoint(table: pa.Table) -> None:
    """Raise UserError when a speaker or a recording is in two parts, under whatever names of corpora."""
    for column, what in (("speaker", "speaker"), ("content_hash", "recording")):
        counts = table.group_by(column).aggregate([("split", "count_distinct")])
        shared = counts.filter(pc.greater(counts["split_count_distinct"], 1))[column].to_pylist()
        if shared:
            rows = table.filter(pc.equal(table[column], shared[0])).sort_by("id")
            first = {row["split"]: row["id"] for row in reversed(rows.to_pylist())}
            found = " and ".join(f"{key} in {part}" for part, key in sorted(first.items()))
            raise UserError(f"split: expected each {what} in one part only, found {found}")


def join(manifests: Path, corpora: list[str], options: SplitParams) -> pa.Table:
    """Read the manifests of `corpora` and give their rows parts, sorted by id."""
    if len(set(corpora)) < len(corpora):
        raise UserError(f"split: expected each corpus once, found {', '.join(corpora)}")
    parts = [assign(manifest.read(manifests / f"{corpus}.parquet"), corpus, options) for corpus in corpora]
    return pa.concat_tables(parts).sort_by("id")


def main(
    manifests: Annotated[Path, typer.Option(help="Folder with the manifests of the corpora.")],
    semantic: Annotated[Path, typer.Option(help="Manifest of speech with transcripts to write.")],
    emotion: Annotated[Path, typer.Option(help="Manifest of emotional speech to write.")],
    excluded: Annotated[Path, typer.Option(help="Table of the rows left out, with reasons, to write.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Join corpora into the two manifests and deal speakers to train, dev and test."""
    options = params.load(params_file, "split", SplitParams)
    classes = taxonomy.read_classes(params_file)
    unlisted = sorted(set(options.test_speakers) - {*options.semantic, *options.emotion})
    if unlisted:
        raise UserError(f"{params_file}: split.test_speakers: {unlisted[0]} is in neither split.semantic nor .emotion")
    speech = join(manifests, options.semantic, options)
    emotional, left_out = select_classes(join(manifests, options.emotion, options), classes)
    check_disjoint(pa.concat_tables([speech, emotional]))
    tables.write(speech, semantic)
    tables.write(emotional, emotion)
    tables.write(left_out, excluded)
    counts = f"semantic {_count(speech)}, emotion {_count(emotional)}"
    say(f"split: {counts} rows for train/dev/test; {left_out.num_rows:,} excluded")


def _count(table: pa.Table) -> str:
    parts = Counter(table["split"].to_pylist())
    return "/".join(f"{parts[part]:,}" for part in manifest.SPLITS)


if __name__ == "__main__":
    run(main)
