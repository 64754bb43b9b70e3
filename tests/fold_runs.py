"""One fold of a protocol on a manifest, from the printed parameters through split to the selected rows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from evaluate.commands.protocols import fold_params
from evaluate.protocols.definition import Protocol
from evaluate.protocols.selection import RunFacts, select
from pipeline.split.__main__ import SplitParams, assign, divide
from pipeline.tables import parquet
from tests.builders import recognised


def run_fold(protocol: Protocol, table: pa.Table, fold: str, folder: Path) -> tuple[pa.Table, pa.Table]:
    """Split the manifest for a fold, and return its rows of train and dev, and those that the protocol selects."""
    corpus = protocol.reader
    parquet.write(table, folder / f"{corpus}.parquet")
    values = fold_params(protocol, fold, corpus, protocol.name)
    fractions = {"dev_fraction": 0.1, "test_fraction": 0.0}
    options = SplitParams(
        seed=1, semantic=[corpus], emotion=[corpus], folds={}, lists={}, test_sentences=[], **fractions,
        test_speakers=values.get("split", {}).get("test_speakers", {}),
    )  # fmt: skip
    divided = divide(assign(table, corpus, options, {}), "emotion", values["emotions"], options).kept
    test, train = (divided.filter(where) for where in (pc.field("split") == "test", pc.field("split") != "test"))
    trained = {speaker.partition("/")[2] for speaker in train["speaker"].unique().to_pylist()}
    run = RunFacts(
        classes=values["emotions"],
        readers={corpus: corpus},
        manifests=folder,
        recognition_prompt={},
        trained={corpus: trained},
    )
    found = select(protocol, recognised(test.select(["id", "speaker", "emotion"]).to_pylist(), ["sad"]), run)
    assert found is not None
    assert found.left_out == 0
    selected = found.predictions.filter(pc.field("system") == "head")
    assert len(selected) == found.num_rows
    return train, selected
