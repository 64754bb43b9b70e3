"""Every protocol is scored by the stage on made-up clips in the shape of its corpus: its speakers and all emotions."""

import json
from typing import Any

import pytest
import yaml
from sklearn.metrics import recall_score

from evaluate.metrics import Metrics
from evaluate.protocols.definition import Protocol, load_protocol, names
from evaluate.score import __main__ as score
from pipeline.tables import parquet
from pipeline.tables.emotions import EMOTIONS
from tests.builders import divergence_table, recognised, utterance, write_table

PROTOCOLS = {name: load_protocol(name) for name in names()}
OTHERS = {"other-1", "other-2"}  # speakers of each corpus whom no fold tests
Row = dict[str, Any]


def speakers_of(protocol: Protocol) -> set[str]:
    """Return the published ids of the test speakers; none if the official split is tested."""
    return {speaker for fold in (protocol.folds or {}).values() for speaker in fold}


def clips_of(reader: str) -> list[Row]:
    """Return a clip of each emotion by each test speaker of a corpus, and by others; its name is that of its reader."""
    speakers = OTHERS.union(*(speakers_of(each) for each in PROTOCOLS.values() if each.reader == reader))
    return [
        {"id": f"{reader}/{speaker}-{emotion}", "speaker": f"{reader}/{speaker}", "emotion": emotion}
        for speaker in sorted(speakers)
        for emotion in EMOTIONS
    ]


@pytest.fixture(scope="module")
def clips() -> list[Row]:
    return [clip for reader in sorted({each.reader for each in PROTOCOLS.values()}) for clip in clips_of(reader)]


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory, clips: list[Row]) -> Metrics:
    folder = tmp_path_factory.mktemp("protocols")
    readers = sorted({each.reader for each in PROTOCOLS.values()})
    ingest = {reader: {"reader": reader, "root": "r", "check": "samples"} for reader in readers}
    values = {
        "emotions": list(EMOTIONS),
        "score": {"confidence": 0.95, "protocols": list(PROTOCOLS)},
        "ingest": ingest,
        "prompts": {"recognition": {"system": "S", "text": "T", "speech": "A"}},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    rows = [utterance(clip["id"], split="test", duration_s=1.0) | clip for clip in clips]
    for kind in ("semantic", "emotion"):
        write_table(folder / "manifests" / f"{kind}.parquet", rows if kind == "emotion" else rows[:1])
    for reader in readers:
        official = [row for row in rows if row["id"].startswith(f"{reader}/")]
        write_table(folder / "manifests" / f"{reader}.parquet", official)
    parquet.write(recognised(clips, [*EMOTIONS, None]), folder / "recognition.parquet")
    parquet.write(divergence_table(gap=0.1), folder / "divergence.parquet")
    score.main(
        divergence=folder / "divergence.parquet",
        recognition=folder / "recognition.parquet",
        metrics=folder / "metrics.json",
        confusions=folder / "confusions.json",
        plots=folder / "plots",
        manifests=folder / "manifests",
        params_file=folder / "params.yaml",
    )
    found: Metrics = json.loads((folder / "metrics.json").read_text())
    return found


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_scores_its_classes_and_speakers_and_no_others(
    name: str, metrics: Metrics, clips: list[Row]
) -> None:
    protocol = PROTOCOLS[name]
    answers = [[*EMOTIONS, None][number % (len(EMOTIONS) + 1)] for number in range(len(clips))]
    tested = [
        (clip["emotion"], answer or "none")
        for clip, answer in zip(clips, answers, strict=True)
        if clip["id"].startswith(f"{protocol.reader}/")
        and clip["emotion"] in protocol.classes
        and (protocol.folds is None or clip["speaker"].partition("/")[2] in speakers_of(protocol))
    ]
    truth, predicted = (list(column) for column in zip(*tested, strict=True))
    scores = metrics[name]
    assert scores["protocol"]["rows"] == scores["head"]["n"] == len(tested) >= len(protocol.classes)
    assert scores["head"]["ua"] == pytest.approx(
        recall_score(truth, predicted, labels=protocol.classes, average="macro", zero_division=0), abs=1e-6
    )
