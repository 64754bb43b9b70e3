"""Accuracies and divergences with their intervals."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from evaluate.bootstrap import Resampling
from evaluate.metrics import score_divergence, score_recognition
from evaluate.predictions import RECOGNITION_SCHEMA, SYSTEMS
from pipeline.tables import parquet
from tests.builders import CLASSES, divergence_table, recognition_table

HOW = Resampling(seed=1, resamples=1000, confidence=0.95)


def test_recognition_scores_equal_those_of_scikit_learn() -> None:
    table = recognition_table()
    scores = score_recognition(table, CLASSES, HOW).metrics["emotion_acted"]
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


def test_confusions_are_counted_by_true_and_predicted_emotion_the_unparsable_ones_last() -> None:
    table = recognition_table()
    counted = score_recognition(table, CLASSES, HOW).confusions["acted"]
    assert list(counted) == [system.name for system in SYSTEMS]
    rows = [row for row in table.to_pylist() if row["system"] == "prompted"]
    labels = [*CLASSES, "unparsable"]
    truth, predicted = [row["emotion"] for row in rows], [row["predicted"] or "unparsable" for row in rows]
    expected = sklearn_metrics.confusion_matrix(truth, predicted, labels=labels)
    assert counted["prompted"] == expected[:-1].tolist()


def test_chance_is_over_the_classes_offered_not_over_those_present() -> None:
    rows = [row for row in recognition_table().to_pylist() if row["emotion"] in ("neutral", "sad")]
    table = parquet.from_rows(rows, RECOGNITION_SCHEMA)
    scores = score_recognition(table, CLASSES, HOW).metrics["emotion_acted"]
    assert scores["chance"]["ua"] == 0.25
    assert scores["head"]["n"] == 40


def test_each_corpus_is_a_protocol_of_its_own() -> None:
    rows = recognition_table().to_pylist()
    other = [row | {"corpus": "other", "id": f"other/{row['id']}"} for row in rows]
    table = parquet.from_rows(rows + other, RECOGNITION_SCHEMA)
    protocols = score_recognition(table, CLASSES, HOW).metrics
    assert list(protocols) == ["emotion_acted", "emotion_other"]
    assert protocols["emotion_acted"] == protocols["emotion_other"]


def test_the_kl_weighs_every_token_alike() -> None:
    table = divergence_table(gap=0.0)
    scores = score_divergence(table, HOW)["continuation_kl_libri"]
    rows = [row for row in table.to_pylist() if row["condition"] == "after"]
    expected = np.average([row["kl"] for row in rows], weights=[row["num_tokens"] for row in rows])
    assert scores["after"]["kl"] == pytest.approx(expected, abs=1e-6)
    assert scores["transcript"] == {"kl": 0.0}
    assert scores["after"]["kl_low"] < scores["after"]["kl"] < scores["after"]["kl_high"]


def test_the_gap_is_paired_so_a_small_one_shows_through_wide_intervals() -> None:
    scores = score_divergence(divergence_table(gap=0.05), HOW)["continuation_kl_libri"]
    assert scores["after"]["kl_high"] > scores["shuffled"]["kl_low"]
    assert scores["hearing"]["gap"] == pytest.approx(0.05, abs=0.01)
    assert scores["hearing"]["gap_low"] > 0


def test_no_gap_has_an_interval_that_holds_zero() -> None:
    hearing = score_divergence(divergence_table(gap=0.0), HOW)["continuation_kl_libri"]["hearing"]
    assert hearing["gap_low"] < 0 < hearing["gap_high"]


def test_the_order_of_the_rows_does_not_matter() -> None:
    table = divergence_table(gap=0.05)
    turned = table.take(list(reversed(range(table.num_rows))))
    assert score_divergence(turned, HOW) == score_divergence(table, HOW)


def test_a_single_speaker_gives_intervals_over_clips() -> None:
    scores = score_recognition(recognition_table(speakers=1), CLASSES, HOW).metrics["emotion_acted"]["head"]
    assert scores["speakers"] == 1
    assert scores["ua_low"] < scores["ua"] < scores["ua_high"]
