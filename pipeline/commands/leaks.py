"""Print a table of the leaks: the data that test shares with train and dev."""

from collections import Counter
from pathlib import Path

import pyarrow.compute as pc

from pipeline.commands.text_tables import lay_out
from pipeline.leaks.__main__ import (
    FOLDER,
    LEAK_KINDS,
    EmotionManifest,
    Leaks,
    Output,
    SemanticManifest,
    check,
    find_all,
)
from pipeline.params import ParamsFile
from pipeline.stage import say
from pipeline.tables import parquet


def describe(leaks: Leaks) -> str:
    """Lay out the number of shared values by corpus and kind; a cell is blank if the corpus has no data on the kind."""
    found = leaks.table
    names = [kind.replace("_", " ") for kind in LEAK_KINDS]
    rows = [["corpus of test", *names]]
    for corpus, kinds in sorted(leaks.known.items()):
        counts = Counter(found.filter(pc.equal(found["corpus"], corpus))["kind"].to_pylist())
        rows.append([corpus, *(f"{counts[kind]:,}" if kind in kinds else "" for kind in LEAK_KINDS)])
    allowed = found.filter(pc.is_valid(found["allowed"])).group_by(["kind", "corpus", "allowed"]).aggregate([])
    notes = sorted("{allowed}: {kind} of {corpus}".format(**row) for row in allowed.to_pylist())
    return "\n".join([lay_out(rows), *notes])


def main(
    semantic: SemanticManifest = FOLDER / "semantic.parquet",
    emotion: EmotionManifest = FOLDER / "emotion.parquet",
    output: Output = FOLDER / "leaks.parquet",
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Report the leaks from train and dev into test, by corpus.

    Writes the table of leaks too. Fails if the section leaks of the parameter file forbids a leak.
    """
    leaks = find_all(semantic, emotion, params_file)
    parquet.write(leaks.table, output)
    say(describe(leaks))
    check(leaks.table, output)
