"""Find leaks from train and dev into the test rows of both manifests; fail if a leak is forbidden.

A leak is a shared speaker, dialogue, sentence (equal normalised text), recording (equal content hash) or near-identical
recording (matching fingerprint). Acted corpora share sentences by design, and official splits often share speakers. So
`forbid` and `allow` say which leaks a run accepts. Unknown speakers, dialogues and transcripts never count as
shared.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc
import typer

from pipeline import params
from pipeline.corpora.params import read_roots
from pipeline.leaks import near_duplicates
from pipeline.params import Alignment, ParamsFile, Section
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import manifest, parquet

LeakKind = Literal["speaker", "dialogue", "sentence", "audio", "near_audio"]
LEAK_KINDS: tuple[LeakKind, ...] = get_args(LeakKind)

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("corpus", pa.string()),  # corpus of the test rows
        ("value", pa.string()),  # the shared id, sentence or hash; for near_audio, the id of the test row
        ("train_rows", pa.int64()),
        ("dev_rows", pa.int64()),
        ("test_rows", pa.int64()),
        ("seen_id", pa.string()),  # first row with the value in train, or else in dev
        ("test_id", pa.string()),  # first row with the value in test
        ("allowed", pa.string()),  # the parameter that allows the leak; null if it is forbidden
    ]
)

FOLDER = Path("manifests")
SemanticManifest = Annotated[Path, typer.Option(help="Manifest of speech with transcripts.")]
EmotionManifest = Annotated[Path, typer.Option(help="Manifest of emotional speech.")]
Output = Annotated[Path, typer.Option(help="Output: the table of leaks.")]

_COLUMNS = (
    "id", "corpus", "audio", "start_s", "duration_s", "text", "speaker", "dialogue", "split", "content_hash",
)  # fmt: skip
_READ = pa.schema([manifest.SCHEMA.field(name) for name in _COLUMNS])


class LeaksParams(Section):
    """The section `leaks`."""

    forbid: list[LeakKind]
    """Kinds of leaks on which the stage fails."""
    allow: dict[str, list[LeakKind]]
    """Exceptions to `forbid`, by corpus of the test rows."""
    near_audio_of: list[Alignment]
    """Manifests whose clips are searched for near-identical recordings."""


@dataclass(frozen=True, slots=True)
class Leaks:
    """The leaks of a run."""

    table: pa.Table
    """Rows of SCHEMA."""
    known: Mapping[str, set[LeakKind]]
    """For each corpus with test rows, the kinds of leaks that can be checked with its metadata and audio."""


def find(table: pa.Table, kind: LeakKind) -> pa.Table:
    """Return the leaks of a kind, one row for each value and corpus of the test rows, sorted by corpus and value."""
    keyed = table.select(["id", "corpus", "split"]).append_column("value", keys(table, kind))
    return shared(keyed.filter(pc.is_valid(keyed["value"])), kind)


def keys(table: pa.Table, kind: LeakKind) -> pa.ChunkedArray:
    """Return each row's value of a kind, such as its speaker; null if it is unknown."""
    if kind == "speaker":  # the column has corpus name, a slash, published id; an unknown speaker may be anybody
        return pc.if_else(
            pc.match_substring_regex(table["speaker"], f"/({manifest.UNKNOWN_SPEAKER})?$"), None, table["speaker"]
        )
    if kind == "dialogue":
        return pc.binary_join_element_wise(table["corpus"], table["dialogue"], "/")
    values = table["text" if kind == "sentence" else "content_hash"]
    return pc.if_else(pc.equal(values, ""), None, values)


def find_near(table: pa.Table, corpora: Mapping[str, Path]) -> pa.Table:
    """Return the test rows with the same recording as a row of train or dev, in the form of `find`."""
    names = ("id", "corpus", "split", "value")
    pairs = near_duplicates.pairs(table, corpora)
    keyed = {(row["id"], row["corpus"], row["split"], test["id"]) for seen, test in pairs for row in (seen, test)}
    rows = [dict(zip(names, row, strict=True)) for row in sorted(keyed)]
    return shared(pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in names])), "near_audio")


def shared(keyed: pa.Table, kind: LeakKind) -> pa.Table:
    """Join the rows of train and dev with those of test that have the same value."""
    # in descending order, train comes before dev
    keyed = keyed.sort_by([("split", "descending"), ("id", "ascending")])
    for split in manifest.SPLITS:
        keyed = keyed.append_column(f"{split}_rows", pc.equal(keyed["split"], split).cast(pa.int64()))
    is_test = pc.equal(keyed["split"], "test")
    seen = keyed.filter(pc.invert(is_test)).group_by("value", use_threads=False)
    seen = seen.aggregate([("train_rows", "sum"), ("dev_rows", "sum"), ("id", "first")])
    seen = seen.rename_columns(["value", "train_rows", "dev_rows", "seen_id"])
    test = keyed.filter(is_test).group_by(["value", "corpus"], use_threads=False)
    test = test.aggregate([("test_rows", "sum"), ("id", "first")])
    test = test.rename_columns(["value", "corpus", "test_rows", "test_id"])
    found = test.join(seen, "value", join_type="inner").sort_by([("corpus", "ascending"), ("value", "ascending")])
    found = found.append_column("kind", pa.array([kind] * found.num_rows, pa.string()))
    return found.append_column("allowed", pa.nulls(found.num_rows, pa.string())).select(SCHEMA.names).cast(SCHEMA)


