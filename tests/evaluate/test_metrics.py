"""Accuracies and divergences with their intervals."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import special, stats
from scipy.spatial.distance import jensenshannon
from sklearn import metrics as sklearn_metrics

from evaluate.calibration import expected_calibration_error, fit_temperature
from evaluate.metrics import score_calibration, score_divergence, score_prompts, score_recognition
from evaluate.predictions import DIVERGENCE_SCHEMA, PROMPTS_SCHEMA, RECOGNITION_SCHEMA, SYSTEMS
from pipeline.stage import UserError
from pipeline.tables import manifest, parquet
from tests.builders import CLASSES, divergence_table, recognition_table, utterance

CONFIDENCE = 0.95


def test_recognition_scores_equal_those_of_scikit_learn() -> None:
    table = recognition_table()
    scores = score_recognition(table, CLASSES, CONFIDENCE).metrics["emotion_acted"]
    assert set(scores) == {system.name for system in SYSTEMS} | {"chance"}
    assert scores["chance"] == {"ua": 0.25}
    rows = [row for row in table.to_pylist() if row["system"] == "prompted"]
    truth, predicted = [row["emotion"] for row in rows], [row["predicted"] or "" for row in rows]
    expected = sklearn_metrics.recall_score(truth, predicted, labels=CLASSES, average="macro", zero_division=0)
    assert scores["prompted"]["ua"] == pytest.approx(expected, abs=1e-6)
    assert scores["prompted"]["wa"] == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted), abs=1e-6)
    for name, average in (("macro_f1", "macro"), ("weighted_f1", "weighted")):
        f1 = sklearn_metrics.f1_score(truth, predicted, labels=CLASSES, average=average, zero_division=0)
        assert scores["prompted"][name] == pytest.approx(f1, abs=1e-6)
    assert scores["prompted"]["unparsable"] == pytest.approx(predicted.count("") / 80, abs=1e-6)
    assert scores["prompted"]["ua_low"] < scores["prompted"]["ua"] < scores["prompted"]["ua_high"]
    assert (scores["prompted"]["n"], scores["prompted"]["speakers"]) == (80, 4)


def test_confusions_are_counted_by_true_and_predicted_emotion_the_unparsable_ones_last() -> None:
    table = recognition_table()
    counted = score_recognition(table, CLASSES, CONFIDENCE).confusions["acted"]
    assert list(counted) == [system.name for system in SYSTEMS]
    rows = [row for row in table.to_pylist() if row["system"] == "prompted"]
    labels = [*CLASSES, "unparsable"]
    truth, predicted = [row["emotion"] for row in rows], [row["predicted"] or "unparsable" for row in rows]
    expected = sklearn_metrics.confusion_matrix(truth, predicted, labels=labels)
    assert counted["prompted"] == expected[:-1].tolist()


def test_chance_is_what_a_constant_answer_reaches_on_the_emotions_of_the_test_rows() -> None:
    rows = [row for row in recognition_table().to_pylist() if row["emotion"] in ("neutral", "sad")]
    table = parquet.from_rows(rows, RECOGNITION_SCHEMA)
    always_sad = [row | {"predicted": "sad"} for row in table.to_pylist()]
    scores = score_recognition(parquet.from_rows(always_sad, RECOGNITION_SCHEMA), CLASSES, CONFIDENCE).metrics[
        "emotion_acted"
    ]
    assert scores["chance"]["ua"] == scores["head"]["ua"] == 0.5
    assert scores["head"]["n"] == 40


def test_one_emotion_and_one_clip_are_scored_without_an_interval_or_a_control() -> None:
    rows = [row for row in recognition_table().to_pylist() if row["id"] == "acted/0"]
    rows = [row | {"predicted": row["emotion"]} for row in rows if not row["system"].startswith("shuffled")]
    scores = score_recognition(parquet.from_rows(rows, RECOGNITION_SCHEMA), CLASSES, CONFIDENCE).metrics[
        "emotion_acted"
    ]
    assert scores["chance"]["ua"] == scores["head"]["ua"] == 1.0
    assert "ua_low" not in scores["head"]
    assert not [name for name in scores if name.startswith("shuffled")]


def test_the_gap_is_over_the_rows_that_have_a_wrong_clip() -> None:
    rows = divergence_table(gap=0.05).to_pylist()
    some = [row for row in rows if row["condition"] != "shuffled" or int(row["id"].split("/")[1]) < 10]
    scores = score_divergence(parquet.from_rows(some, DIVERGENCE_SCHEMA), CONFIDENCE)["continuation_kl_libri"]
    paired = [row for row in rows if int(row["id"].split("/")[1]) < 10]
    expected = score_divergence(parquet.from_rows(paired, DIVERGENCE_SCHEMA), CONFIDENCE)["continuation_kl_libri"]
    assert scores["hearing"] == expected["hearing"]
    assert (scores["after"]["n"], scores["shuffled"]["n"]) == (40, 10)

    none = [row for row in rows if row["condition"] != "shuffled"]
    scores = score_divergence(parquet.from_rows(none, DIVERGENCE_SCHEMA), CONFIDENCE)["continuation_kl_libri"]
    assert set(scores) == {"transcript", "before", "after"}


def test_each_corpus_is_a_protocol_of_its_own() -> None:
    rows = recognition_table().to_pylist()
    other = [row | {"corpus": "other", "id": f"other/{row['id']}"} for row in rows]
    table = parquet.from_rows(rows + other, RECOGNITION_SCHEMA)
    protocols = score_recognition(table, CLASSES, CONFIDENCE).metrics
    assert list(protocols) == ["emotion_acted", "emotion_other"]
    assert protocols["emotion_acted"] == protocols["emotion_other"]


def test_the_kl_weighs_every_token_alike() -> None:
    table = divergence_table(gap=0.0)
    scores = score_divergence(table, CONFIDENCE)["continuation_kl_libri"]
    rows = [row for row in table.to_pylist() if row["condition"] == "after"]
    expected = np.average([row["kl"] for row in rows], weights=[row["num_tokens"] for row in rows])
    assert scores["after"]["kl"] == pytest.approx(expected, abs=1e-6)
    assert scores["transcript"] == {"kl": 0.0}
    assert scores["after"]["kl_low"] < scores["after"]["kl"] < scores["after"]["kl_high"]


def test_the_share_of_equal_likeliest_tokens_weighs_every_token_alike() -> None:
    table = divergence_table(gap=0.0)
    scores = score_divergence(table, CONFIDENCE)["continuation_kl_libri"]
    rows = [row for row in table.to_pylist() if row["condition"] == "after"]
    expected = sum(row["num_agree"] for row in rows) / sum(row["num_tokens"] for row in rows)
    for condition in ("before", "after", "shuffled"):
        assert scores[condition]["top1"] == pytest.approx(expected, abs=1e-6)
        assert scores[condition]["top1_low"] < expected < scores[condition]["top1_high"]
    all_agree = [row | {"num_agree": row["num_tokens"]} for row in table.to_pylist()]
    whole = score_divergence(parquet.from_rows(all_agree, DIVERGENCE_SCHEMA), CONFIDENCE)["continuation_kl_libri"]
    assert whole["after"]["top1"] == whole["after"]["top1_low"] == whole["after"]["top1_high"] == 1


def test_the_gap_is_paired_so_a_small_one_shows_through_wide_intervals() -> None:
    scores = score_divergence(divergence_table(gap=0.05), CONFIDENCE)["continuation_kl_libri"]
    assert scores["after"]["kl_high"] > scores["shuffled"]["kl_low"]
    assert scores["hearing"]["gap"] == pytest.approx(0.05, abs=0.01)
    assert scores["hearing"]["gap_low"] > 0


def test_no_gap_has_an_interval_that_holds_zero() -> None:
    hearing = score_divergence(divergence_table(gap=0.0), CONFIDENCE)["continuation_kl_libri"]["hearing"]
    assert hearing["gap_low"] < 0 < hearing["gap_high"]


def test_the_order_of_the_rows_does_not_matter() -> None:
    table = divergence_table(gap=0.05)
    turned = table.take(list(reversed(range(table.num_rows))))
    assert score_divergence(turned, CONFIDENCE) == score_divergence(table, CONFIDENCE)


def test_a_single_speaker_gives_intervals_over_clips() -> None:
    scores = score_recognition(recognition_table(speakers=1), CLASSES, CONFIDENCE).metrics["emotion_acted"]["head"]
    assert scores["speakers"] == 1
    assert scores["ua_low"] < scores["ua"] < scores["ua_high"]


def test_permuted_labels_give_chance_for_every_system() -> None:
    """A clip's label is moved to another clip; an answer without a label is always wrong."""
    rng = np.random.default_rng(0)
    rows = recognition_table().to_pylist()
    truth = {row["id"]: row["emotion"] for row in rows}
    accuracies: dict[str, list[float]] = {system.name: [] for system in SYSTEMS}
    for _ in range(200):
        moved = dict(zip(truth, rng.permutation([*truth.values()]).tolist(), strict=True))
        table = parquet.from_rows([row | {"emotion": moved[row["id"]]} for row in rows], RECOGNITION_SCHEMA)
        scores = score_recognition(table, CLASSES, CONFIDENCE).metrics["emotion_acted"]
        for name, of_system in accuracies.items():
            of_system.append(scores[name]["ua"] - scores["chance"]["ua"] * (1 - scores[name]["unparsable"]))
    for name, above_chance in accuracies.items():
        assert 0.02 < np.std(above_chance) < 0.1, name
        assert abs(np.mean(above_chance)) < 3 * np.std(above_chance) / np.sqrt(200), name


