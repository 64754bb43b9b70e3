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
import yaml

from evaluate.protocols.definition import load_protocol
from evaluate.protocols.scoring import score_protocols
from evaluate.protocols.selection import RunFacts
from pipeline.corpora import registry
from pipeline.tables import manifest, parquet
from tests.builders import recognised, utterance
from tests.fold_runs import run_fold

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


def test_the_four_actors_of_real_small_are_partial(shared: Path, root: Path) -> None:
    values = yaml.safe_load((root / "recipes" / "real-small.yaml").read_text())
    (name,) = values["score"]["protocols"]
    protocol, corpus = load_protocol(name), registry.load("ravdess")
    actors = values["split"]["test_speakers"]["ravdess"]
    clips = [
        {
            "id": f"ravdess/{clip.utterance}",
            "speaker": f"ravdess/{clip.speaker}",
            "emotion": corpus.labels[clip.emotion or ""],
        }
        for clip in corpus.read(shared / "data" / "RAVDESS")
        if clip.speaker in actors and corpus.labels[clip.emotion or ""] in values["emotions"]
    ]
    run = RunFacts(
        classes=values["emotions"], readers={"ravdess": "ravdess"}, manifests=Path("nowhere"), recognition_prompt={},
        trained={"ravdess": {"01", "14", "19"}},
    )  # fmt: skip
    predictions = recognised(clips, ["sad"])
    metrics = score_protocols([protocol], predictions, run, 0.95)
    assert metrics[name]["protocol"] == {
        "rows": 144, "rows_expected": 864, "rows_left_out": 0, "classes": 5, "options": 5
    }  # fmt: skip
    assert metrics[name]["head"]["wa"] == pytest.approx(32 / 144, abs=1e-6)
