"""Scores of own answers on planted log-probabilities: who listens, who guesses, and what is only a short answer."""

import time
from collections import defaultdict
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evaluate import own_answers
from evaluate.own_answers import NEW_WORDS, OWN_ANSWERS, SEEN_WORDS, Clips, less_mean, permutation_p, score_own_answers
from evaluate.predictions import OWN_ANSWERS_SCHEMA, OWN_SYSTEMS
from pipeline.tables import parquet

CLASSES = ["neutral", "sad", "angry", "happy"]
CONFIDENCE = 0.95
Row = dict[str, Any]
LogProbs = Callable[[str, Row], list[float]]
"""system and row -> log-probability of each continuation"""


def table_of(rows: list[Row], logprobs: LogProbs, systems: tuple[str, ...] = OWN_SYSTEMS) -> pa.Table:
    made = []
    for row in rows:
        plain = {"num_tokens": [5] * 4, "candidates": list(range(4)), "named": [False] * 4, "seen_words": True}
        made += [{**plain, **row, "system": system, "logprobs": logprobs(system, row)} for system in systems]
    return parquet.from_rows(made, OWN_ANSWERS_SCHEMA)


def acted(num_speakers: int = 6, texts: tuple[str, ...] = ("kids", "dogs"), **changes: Any) -> list[Row]:
    """Every speaker says every sentence in every emotion."""
    return [
        {"id": f"{speaker}/{text}/{emotion}", "corpus": "acted", "speaker": str(speaker), "emotion": emotion}
        | {"text": text, **changes}
        for speaker in range(num_speakers)
        for text in texts
        for emotion in CLASSES
    ]


def listener(generator: np.random.Generator, gain: float = 3.0, lengths: float = 0.0) -> LogProbs:
    """A model whose voice raises the right continuation, while all systems prefer the first, the shortest one."""

    def logprobs(system: str, row: Row) -> list[float]:
        scores = -10 - lengths * np.arange(4) + generator.normal(0, 1, 4)
        right = CLASSES.index(row["emotion"])
        if system in ("voice", "told_true"):
            scores[right] += gain
        if system == "shuffled":
            scores[right] -= gain
        found: list[float] = scores.tolist()
        return found

    return logprobs


def test_a_model_that_listens_is_above_chance_and_below_it_with_another_clip() -> None:
    found = score_own_answers(table_of(acted(), listener(np.random.default_rng(0), gain=4.0)), CLASSES, CONFIDENCE)
    scores = found.metrics["own_answers_acted"]
    assert scores["chance"] == {"ua": 0.25, "ua_unnamed": 0.25}
    assert scores["voice"]["ua_low"] > 0.7
    assert scores["shuffled"]["ua_high"] < 0.1
    assert 0.1 < scores["stage1"]["ua"] < 0.4
    assert scores["voice"]["p"] == pytest.approx(1 / 10_001, abs=1e-6)
    assert scores["shuffled"]["p"] > 0.99
    assert (scores["voice"]["n"], scores["voice"]["speakers"], scores["voice"]["no_mean"]) == (48, 6, 0)
    counts = np.array(found.confusions["acted"])
    assert counts.sum(axis=1).tolist() == [12] * 4
    assert np.diagonal(counts).sum() / 48 == pytest.approx(scores["voice"]["ua"])  # the emotions are balanced


def test_a_model_that_prefers_short_answers_is_at_chance_until_the_mean_is_subtracted() -> None:
    table = table_of(acted(), listener(np.random.default_rng(0), gain=5.0, lengths=30.0))
    voice = score_own_answers(table, CLASSES, CONFIDENCE).metrics["own_answers_acted"]["voice"]
    assert voice["ua_raw"] == 0.25
    assert voice["ua_low"] > 0.8


def test_the_p_of_a_model_that_does_not_listen_is_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_answers, "PERMUTATIONS", 999)
    found = []
    generator = np.random.default_rng(0)
    rows = acted(num_speakers=12)
    truth = np.array([CLASSES.index(row["emotion"]) for row in rows])
    texts = np.array([["kids", "dogs"].index(row["text"]) for row in rows])
    for seed in range(200):
        scores = generator.normal(0, 1, (len(rows), 4)) + 5 * texts[:, None] * np.arange(4)
        clips = less_mean(Clips([row["speaker"] for row in rows], truth, texts, scores, np.zeros_like(scores, bool)))[0]
        found += permutation_p([clips], seed)
    shares = [np.mean(np.array(found) <= level) for level in (0.05, 0.25, 0.5, 0.75)]
    assert shares == pytest.approx([0.05, 0.25, 0.5, 0.75], abs=0.1)