def with_scores(scores: list[float] | None) -> pa.Table:
    rows = [row | {"scores": scores if row["system"] == "head" else None} for row in recognition_table().to_pylist()]
    return parquet.from_rows(rows, RECOGNITION_SCHEMA)


def test_systems_with_scores_have_a_calibration_error() -> None:
    metrics = score_recognition(with_scores([0.0, -1, -2, -3]), CLASSES, CONFIDENCE).metrics["emotion_acted"]
    truth = np.repeat(range(4), 20)
    expected = expected_calibration_error(np.tile([0.0, -1, -2, -3], (80, 1)), truth)
    assert metrics["head"]["ece"] == pytest.approx(expected, abs=1e-6)
    assert [name for name, scores in metrics.items() if "ece" in scores] == ["head"]


def recognised_by_head(corpus: str, num_clips: int, seed: int) -> tuple[pa.Table, Any, Any]:
    """Make up clips that the emotion head hears too surely: table, scores (n, 4) and labels (n)."""
    rng = np.random.default_rng(seed)
    scores = 4 * rng.standard_normal((num_clips, 4))
    truth = np.array([rng.choice(4, p=p) for p in special.softmax(scores / 3, axis=1)])
    rows = [
        {"id": f"{corpus}/{i}", "corpus": corpus, "speaker": f"{corpus}/{i % 4}", "emotion": CLASSES[truth[i]]}
        | {"system": "head", "answer": None, "predicted": CLASSES[scores[i].argmax()], "scores": scores[i].tolist()}
        for i in range(num_clips)
    ]
    return parquet.from_rows(rows, RECOGNITION_SCHEMA), scores, truth


