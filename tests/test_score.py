"""From prediction tables to metrics.json and the tables of dvc plots."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as sklearn_metrics

from evaluate import metrics
from evaluate.bootstrap import Resampling
from evaluate.predictions import CONDITIONS, DIVERGENCE_SCHEMA, RECOGNITION_SCHEMA, SYSTEMS
from evaluate.score import __main__ as score
from pipeline.stage import UserError
from pipeline.tables import parquet

CLASSES = ["neutral", "sad", "angry", "happy"]
HOW = Resampling(seed=1, resamples=1000, confidence=0.95)
PARAMS = """
emotions: [neutral, sad, angry, happy]
score: {seed: 1, resamples: 1000, confidence: 0.95}
"""


def divergence(gap: float, speakers: int = 4) -> pa.Table:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        after = 1.5 + 0.2 * rng.standard_normal()
        kl = {"before": after + 0.4, "after": after, "shuffled": after + gap + 0.01 * rng.standard_normal()}
        who = {"id": f"libri/{i}", "corpus": "libri", "speaker": f"libri/{i % speakers}", "num_tokens": 5 + i}
        rows += [{**who, "condition": name, "kl": kl[name]} for name in CONDITIONS]
    return parquet.from_rows(rows, DIVERGENCE_SCHEMA)


def recognition(speakers: int = 4) -> pa.Table:
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for i in range(80):
        who = {"id": f"acted/{i}", "corpus": "acted", "speaker": f"acted/{i % speakers}", "emotion": CLASSES[i // 20]}
        for system in SYSTEMS:
            predicted = who["emotion"] if rng.random() < 0.5 else [*CLASSES, None][rng.integers(5)]
            rows.append({**who, "system": system.name, "predicted": predicted, "answer": None, "scores": None})
    return parquet.from_rows(rows, RECOGNITION_SCHEMA)


def test_recognition_scores_equal_those_of_scikit_learn() -> None:
    table = recognition()
    scores = metrics.score_recognition(table, CLASSES, HOW)["emotion_acted"]
    assert set(scores) == {system.name for system in SYSTEMS} | {"chance"}
    assert scores["chance"] == {"ua": 0.25}
    rows = [row for row in table.to_pylist() if row["system"] == "prompted"]
    truth, predicted = [row["emotion"] for row in rows], [row["predicted"] or "" for row in rows]
    expected = sklearn_metrics.recall_score(truth, predicted, labels=CLASSES, average="macro", zero_division=0)
    assert scores["prompted"]["ua"] == pytest.approx(expected, abs=1e-6)
    assert scores["prompted"]["wa"] == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted), abs=1e-6)
    assert scores["prompted"]["unparsable"] == pytest.approx(predicted.count("") / 80, abs=1e-6)
    assert scores["prompted"]["ua_low"] < scores["prompted"]["ua"] < scores["prompted"]["ua_high"]
    assert (scores["prompted"]["n"], scores["prompted"]["speakers"]) == (80, 4)


def test_chance_is_over_the_classes_offered_not_over_those_present() -> None:
    rows = [row for row in recognition().to_pylist() if row["emotion"] in ("neutral", "sad")]
    scores = metrics.score_recognition(parquet.from_rows(rows, RECOGNITION_SCHEMA), CLASSES, HOW)["emotion_acted"]
    assert scores["chance"]["ua"] == 0.25
    assert scores["head"]["n"] == 40


def test_each_corpus_is_a_protocol_of_its_own() -> None:
    rows = recognition().to_pylist()
    other = [row | {"corpus": "other", "id": f"other/{row['id']}"} for row in rows]
    protocols = metrics.score_recognition(parquet.from_rows(rows + other, RECOGNITION_SCHEMA), CLASSES, HOW)
    assert list(protocols) == ["emotion_acted", "emotion_other"]
    assert protocols["emotion_acted"] == protocols["emotion_other"]


def test_the_kl_weighs_every_token_alike() -> None:
    table = divergence(gap=0.0)
    scores = metrics.score_divergence(table, HOW)["continuation_kl_libri"]
    rows = [row for row in table.to_pylist() if row["condition"] == "after"]
    expected = np.average([row["kl"] for row in rows], weights=[row["num_tokens"] for row in rows])
    assert scores["after"]["kl"] == pytest.approx(expected, abs=1e-6)
    assert scores["transcript"] == {"kl": 0.0}
    assert scores["after"]["kl_low"] < scores["after"]["kl"] < scores["after"]["kl_high"]


def test_the_gap_is_paired_so_a_small_one_shows_through_wide_intervals() -> None:
    scores = metrics.score_divergence(divergence(gap=0.05), HOW)["continuation_kl_libri"]
    assert scores["after"]["kl_high"] > scores["shuffled"]["kl_low"]
    assert scores["hearing"]["gap"] == pytest.approx(0.05, abs=0.01)
    assert scores["hearing"]["gap_low"] > 0


def test_no_gap_has_an_interval_that_holds_zero() -> None:
    hearing = metrics.score_divergence(divergence(gap=0.0), HOW)["continuation_kl_libri"]["hearing"]
    assert hearing["gap_low"] < 0 < hearing["gap_high"]


def test_the_order_of_the_rows_does_not_matter() -> None:
    table = divergence(gap=0.05)
    turned = table.take(list(reversed(range(table.num_rows))))
    assert metrics.score_divergence(turned, HOW) == metrics.score_divergence(table, HOW)


def test_a_single_speaker_gives_intervals_over_clips() -> None:
    scores = metrics.score_recognition(recognition(speakers=1), CLASSES, HOW)["emotion_acted"]["head"]
    assert scores["speakers"] == 1
    assert scores["ua_low"] < scores["ua"] < scores["ua_high"]


def prepare(folder: Path) -> dict[str, Path]:
    parquet.write(divergence(gap=0.05), folder / "divergence.parquet")
    parquet.write(recognition(), folder / "recognition.parquet")
    (folder / "params.yaml").write_text(PARAMS)
    for kind, part in (("semantic", {"kl": 1.0}), ("emotion", {"ce": 1.0, "emotion": 0.5})):
        lines = [{"step": 5, "lr": 0.1, "loss": 1.5, **part}, {"step": 5, **{f"dev_{k}": v for k, v in part.items()}}]
        (folder / "models" / kind).mkdir(parents=True)
        (folder / "models" / kind / "losses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "divergence": folder / "divergence.parquet",
        "recognition": folder / "recognition.parquet",
        "metrics": folder / "metrics.json",
        "plots": folder / "plots",
        "models": folder / "models",
        "params_file": folder / "params.yaml",
    }


def test_the_stage_writes_plain_rounded_numbers_and_the_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score.main(**prepare(tmp_path))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics) == ["continuation_kl_libri", "emotion_acted"]
    numbers = [value for systems in metrics.values() for scores in systems.values() for value in scores.values()]
    assert len(numbers) > 50
    assert all(isinstance(value, int | float) and value == round(value, 6) for value in numbers)
    confusion = (tmp_path / "plots" / "confusion_prompted.csv").read_text().splitlines()
    assert confusion[0] == "corpus,actual,predicted"
    assert len(confusion) == 81
    assert any(line.endswith(",unparsable") for line in confusion)
    assert (tmp_path / "plots" / "loss_emotion.csv").read_text() == "step,lr,loss,ce,emotion\n5,0.1,1.5,1.0,0.5\n"
    assert capsys.readouterr().out.startswith("score: emotion_acted head UA 0.")


def test_the_same_predictions_give_the_same_bytes(tmp_path: Path) -> None:
    paths = prepare(tmp_path)
    score.main(**paths)
    first = paths["metrics"].read_bytes()
    score.main(**paths)
    assert paths["metrics"].read_bytes() == first


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