def test_p_is_the_share_of_all_orders_of_the_emotions_within_sentences() -> None:
    generator = np.random.default_rng(3)
    truth = np.array([0, 0, 1, 2, 1, 1, 0, 2])
    texts = np.array([5, 5, 5, 5, 2, 2, 2, 7])  # nothing can be exchanged in the last sentence
    scores = generator.normal(0, 1, (8, 3))
    scores[np.arange(8), truth] += 0.7
    scores[1] = 0.0  # a tie of all
    clips = Clips(["a"] * 8, truth, texts, scores, np.zeros((8, 3), bool))
    shares = [np.full(3, 1 / 3) if number == 1 else np.eye(3)[row.argmax()] for number, row in enumerate(scores)]

    def accuracy(labels: list[int]) -> float:
        recalls = defaultdict(list)
        for share, label in zip(shares, labels, strict=True):
            recalls[label].append(share[label])
        return float(np.mean([np.mean(of) for of in recalls.values()]))

    observed = accuracy(truth.tolist())
    orders = [[*first, *second, 2] for first in permutations([0, 0, 1, 2]) for second in permutations([1, 1, 0])]
    expected = np.mean([accuracy(order) >= observed - 1e-9 for order in orders])
    assert 0.02 < expected < 0.5
    assert permutation_p([clips, clips], 1) == pytest.approx([expected] * 2, abs=0.015)


def test_the_mean_is_that_of_the_same_words_by_other_speakers() -> None:
    rows = [("a", "x"), ("a", "x"), ("b", "x"), ("c", "x"), ("a", "y"), ("b", "z"), ("c", "z"), ("a", "w"), ("a", "w")]
    scores = np.random.default_rng(0).normal(-20, 5, (len(rows), 3))
    texts = np.unique([text for _, text in rows], return_inverse=True)[1]
    clips = Clips([speaker for speaker, _ in rows], np.zeros(9, int), texts, scores, np.zeros((9, 3), bool))
    found, has_none = less_mean(clips)
    for number, (speaker, text) in enumerate(rows):
        others = [i for i, (who, words) in enumerate(rows) if words == text and who != speaker]
        mean = scores[others].mean(axis=0) if others else 0
        assert found.scores[number] == pytest.approx(scores[number] - mean)
        assert has_none[number] == (not others)
    assert has_none.sum() == 3


def test_a_sentence_that_is_said_once_keeps_its_score_and_has_no_p() -> None:
    rows = [row | {"text": row["id"]} for row in acted(num_speakers=3)]
    scores = score_own_answers(
        table_of(rows, listener(np.random.default_rng(0), gain=9.0)), CLASSES, CONFIDENCE
    ).metrics
    voice = scores["own_answers_acted"]["voice"]
    assert (voice["no_mean"], voice["n"]) == (24, 24)
    assert voice["ua"] == voice["ua_raw"] == 1.0
    assert not [system for system in OWN_SYSTEMS if "p" in scores["own_answers_acted"][system]]


def test_merged_answers_are_one_candidate_that_counts_for_a_share() -> None:
    """The LLM wrote the same for neutral and sad: a perfect listener has half of each of these clips."""

    def logprobs(system: str, row: Row) -> list[float]:
        right = CLASSES.index(row["emotion"])
        likely = (0, 1) if right in (0, 1) else (right,)
        return [-13.0 if i in likely else -20.0 for i in range(4)]

    rows = acted(candidates=[0, 0, 1, 2])
    found = score_own_answers(table_of(rows, logprobs), CLASSES, CONFIDENCE)
    scores = found.metrics["own_answers_acted"]
    assert scores["voice"]["ua"] == scores["voice"]["ua_raw"] == pytest.approx((0.5 + 0.5 + 1 + 1) / 4)
    assert scores["answers"] == {"n": 8, "distinct": 6, "named": 0}
    assert found.confusions["acted"] == [[6, 6, 0, 0], [6, 6, 0, 0], [0, 0, 12, 0], [0, 0, 0, 12]]


def test_scores_that_do_not_depend_on_the_clip_are_at_chance_less_their_mean() -> None:
    """The transcript's: of each sentence the same for all clips, so that rounding alone would decide."""
    of_text = {"kids": [-10.1, -10.2, -30.3, -7.7], "dogs": [-1 / 3, -2 / 3, -0.1, -0.7]}
    table = table_of(acted(num_speakers=7), lambda _, row: of_text[row["text"]])
    voice = score_own_answers(table, CLASSES, CONFIDENCE).metrics["own_answers_acted"]["voice"]
    assert voice["ua"] == voice["ua_low"] == voice["ua_high"] == 0.25
    assert voice["p"] == 1.0


