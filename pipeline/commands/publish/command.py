"""Publish what may be passed on of a packed folder, as a data set for the Hugging Face hub.

What the licence of a corpus forbids is withheld: clips, transcripts with their token ids, speakers, labels, teacher
signals, and continuations that repeat their transcript. What is published are Parquet shards, a dataset card, Croissant
metadata, and a script that rebuilds the packed folder for who has the corpora.
"""

import shutil
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from pipeline import params
from pipeline.commands.publish import card, croissant
from pipeline.commands.publish.card import Published
from pipeline.commands.publish.published import (
    DATA,
    SCRIPT_FILE,
    SIGNALS,
    Facts,
    SplitWriter,
    check_target,
    schema,
    whole_folder,
    write_facts,
)
from pipeline.commands.publish.terms import Terms, decide
from pipeline.commands.publish.withholding import ID, MAX_ECHO, POINTERS, RESPONSE, TEACHER, Counts, Withholder
from pipeline.commands.text_tables import lay_out
from pipeline.corpora.params import CorpusParams
from pipeline.filter.__main__ import FilterParams
from pipeline.pack.__main__ import PackParams
from pipeline.params import ParamsFile
from pipeline.progress import track
from pipeline.prompts import Prompter
from pipeline.stage import UserError, say
from pipeline.tables import manifest, packed
from pipeline.weights.source import Weights, fetch

LINES = 9
"""Number of corpora that the printed table lists; the card lists all."""


def read_terms(source: dict[str, packed.Rows], params_file: Path) -> dict[tuple[str, str | None], Terms]:
    """Return the terms of each pair of corpus and licence in the rows."""
    found = set()
    for rows in source.values():
        table = pa.table({name: rows.column(name) for name in ("corpus", "licence")})
        found |= {
            (row["corpus"], row["licence"]) for row in table.group_by(table.column_names).aggregate([]).to_pylist()
        }
    corpora = params.load(params_file, "ingest", dict[str, CorpusParams])
    return decide(sorted(found, key=str), corpora)


def publish(source: dict[str, packed.Rows], facts: Facts, withholder: Withholder, folder: Path) -> list[Published]:
    """Write the shards and descriptions to a folder; return the counts of each corpus."""
    counts = {pair: Counts() for pair in withholder.terms}
    shards = []
    for split, rows in source.items():
        if not len(rows):
            continue
        writer = SplitWriter(folder / DATA, split, schema(facts.has_signals), facts.shard_mb * 1_000_000)
        for row in track(rows, f"publish {split}", len(rows)):
            published = withholder.publish(row)
            counts[row["corpus"], row["licence"]].add(split, row, published)
            writer.add(published)
        shards += writer.close()
    groups = [Published(withholder.terms[pair], counts[pair]) for pair in counts]
    write_facts(folder, facts)
    card.write(folder, facts, groups, withholder.max_echo)
    croissant.write(folder, facts, groups, shards)
    shutil.copyfile(Path(__file__).with_name("rebuild_script.py"), folder / SCRIPT_FILE)
    return groups


def describe(groups: list[Published]) -> str:
    """Lay out what was withheld of each corpus, the largest first, and why."""
    ordered = sorted(groups, key=lambda group: -group.rows)
    header = ["corpus", "rows", "withheld", "pointers", "lost", "ids", "signals"]
    lines = [
        [
            group.terms.corpus,
            f"{group.rows:,}",
            f"{group.rows if group.terms.refused else 0:,}",
            *(f"{group.counts.lost[name]:,}" for name in (POINTERS, RESPONSE, ID, TEACHER)),
        ]
        for group in ordered[:LINES]
    ]
    reasons = [f"  {group.terms.corpus}: {group.terms.refused}" for group in ordered[:LINES] if group.terms.refused]
    more = [f"  … and {len(ordered) - LINES} more corpora, in README.md"] if len(ordered) > LINES else []
    return "\n".join([lay_out([header, *lines]), *reasons, *more])


def main(
    source: Annotated[Path, typer.Argument(metavar="PACKED", help="The packed folder.", show_default=False)],
    to: Annotated[Path, typer.Option(help="The folder to write.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Publish what may be passed on of a packed folder.

    Of a corpus whose licence forbids it, clips, transcripts, speakers, labels and teacher signals are withheld.
    A continuation that repeats its transcript is written as pointers into the transcript, or is lost if even the
    rest of it repeats too much. pipeline/corpora/licences.py says what is allowed; unknown means forbidden.

    In the table: rows that are withheld; continuations that became pointers or are lost; ids that hold the
    transcript; teacher signals.

    \b
    python -m pipeline publish data/packed/emotion --to published
    """
    check_target(to)
    shell = packed.load_shell(source)
    splits = {name: packed.Rows(source, name) for name in manifest.SPLITS if (source / name).is_dir()}
    if not any(map(len, splits.values())):
        raise UserError(f"{source}: found no packed rows; expected a folder that python -m pipeline.pack wrote")
    kind = "emotion" if shell.before_text is None else "semantic"
    terms = read_terms(splits, params_file)
    is_refused = any(each.refused for each in terms.values())
    prompter = Prompter.load(fetch(params.load(params_file, "models.llm", Weights))) if is_refused else None
    limit = params.load(params_file, f"filter.{kind}", FilterParams).max_echo
    facts = Facts(
        kind=kind,
        splits={name: len(rows) for name, rows in splits.items()},
        has_signals=any(set(SIGNALS) <= set(rows.names) for rows in splits.values()),
        shard_mb=params.load(params_file, "pack", PackParams).shard_mb,
    )
    withholder = Withholder(terms, prompter, MAX_ECHO if limit is None else limit)
    with whole_folder(to) as partial:
        shutil.copyfile(source / packed.SHELL_FILE, partial / packed.SHELL_FILE)
        groups = publish(splits, facts, withholder, partial)
    say(f"publish: {kind}: {sum(group.rows for group in groups):,} rows in {to}")
    say(describe(groups))