def with_votes(*rows: tuple[str, dict[str, float] | None]) -> pa.Table:
    votes = [utterance(key, emotion_votes=None if of is None else list(of.items())) for key, of in rows]
    return parquet.from_rows(votes, manifest.SCHEMA)


def test_the_head_is_calibrated_on_dev_clips_and_scored_on_test_clips() -> None:
    (test, scores, truth), (dev, dev_scores, dev_truth) = (
        recognised_by_head("acted", 2_000, 1),
        recognised_by_head("other", 1_000, 2),
    )
    found = score_calibration(test, dev, with_votes(), CLASSES)["emotion_acted"]["head"]
    temperature = fit_temperature(dev_scores, dev_truth)
    assert 2.5 < temperature < 3.5
    loss = [sklearn_metrics.log_loss(truth, special.softmax(scores / t, axis=1)) for t in (1, temperature)]
    expected = {"nll": loss[0], "nll_calibrated": loss[1], "temperature": temperature}
    expected["ece_calibrated"] = expected_calibration_error(scores / temperature, truth)
    assert found == pytest.approx(expected, abs=1e-6)
    assert loss[1] < loss[0]
    assert score_calibration(test, dev.slice(0, 0), with_votes(), CLASSES)["emotion_acted"]["head"].keys() == {"nll"}


