"""The protocols on the lists of the real corpora: published counts, and folds that test each clip once.

EmoBox's lists name every clip with its label. They become manifests, which the stage split divides with the parameters
that the command prints for a fold. Nothing here needs audio.
"""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from evaluate.commands.protocols import fold_params
from evaluate.protocols.definition import Protocol, load_protocol
from evaluate.protocols.selection import RunFacts, select
from pipeline.corpora import registry
from pipeline.split.__main__ import SplitParams, assign, divide
from pipeline.tables import manifest, parquet
from tests.builders import recognised, utterance

pytestmark = pytest.mark.shared

SPEAKERS: dict[str, Callable[[str], str]] = {
    "iemocap": lambda name: name[:5] + name[-4],  # Ses01F_impro04_M000: session 1, the man
    "meld": lambda name: "anyone",
    "cremad": lambda name: name[:4],
    "ravdess": lambda name: name[-2:],
}
"""Speaker of a clip by the name of its file, independently of the readers."""

MELD_SPLITS = {"train_splits": "train", "dev_splits_complete": "dev", "output_repeated_splits_test": "test"}


def read_list(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def id_of(corpus: str, entry: dict[str, Any]) -> str:
    path = PurePosixPath(entry["wav"])
    return f"{corpus}/{path.parent.name}/{path.stem}"


def make_manifest(corpus: str, emobox: Path) -> pa.Table:
    labels = registry.load(corpus).labels
    if corpus == "ravdess":  # its lists capitalise the labels
        labels = {label.capitalize(): emotion for label, emotion in labels.items()}
    rows = [
        utterance(
            id_of(corpus, entry), corpus=corpus, text="words", emotion=labels[entry["emo"]],
            speaker=f"{corpus}/{SPEAKERS[corpus](PurePosixPath(entry['wav']).stem)}",
            split=MELD_SPLITS[PurePosixPath(entry["wav"]).parent.name] if corpus == "meld" else None,
        )
        for entry in read_list(emobox / corpus / f"{corpus}.jsonl.gz")
    ]  # fmt: skip
    return parquet.from_rows(rows, manifest.SCHEMA)


def run_fold(protocol: Protocol, table: pa.Table, fold: str, folder: Path) -> tuple[pa.Table, pa.Table]:
    """Split the manifest for a fold, and return its rows of train and dev, and those that the protocol selects."""
    corpus = protocol.reader
    parquet.write(table, folder / f"{corpus}.parquet")
    values = fold_params(protocol, fold, corpus, protocol.name)
    fractions = {"dev_fraction": 0.1, "test_fraction": 0.0}
    options = SplitParams(
        seed=1, semantic=[corpus], emotion=[corpus], folds={}, lists={}, **fractions,
        test_speakers=values.get("split", {}).get("test_speakers", {}),
    )  # fmt: skip
    divided = divide(assign(table, corpus, options, {}), "emotion", values["emotions"], []).kept
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


FOLDED = ["iemocap-loso-4", "cremad-actor-6", "ravdess-actor-8", "ravdess-actor-5"]


@pytest.mark.parametrize("name", FOLDED)
def test_the_folds_test_each_clip_once_and_never_a_speaker_of_training(name: str, shared: Path, tmp_path: Path) -> None:
    protocol = load_protocol(name)
    table = make_manifest(protocol.reader, shared / "data" / "EmoBox")
    tested: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for fold in protocol.folds or {}:
        train, test = run_fold(protocol, table, fold, tmp_path)
        assert set(train["split"].unique().to_pylist()) == {"train", "dev"}
        assert not set(train["speaker"].to_pylist()) & set(test["speaker"].to_pylist())
        tested.update(test["id"].to_pylist())
        counts.update(test["emotion"].to_pylist())
    assert counts == protocol.counts
    assert max(tested.values()) == 1
    of_classes = table.filter(pc.is_in(table["emotion"], pa.array(protocol.classes)))
    assert tested.keys() == set(of_classes["id"].to_pylist())


@pytest.mark.parametrize("name", ["iemocap-loso-4", "ravdess-actor-8"])
def test_the_folds_are_those_of_the_lists(name: str, shared: Path, tmp_path: Path) -> None:
    protocol = load_protocol(name)
    corpus, emobox = protocol.reader, shared / "data" / "EmoBox"
    table = make_manifest(corpus, emobox)
    for number, fold in enumerate(protocol.folds or {}, start=1):
        _, test = run_fold(protocol, table, fold, tmp_path)
        listed = read_list(emobox / corpus / f"fold_{number}" / f"{corpus}_test_fold_{number}.jsonl.gz")
        assert sorted(test["id"].to_pylist()) == sorted(id_of(corpus, entry) for entry in listed)


def test_emobox_tests_cremad_on_actors_of_its_training(shared: Path) -> None:
    folder = shared / "data" / "EmoBox" / "cremad" / "fold_1"
    train, test = (read_list(folder / f"cremad_{split}_fold_1.jsonl.gz") for split in ("train", "test"))
    actors = [{SPEAKERS["cremad"](PurePosixPath(entry["wav"]).stem) for entry in entries} for entries in (train, test)]
    assert len(actors[0] & actors[1]) == 91


@pytest.mark.parametrize("name", ["iemocap-s5-4", "meld-test-7", "meld-test-5", "ravdess-zeroshot-5"])
def test_a_single_test_has_the_published_counts(name: str, shared: Path, tmp_path: Path) -> None:
    protocol = load_protocol(name)
    (fold,) = protocol.folds or ["test"]
    train, test = run_fold(protocol, make_manifest(protocol.reader, shared / "data" / "EmoBox"), fold, tmp_path)
    assert Counter(test["emotion"].to_pylist()) == protocol.counts
    assert (len(train) == 0) == protocol.zero_shot


def test_the_official_table_of_meld_has_the_counts(shared: Path) -> None:
    protocol = load_protocol("meld-test-7")
    labels = registry.load("meld").labels
    with (shared / "data" / "MELD" / "test_sent_emo.csv").open(encoding="utf-8") as lines:
        assert Counter(labels[row["Emotion"]] for row in csv.DictReader(lines)) == protocol.counts