def test_continuations_that_name_an_emotion_are_counted_and_left_out() -> None:
    """The right answer is likeliest only if it names its emotion, as the one for happy does."""

    def logprobs(system: str, row: Row) -> list[float]:
        right = CLASSES.index(row["emotion"])
        return [-5.0 if i == (3 if right == 3 else (right + 1) % 3) else -20.0 for i in range(4)]

    rows = [row | {"named": [False, False, False, row["text"] == "kids"]} for row in acted()]
    scores = score_own_answers(table_of(rows, logprobs), CLASSES, CONFIDENCE).metrics["own_answers_acted"]
    assert scores["answers"]["named"] == 1
    assert (scores["voice"]["n"], scores["voice"]["n_unnamed"]) == (48, 42)
    assert scores["voice"]["ua"] == 0.25
    assert scores["voice"]["ua_unnamed"] == 0.25  # happy dogs are right, and there are no happy kids
    # a guess is right by 1/3 for the kids, who are never happy, and by 1/4 for the dogs
    assert scores["chance"]["ua_unnamed"] == pytest.approx((3 * (1 / 3 + 1 / 4) / 2 + 1 / 4) / 4, abs=1e-6)
    every = [row | {"named": [True] * 4} for row in acted()]
    scores = score_own_answers(table_of(every, logprobs), CLASSES, CONFIDENCE).metrics["own_answers_acted"]
    assert scores["voice"]["n_unnamed"] == 0
    assert "ua_unnamed" not in scores["voice"] | scores["chance"]


def test_a_named_candidate_is_no_prediction() -> None:
    """The model always prefers the continuation that names an emotion, else the right one."""

    def logprobs(system: str, row: Row) -> list[float]:
        return [-1.0 if i == 0 else -5.0 if CLASSES[i] == row["emotion"] else -20.0 for i in range(4)]

    rows = [row | {"named": [True, False, False, False], "text": row["id"]} for row in acted()]
    voice = score_own_answers(table_of(rows, logprobs), CLASSES, CONFIDENCE).metrics["own_answers_acted"]["voice"]
    assert voice["ua_raw"] == 0.25
    assert voice["ua_unnamed"] == 1.0


def test_words_that_training_has_seen_and_new_words_are_scored_apart() -> None:
    generator = np.random.default_rng(0)
    rows = acted(texts=("kids",)) + acted(texts=("new", "newer"), seen_words=False)
    good, deaf = listener(generator, gain=20.0), listener(generator, gain=0.0)
    table = table_of(rows, lambda system, row: (good if row["text"] == "kids" else deaf)(system, row))
    metrics = score_own_answers(table, CLASSES, CONFIDENCE).metrics
    assert list(metrics) == [prefix + "acted" for prefix in (OWN_ANSWERS, SEEN_WORDS, NEW_WORDS)]
    whole, seen, new = (of["voice"] for of in metrics.values())
    assert [of["n"] for of in (whole, seen, new)] == [72, 24, 48]
    assert seen["ua"] == 1.0
    assert new["ua"] < 0.5
    assert whole["ua"] == pytest.approx((seen["ua"] + 2 * new["ua"]) / 3, abs=1e-5)
    only = score_own_answers(table.filter(table["seen_words"]), CLASSES, CONFIDENCE).metrics
    assert list(only) == ["own_answers_acted", "seen_words_own_answers_acted"]


def test_corpora_are_scored_apart_and_a_missing_shuffled_clip_is_only_missing_there() -> None:
    generator = np.random.default_rng(0)
    other = [row | {"id": f"b{row['id']}", "corpus": "b"} for row in acted(num_speakers=2)]
    table = table_of(acted() + other, listener(generator))
    gone = [row["system"] == "shuffled" and row["id"] == "0/kids/sad" for row in table.to_pylist()]
    metrics = score_own_answers(table.filter(pa.array([not it for it in gone])), CLASSES, CONFIDENCE).metrics
    sizes = {system: metrics["own_answers_acted"][system]["n"] for system in OWN_SYSTEMS}
    assert sizes == dict.fromkeys(OWN_SYSTEMS, 48) | {"shuffled": 47}
    assert all("p" in metrics["own_answers_acted"][system] for system in OWN_SYSTEMS)
    assert metrics["own_answers_b"]["voice"]["n"] == 16
    no_control = table.filter(pa.array([row["system"] != "shuffled" for row in table.to_pylist()]))
    assert "shuffled" not in score_own_answers(no_control, CLASSES, CONFIDENCE).metrics["own_answers_b"]


def test_three_thousand_clips_are_scored_in_seconds() -> None:
    rows = acted(num_speakers=93, texts=tuple(f"text {i}" for i in range(8)))
    table = table_of(rows, listener(np.random.default_rng(0), gain=0.2))
    assert len(rows) == 2976
    started = time.process_time()
    score_own_answers(table, CLASSES, CONFIDENCE)
    assert time.process_time() - started < 30


def test_the_same_table_gives_the_same_scores() -> None:
    table = table_of(acted(), listener(np.random.default_rng(0), gain=0.5))
    assert score_own_answers(table, CLASSES, CONFIDENCE) == score_own_answers(table, CLASSES, CONFIDENCE)
    shuffled = table.take(pa.array(np.random.default_rng(1).permutation(len(table))))
    assert score_own_answers(shuffled, CLASSES, CONFIDENCE) == score_own_answers(table, CLASSES, CONFIDENCE)
