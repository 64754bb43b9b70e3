"""From prediction tables to metrics.json and the tables of dvc plots."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from evaluate.judge_tables import MARKS_SCHEMA, PAIRS_SCHEMA
from evaluate.predictions import (
    OWN_ANSWERS_SCHEMA,
    OWN_SYSTEMS,
    OWN_WRITTEN_SCHEMA,
    PROMPTS_SCHEMA,
    RECOGNITION_SCHEMA,
    SEMANTICS_SCHEMA,
    TRANSCRIPTS_SCHEMA,
)
from evaluate.score import __main__ as score
from pipeline.stage import UserError
from pipeline.tables import parquet
from tests.builders import CLASSES, divergence_table, recognition_table, utterance, write_table

PARAMS = """
emotions: [neutral, sad, angry, happy]
score: {confidence: 0.95, protocols: []}
"""
UNDER_A_PROTOCOL = """
emotions: [neutral, sad, angry, happy]
score: {confidence: 0.95, protocols: [own-2.yaml]}
ingest: {acted: {reader: cremad, root: r, check: samples}}
prompts: {recognition: {system: S, text: T, speech: A}}
"""
OWN = """
name: own-2
about: Two classes of two speakers.
reader: cremad
classes: [sad, angry]
folds: {one: ["0", "1"]}
headline: [ua, wa]
counts: {sad: 10, angry: 11}
source: ours
"""


GROUPS = ("gender=female", "gender=male", "duration=long", "duration=medium", "duration=short")
KNOWN = ("speaker=trained", "speaker=new")


def prepare(folder: Path) -> dict[str, Any]:
    parquet.write(divergence_table(gap=0.05), folder / "divergence.parquet")
    parquet.write(recognition_table(), folder / "recognition.parquet")
    (folder / "params.yaml").write_text(PARAMS)
    for kind, terms in (("semantic", {"kl": 1.0}), ("emotion", {"ce": 1.0, "emotion": 0.5})):
        lines = [{"step": 5, "lr": 0.1, "loss": 1.5, **terms}, {"step": 5, **{f"dev_{k}": v for k, v in terms.items()}}]
        (folder / "models" / kind).mkdir(parents=True)
        (folder / "models" / kind / "losses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "divergence": folder / "divergence.parquet",
        "recognition": folder / "recognition.parquet",
        "metrics": folder / "metrics.json",
        "confusions": folder / "confusions.json",
        "plots": folder / "plots",
        "models": folder / "models",
        "params_file": folder / "params.yaml",
    }


def test_the_stage_writes_plain_rounded_numbers_and_the_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score.main(**prepare(tmp_path))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    tests = ["continuation_kl_libri", "emotion_acted"]
    assert list(metrics) == [*tests, "claims_emotion_acted", "claims_continuation_kl_libri"]
    numbers = [value for systems in metrics.values() for scores in systems.values() for value in scores.values()]
    assert len(numbers) > 50
    assert all(isinstance(value, int | float) and value == round(value, 6) for value in numbers)
    confusion = (tmp_path / "plots" / "confusion_prompted.csv").read_text().splitlines()
    assert confusion[0] == "corpus,actual,predicted"
    assert len(confusion) == 81
    assert any(line.endswith(",unparsable") for line in confusion)
    assert (tmp_path / "plots" / "loss_emotion.csv").read_text() == "step,lr,loss,ce,emotion\n5,0.1,1.5,1.0,0.5\n"
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("expected the manifest; there are no scores by gender and duration")
    assert told[1].startswith("score: unweighted accuracy of the emotion head: emotion_acted 0.")


def test_transcripts_and_the_tables_of_several_models_are_scored_if_they_are_there(tmp_path: Path) -> None:
    who = {"id": "libri/0", "corpus": "libri", "speaker": "s"}
    heard = {**who, "kind": "semantic", "language": "en", "text": "a b", "heard": "a", "errors": 1, "words": 2}
    write_table(tmp_path / "transcripts.parquet", [heard], TRANSCRIPTS_SCHEMA)
    for model, value in (("semantic", 1.0), ("emotion", 3.0)):
        row = {**who, "model": model, "task": "repeat", "system": "voice", "prompt": None, "answer": "", "weight": 2.0}
        write_table(tmp_path / f"{model}.parquet", [{**row, "value": value}], SEMANTICS_SCHEMA)
    tables = [tmp_path / f"{model}.parquet" for model in ("semantic", "emotion")]
    score.main(**prepare(tmp_path), transcripts=tmp_path / "transcripts.parquet", semantics=tables)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["transcripts_libri"]["whisper"]["wer"] == 0.5
    assert metrics["repeat_semantic_libri"]["voice"]["wer"] == 0.5
    assert metrics["repeat_emotion_libri"]["voice"]["wer"] == 1.5


def write_manifests(folder: Path, trained: str) -> None:
    rows = [utterance("acted/x", corpus="acted", speaker=trained, split="train")]
    rows += [utterance(f"acted/{i}", corpus="acted", speaker=f"acted/{i % 4}", split="test") for i in range(80)]
    rows = [row | {"gender": ("female", "male")[i % 2], "duration_s": float(i)} for i, row in enumerate(rows)]
    for kind in ("semantic", "emotion"):
        write_table(folder / "manifests" / f"{kind}.parquet", rows)


def test_protocols_have_scores_under_their_names_beside_those_of_the_corpora(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = prepare(tmp_path) | {"manifests": tmp_path / "manifests"}
    score.main(**paths)
    before = json.loads((tmp_path / "metrics.json").read_text())
    (tmp_path / "params.yaml").write_text(UNDER_A_PROTOCOL)
    (tmp_path / "own-2.yaml").write_text(OWN)
    write_manifests(tmp_path, trained="acted/2")
    score.main(**paths)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {name: metrics[name] for name in before} == before
    assert metrics.keys() - before.keys() == {"own-2", *(f"{group}/emotion_acted" for group in (*GROUPS, *KNOWN))}
    assert metrics["own-2"]["head"]["n"] == metrics["own-2"]["protocol"]["rows"] == 20
    assert metrics["own-2"]["protocol"]["rows_left_out"] == 60
    assert "score: own-2: head ua 0." in capsys.readouterr().out
    write_manifests(tmp_path, trained="acted/1")
    with pytest.raises(UserError, match=r"own-2: found the test speaker 1 of acted in train or dev"):
        score.main(**paths)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics


def test_the_stage_loads_no_torch(root: Path) -> None:
    code = "import sys, evaluate.score.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def write_own_answers(path: Path, num_clips: int) -> Path:
    rows = []
    for i in range(num_clips):
        who = {"id": f"acted/{i}", "corpus": "acted", "speaker": f"acted/{i % 4}", "emotion": CLASSES[i // 4 % 4]}
        likes = [0.0 if emotion == who["emotion"] else -9.0 for emotion in CLASSES]
        answers = {"logprobs": likes, "num_tokens": [3] * 4, "candidates": [0, 1, 2, 3], "named": [False] * 4}
        rows += [{**who, "text": "yes", "seen_words": False, "system": name, **answers} for name in OWN_SYSTEMS]
    return write_table(path, rows, OWN_ANSWERS_SCHEMA)


def test_own_answers_are_scored_if_there_are_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = prepare(tmp_path)
    score.main(**paths, own_answers=write_own_answers(tmp_path / "own.parquet", 32))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    own = ["own_answers_acted", "new_words_own_answers_acted"]
    assert list(metrics)[2:5] == [*own, "counterfactual_acted"]
    assert list(metrics)[7:] == [f"claims_{name}" for name in own]
    assert metrics["counterfactual_acted"]["voice"]["toward"] == 1.0
    assert metrics["own_answers_acted"]["voice"]["ua"] == 1.0
    confusions = json.loads((tmp_path / "confusions.json").read_text())["acted"]
    assert confusions["own_answers"] == [[8 * (i == j) for j in range(4)] for i in range(4)]
    assert capsys.readouterr().out.splitlines()[2] == (
        "score: own answers, unweighted accuracy: own_answers_acted 1.000 (chance 0.250), "
        "new_words_own_answers_acted 1.000 (chance 0.250)"
    )
    score.main(**paths, own_answers=write_own_answers(tmp_path / "own.parquet", 0))
    assert not [name for name in json.loads((tmp_path / "metrics.json").read_text()) if "own" in name]
    assert capsys.readouterr().out.endswith("score: own answers, unweighted accuracy: no test clip has them\n")


def test_written_answers_are_scored_if_there_are_any(tmp_path: Path) -> None:
    paths = prepare(tmp_path)
    row = {"id": "acted/0", "corpus": "acted", "speaker": "acted/0", "emotion": CLASSES[1], "text": "yes"}
    row |= {"system": "voice", "answer": "b"}
    file = tmp_path / "written.parquet"
    for rows in ([], [row | {"continuations": [*"abcd"]}]):
        write_table(file, rows, OWN_WRITTEN_SCHEMA)
        score.main(**paths, written=file)
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert ("written_acted" in metrics) == bool(rows)
    assert metrics["written_acted"]["voice"]["written_is_right"] == 1.0


def test_a_temperature_is_fitted_on_dev_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = prepare(tmp_path) | {"manifests": tmp_path / "manifests"}
    write_manifests(tmp_path, trained="acted/9")
    rows = [row | {"scores": [0.0, -2, -1, -3]} for row in pq.read_table(paths["recognition"]).to_pylist()]
    write_table(paths["recognition"], rows, RECOGNITION_SCHEMA)
    dev = [row for row in rows if row["system"] == "head"]
    score.main(**paths)
    before = json.loads((tmp_path / "metrics.json").read_text())
    score.main(**paths, dev_head=write_table(tmp_path / "dev.parquet", dev, RECOGNITION_SCHEMA))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    found = metrics["emotion_acted"].pop("head")
    assert before["emotion_acted"].pop("head").items() < found.items()
    assert metrics == before
    assert metrics.keys() >= {f"{group}/emotion_acted" for group in GROUPS}
    assert found["nll_calibrated"] < found["nll"]
    capsys.readouterr()
    score.main(**paths, dev_head=write_table(tmp_path / "dev.parquet", [], RECOGNITION_SCHEMA))
    assert "dev.parquet: found no dev clips, expected some to fit a temperature" in capsys.readouterr().out
    assert "temperature" not in json.loads((tmp_path / "metrics.json").read_text())["emotion_acted"]["head"]


def test_several_prompts_are_a_system_beside_the_others(tmp_path: Path) -> None:
    paths = prepare(tmp_path)
    rows: list[dict[str, object]] = [
        {"id": f"acted/{i}", "corpus": "acted", "speaker": f"acted/{i % 4}", "emotion": CLASSES[i % 4]}
        | {"split": "test", "prompt": prompt, "scores": [0.0, 0, 0, 1]}
        for i in range(8)
        for prompt in ("0-0", "0-1")
    ]
    score.main(**paths, prompts=write_table(tmp_path / "prompts.parquet", rows, PROMPTS_SCHEMA))
    scores = json.loads((tmp_path / "metrics.json").read_text())["emotion_acted"]
    assert scores["logprob_prompts"]["mean"] == 0.25
    assert scores["head"]["n"] == 80


def test_the_probe_is_a_system_beside_the_others(tmp_path: Path) -> None:
    paths = prepare(tmp_path)
    rows = pq.read_table(paths["recognition"])
    head = rows.filter(pc.field("system") == "head")
    pq.write_table(head.set_column(4, "system", pa.array(["probe"] * len(head))), tmp_path / "probe.parquet")
    score.main(**paths, probe=tmp_path / "probe.parquet")
    scores = json.loads((tmp_path / "metrics.json").read_text())["emotion_acted"]
    assert scores["probe"] == scores["head"]
    with pytest.raises(UserError, match="found head, expected one of probe"):
        score.main(**paths, probe=paths["recognition"])


def test_a_judge_that_failed_its_exam_adds_that_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = prepare(tmp_path)
    about = {"id": "exam/01", "corpus": "exam", "speaker": "exam/01", "repeat": 1}
    pair = {**dict.fromkeys(PAIRS_SCHEMA.names), **about, "system": "warm", "is_first": True, "choice": "A"}
    write_table(tmp_path / "exam_pairs.parquet", [pair, {**pair, "is_first": False}], PAIRS_SCHEMA)
    for name, schema in (("exam_marks", MARKS_SCHEMA), ("marks", MARKS_SCHEMA), ("pairs", PAIRS_SCHEMA)):
        write_table(tmp_path / f"{name}.parquet", [], schema)
    score.main(**paths, judge=tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [name for name in metrics if name.startswith("judge_")] == ["judge_exam"]
    assert metrics["judge_exam"]["exam"]["passed"] == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "score: the judge got 0 (choices) and 0 (marks) of 1 pairs of its exam right, expected 36, so there is no "
        "figure of empathy"
    )


def test_the_same_predictions_give_the_same_bytes(tmp_path: Path) -> None:
    paths = prepare(tmp_path)
    score.main(**paths)
    names = ("metrics", "confusions")
    first = [paths[name].read_bytes() for name in names]
    score.main(**paths)
    assert [paths[name].read_bytes() for name in names] == first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "losses.jsonl: no such file; train.fit --kind semantic has not run"),
        ("step 1", "losses.jsonl: expected one JSON object of numbers per line"),
        ('{"step": 1, "dev_kl": 2}', "losses.jsonl: no step with a loss; expected at least one"),
        ('{"step": 1, "loss": 2, "kl": 2}', "losses.jsonl: a step lacks 'lr'; expected step, lr, loss, kl"),
    ],
)
def test_unusable_losses_are_refused(content: str | None, message: str, tmp_path: Path) -> None:
    paths = prepare(tmp_path)
    losses = tmp_path / "models" / "semantic" / "losses.jsonl"
    losses.unlink() if content is None else losses.write_text(content)
    with pytest.raises(UserError, match=message):
        score.main(**paths)