def mark_allowed(found: pa.Table, options: LeaksParams) -> pa.Table:
    """Fill the column `allowed` with the parameter that allows each leak."""
    reasons = []
    for kind, corpus in zip(found["kind"].to_pylist(), found["corpus"].to_pylist(), strict=True):
        is_allowed = kind in options.allow.get(corpus, [])
        reasons.append("not in leaks.forbid" if kind not in options.forbid else "leaks.allow" if is_allowed else None)
    return found.set_column(SCHEMA.get_field_index("allowed"), "allowed", pa.array(reasons, pa.string()))


def check(found: pa.Table, output: Path) -> None:
    """Raise UserError if a leak is not allowed; the message names the first pair of each kind."""
    forbidden = found.filter(pc.is_null(found["allowed"]))
    found_kinds = []
    for kind in forbidden["kind"].unique().to_pylist():
        rows = forbidden.filter(pc.equal(forbidden["kind"], kind))
        first = rows.slice(0, 1).to_pylist()[0]
        split = "train" if first["train_rows"] else "dev"
        found_kinds.append(
            f"{rows.num_rows:,} of kind {kind} (first {first['seen_id']} in {split}, {first['test_id']} in test)"
        )
    if found_kinds:
        raise UserError(f"leaks: expected no forbidden leak, found {'; '.join(found_kinds)}; see {output}")


def known_kinds(everything: pa.Table, compared: pa.Table) -> dict[str, set[LeakKind]]:
    """Return, for each corpus with test rows, the kinds of leaks that can be checked with its metadata and audio."""
    test = everything.filter(pc.equal(everything["split"], "test"))
    known: dict[str, set[LeakKind]] = {corpus: set() for corpus in test["corpus"].unique().to_pylist()}
    for kind in LEAK_KINDS:
        rows = compared if kind == "near_audio" else test.filter(pc.is_valid(keys(test, kind)))
        for corpus in rows["corpus"].unique().to_pylist():
            known.get(corpus, set()).add(kind)
    return known


def merge(manifests: Iterable[pa.Table]) -> pa.Table:
    """Join manifests. If a corpus is in both, with the same splits, its rows are taken once."""
    merged = _READ.empty_table()
    for table in manifests:
        is_new = pc.invert(pc.is_in(table["id"], merged["id"].combine_chunks()))
        merged = pa.concat_tables([merged, table.filter(is_new)])
    return merged


def find_all(semantic: Path, emotion: Path, params_file: Path) -> Leaks:
    """Find all leaks of two manifests; raises UserError if the parameters do not fit the manifests."""
    options = params.load(params_file, "leaks", LeaksParams)
    corpora = read_roots(params_file)
    manifests = {"semantic": parquet.read(semantic, _READ), "emotion": parquet.read(emotion, _READ)}
    everything, compared = merge(manifests.values()), merge(manifests[name] for name in options.near_audio_of)
    check_params(options, set(everything["corpus"].unique().to_pylist()), corpora)
    tables = [find(everything, kind) for kind in LEAK_KINDS if kind != "near_audio"]
    found = mark_allowed(pa.concat_tables([*tables, find_near(compared, corpora)]), options)
    return Leaks(found, known_kinds(everything, compared))


def main(
    semantic: SemanticManifest = FOLDER / "semantic.parquet",
    emotion: EmotionManifest = FOLDER / "emotion.parquet",
    output: Output = FOLDER / "leaks.parquet",
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Find leaks from train and dev into test, write them to a table, and fail if one is forbidden."""
    found = find_all(semantic, emotion, params_file).table
    parquet.write(found, output)
    check(found, output)
    say(f"leaks: test shares {found.num_rows:,} values with train or dev; none of them is forbidden")


def check_params(options: LeaksParams, found: set[str], corpora: Mapping[str, Path]) -> None:
    """Raise UserError if a corpus is unknown, or if near_audio is forbidden but not searched for."""
    unlisted = sorted(found - set(corpora))
    if unlisted:
        raise UserError(
            f"leaks: corpus {unlisted[0]} is not listed under ingest; expected some of {', '.join(corpora)}"
        )
    absent = sorted(set(options.allow) - found)
    if absent:
        raise UserError(f"leaks.allow: {absent[0]} is in neither manifest; expected some of {', '.join(sorted(found))}")
    if "near_audio" in options.forbid and not options.near_audio_of:
        raise UserError(
            "leaks.near_audio_of: expected semantic, emotion or both, found none, yet near_audio is forbidden"
        )


if __name__ == "__main__":
    run_stage(main)
