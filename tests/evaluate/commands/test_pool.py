"""The runs of a protocol's folds become one table and one score; what does not fit together is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from sklearn.metrics import recall_score
from typer.testing import CliRunner

from evaluate.__main__ import app
from evaluate.commands.pool import POOLED_SCHEMA, RECOGNITION
from evaluate.predictions import SYSTEMS, read_recognition
from pipeline.stage import UserError
from pipeline.tables import parquet
from tests.builders import recognised, utterance, write_table

CLASSES = ["sad", "angry"]
OWN = {
    "name": "own-2", "about": "", "reader": "cremad", "classes": CLASSES, "headline": ["ua"], "source": "ours",
    "folds": {"one": ["1", "2"], "two": ["3"]}, "counts": {"sad": 6, "angry": 6},
}  # fmt: skip
SPEAKERS = ("1", "2", "3", "4")
PARAMS: dict[str, Any] = {
    "emotions": CLASSES,
    "ingest": {"acted": {"reader": "cremad", "root": "r", "check": "samples"}},
    "prompts": {"recognition": {"system": "S", "text": "T", "speech": "A"}},
    "fit": {"emotion": {"epochs": 3}},
    "score": {"confidence": 0.95, "protocols": []},
}


def make_clips(speakers: str) -> list[dict[str, str]]:
    return [
        {"id": f"acted/{speaker}_{emotion}_{take}", "speaker": f"acted/{speaker}", "emotion": emotion}
        for speaker in speakers
        for emotion in CLASSES
        for take in "ab"
    ]


def make_run(
    name: str, tested: str, trained: str | None = None, answers: Any = ("sad", "angry", None), **params: Any
) -> str:
    folder = Path("runs") / name
    rest = "".join(speaker for speaker in SPEAKERS if speaker not in tested) if trained is None else trained
    rows = [utterance(f"acted/{i}", corpus="acted", speaker=f"acted/{i}", split="train") for i in rest]
    for kind in ("semantic", "emotion"):
        write_table(folder / "manifests" / f"{kind}.parquet", rows)
    parquet.write(recognised(make_clips(tested), answers), folder / RECOGNITION)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"split": {"test": tested}} | params))
    return str(folder)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a protocol of two folds."""
    monkeypatch.chdir(tmp_path)
    Path("own-2.yaml").write_text(yaml.safe_dump(OWN))


def pool(*runs: str) -> str:
    arguments = ["pool", "own-2.yaml", *runs, "--output", "pooled"]
    return CliRunner().invoke(app, arguments, catch_exceptions=False).output


def refuse(message: str, *runs: str) -> None:
    with pytest.raises(UserError, match=message):
        pool(*runs)
    assert not Path("pooled").exists()


def test_every_clip_is_there_once_with_its_fold_and_all_are_scored_as_one() -> None:
    said = pool(make_run("a", "3"), make_run("b", "12", answers=["sad"]))
    table = parquet.read(Path("pooled/recognition.parquet"), POOLED_SCHEMA)
    assert len(table) == 12 * len(SYSTEMS)
    folds = {(row["id"], row["fold"]) for row in table.to_pylist()}
    assert folds == {(clip["id"], "two" if clip["speaker"] == "acted/3" else "one") for clip in make_clips("123")}
    assert read_recognition(Path("pooled/recognition.parquet"), CLASSES).num_rows == len(table)
    scores = json.loads(Path("pooled/metrics.json").read_text())
    assert list(scores) == ["own-2"]
    head = [row for row in table.to_pylist() if row["system"] == "head"]
    truth, predicted = [row["emotion"] for row in head], [row["predicted"] or "none" for row in head]
    expected = recall_score(truth, predicted, labels=CLASSES, average="macro")
    assert scores["own-2"]["head"]["ua"] == pytest.approx(expected, abs=1e-6)
    assert scores["own-2"]["protocol"] == {
        "rows": 12, "rows_expected": 12, "rows_left_out": 0, "classes": 2, "options": 2
    }  # fmt: skip
    assert said.startswith("pool: 2 folds: own-2: head ua 0.")
    assert "(12 rows, 0 left out)" in said


def test_the_order_of_the_runs_does_not_matter() -> None:
    runs = make_run("a", "3"), make_run("b", "12")
    pool(*runs)
    first = [Path("pooled", name).read_bytes() for name in ("recognition.parquet", "metrics.json")]
    pool(*reversed(runs))
    assert [Path("pooled", name).read_bytes() for name in ("recognition.parquet", "metrics.json")] == first


def test_a_missing_fold_is_named() -> None:
    refuse("own-2: found no run of the fold two, expected one of every fold", make_run("a", "12"))


def test_a_fold_that_is_tested_twice_is_named_with_both_runs() -> None:
    runs = make_run("a", "12"), make_run("b", "3"), make_run("c", "1", trained="4")
    refuse("found the fold one twice, in runs/a and runs/c; expected each clip once", *runs)
    refuse("found the fold one twice, in runs/a and runs/a", "runs/a", "runs/a", "runs/b")


def test_a_run_that_tests_two_folds_is_refused() -> None:
    refuse("runs/a: found test rows of the folds one, two, expected those of one", make_run("a", "123"))


def test_a_speaker_of_the_fold_in_training_is_refused_also_without_test_rows() -> None:
    refuse("own-2: found the test speaker 2 of acted in train or dev", make_run("a", "12", trained="24"))
    refuse("runs/a: found 2 of the fold one in train or dev, expected it only in test", make_run("a", "1", trained="2"))


def test_runs_with_other_parameters_are_refused() -> None:
    other = {"emotion": {"epochs": 4}}
    runs = make_run("a", "12"), make_run("b", "3", fit=other)
    refuse("runs/b/params.yaml: fit: expected it as in runs/a/params.yaml", *runs)
    pool(make_run("a", "12"), make_run("b", "3", report={"title": "x"}))


def test_a_run_without_the_corpus_and_a_protocol_without_folds_are_refused() -> None:
    readers = {"acted": {"reader": "tess", "root": "r", "check": "samples"}}
    refuse("runs/a: found no predictions of the reader cremad", make_run("a", "12", ingest=readers))
    with pytest.raises(UserError, match="meld-test-7: found no folds, expected some"):
        CliRunner().invoke(app, ["pool", "meld-test-7", "runs/a", "--output", "pooled"], catch_exceptions=False)