def test_the_distance_to_votes_is_that_of_the_clips_with_a_vote_for_a_class() -> None:
    test, scores, _ = recognised_by_head("acted", 5, 1)
    half = {"sad": 0.5, "happy": 0.25, "disgust": 0.25}
    votes = with_votes(("acted/3", half), ("acted/0", None), ("acted/4", {"disgust": 1.0}), ("x/1", half))
    found = score_calibration(test, test, votes, CLASSES)["emotion_acted"]["head"]
    shares = [half.get(name, 0) for name in CLASSES]
    for name, temperature in (("vote_distance", 1.0), ("vote_distance_calibrated", found["temperature"])):
        expected = jensenshannon(special.softmax(scores[3] / temperature), shares, base=2)
        assert found[name] == pytest.approx(expected, abs=1e-5)
    assert found["n_votes"] == 1


PREDICTED = {  # prompt -> predicted class of six clips, whose labels are 0, 0, 0, 1, 1, 1
    "test": {"0-0": [0, 0, 1, 1, 0, 0], "0-1": [0, 0, 0, 1, 1, 0], "1-0": [0, 1, 1, 1, 0, 1]},
    "dev": {"0-0": [0, 0, 0, 1, 0, 0], "0-1": [1, 1, 1, 0, 0, 0], "1-0": [0, 0, 0, 1, 1, 0]},
}


def under_prompts() -> list[dict[str, Any]]:
    return [
        {"id": f"{split}/{i}", "corpus": "acted", "speaker": f"{split}/{i % 2}", "emotion": CLASSES[i // 3]}
        | {"split": split, "prompt": prompt, "scores": [-1.0 * (k != predicted) for k in range(4)]}
        for split, by_prompt in PREDICTED.items()
        for prompt, of_clips in by_prompt.items()
        for i, predicted in enumerate(of_clips)
    ]


def test_the_prompt_is_chosen_on_dev_and_scored_on_test() -> None:
    rows = under_prompts()
    found = score_prompts(parquet.from_rows(rows[::-1], PROMPTS_SCHEMA), CLASSES, CONFIDENCE)["emotion_acted"]
    (scores,) = found.values()
    assert list(found) == ["logprob_prompts"]
    bounds = {name: scores.pop(name) for name in ("chosen_low", "chosen_high")}
    assert bounds["chosen_low"] <= scores["chosen"] <= bounds["chosen_high"]
    assert scores == pytest.approx(
        {
            "mean": np.mean([3 / 6, 5 / 6, 3 / 6]), "range": 2 / 6, "oracle": 5 / 6, "consistency": 2 / 6,
            "chosen": 3 / 6, "prompts": 3, "n": 6, "speakers": 2,
        },
        abs=1e-6,
    )  # fmt: skip
    test = parquet.from_rows([row for row in rows if row["split"] == "test"], PROMPTS_SCHEMA)
    without_dev = score_prompts(test, CLASSES, CONFIDENCE)["emotion_acted"]["logprob_prompts"]
    assert without_dev == {name: value for name, value in scores.items() if name != "chosen"}


def test_scores_of_another_number_of_emotions_are_refused() -> None:
    with pytest.raises(UserError, match=r"acted/0 \(head\): found 3 scores, expected 4, one of each emotion"):
        score_recognition(with_scores([0.0, -1, -2]), CLASSES, CONFIDENCE)
    rows = with_scores([0.0, -1, -2, -3]).to_pylist()
    rows[8]["scores"] = None
    with pytest.raises(UserError, match=r"acted/1 \(head\): found 0 scores, expected 4"):
        score_recognition(parquet.from_rows(rows, RECOGNITION_SCHEMA), CLASSES, CONFIDENCE)


def test_bounds_are_cut_at_the_lowest_and_the_highest_score() -> None:
    rows = [row for row in recognition_table(speakers=2).to_pylist() if row["system"] == "head"]
    rows = [row | {"predicted": row["emotion"] if i % 8 else None} for i, row in enumerate(rows)]
    accuracies = score_recognition(parquet.from_rows(rows, RECOGNITION_SCHEMA), CLASSES, CONFIDENCE).metrics
    head = accuracies["emotion_acted"]["head"]
    assert 0.5 < head["ua"] < head["ua_high"] == 1
    rows = [row | {"kl": 0.1 + int(row["speaker"][-1])} for row in divergence_table(gap=0, speakers=2).to_pylist()]
    after = score_divergence(parquet.from_rows(rows, DIVERGENCE_SCHEMA), CONFIDENCE)["continuation_kl_libri"]["after"]
    assert 0 == after["kl_low"] < after["kl"] < after["kl_high"]


def half_width(without_one: list[float], value: float, sizes: list[int]) -> float:
    n, effective = len(sizes), sum(sizes) ** 2 / sum(size**2 for size in sizes)
    error = np.sqrt((n - 1) / n * sum((score - value) ** 2 for score in without_one))
    return float(stats.t.ppf(0.975, effective - 1) * error)


def test_the_bounds_of_the_accuracy_follow_from_the_accuracies_without_each_speaker() -> None:
    rows = [row for row in recognition_table(speakers=8).to_pylist() if row["system"] == "prompted"]
    rows = [row | {"speaker": "large" if row["speaker"] in ("acted/0", "acted/5") else row["speaker"]} for row in rows]

    def accuracy(kept: list[dict[str, Any]]) -> float:
        pairs = [(row["emotion"], row["predicted"] or "") for row in kept]
        return float(sklearn_metrics.recall_score(*zip(*pairs, strict=True), labels=CLASSES, average="macro"))

    names = sorted({row["speaker"] for row in rows})
    sizes = [sum(row["speaker"] == name for row in rows) for name in names]
    assert sorted(sizes) == [10] * 6 + [20]
    without_one = [accuracy([row for row in rows if row["speaker"] != name]) for name in names]
    half = half_width(without_one, accuracy(rows), sizes)
    table = parquet.from_rows(rows, RECOGNITION_SCHEMA)
    found = score_recognition(table, CLASSES, CONFIDENCE).metrics["emotion_acted"]["prompted"]
    assert found["ua_low"] == pytest.approx(accuracy(rows) - half, abs=1e-5)
    assert found["ua_high"] == pytest.approx(accuracy(rows) + half, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "conditions"), [("kl", ["after"]), ("gap", ["shuffled", "after"]), ("top1", ["after"])]
)
def test_the_bounds_of_the_kl_and_of_the_gap_follow_from_those_without_each_speaker(
    name: str, conditions: list[str]
) -> None:
    table = divergence_table(gap=0.05)
    rows = [row | {"speaker": row["speaker"] if row["num_tokens"] < 30 else "large"} for row in table.to_pylist()]

    def score(kept: list[dict[str, Any]]) -> float:
        means = []
        for condition in conditions:
            of = [row for row in kept if row["condition"] == condition]
            values = [row["num_agree"] / row["num_tokens"] if name == "top1" else row["kl"] for row in of]
            means.append(np.average(values, weights=[row["num_tokens"] for row in of]))
        return float(means[0] - sum(means[1:]))

    names = sorted({row["speaker"] for row in rows})
    sizes = [sum(row["num_tokens"] for row in rows if row["speaker"] == one) for one in names]
    half = half_width([score([row for row in rows if row["speaker"] != one]) for one in names], score(rows), sizes)
    scores = score_divergence(parquet.from_rows(rows, DIVERGENCE_SCHEMA), CONFIDENCE)["continuation_kl_libri"]
    found = scores["hearing" if name == "gap" else "after"]
    effective = sum(sizes) ** 2 / sum(size**2 for size in sizes)
    assert 2 < effective < 3
    assert found[f"{name}_low"] == pytest.approx(score(rows) - half, abs=1e-5)
    assert found[f"{name}_high"] == pytest.approx(score(rows) + half, abs=1e-5)
