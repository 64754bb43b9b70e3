"""Counterfactual pairs, compared with a count of all pairs one by one."""

import time
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from evaluate import counterfactuals
from evaluate.counterfactuals import score_counterfactuals
from evaluate.own_answers import less_mean, select_clips
from evaluate.predictions import OWN_ANSWERS_SCHEMA
from pipeline.tables import parquet
from tests.builders import CLASSES

Row = dict[str, Any]
KEY = "counterfactual_acted"


def table_of(clips: list[Row], seed: int = 0, gain: float = 0.0, candidates: Sequence[int] = (0, 1, 2, 3)) -> pa.Table:
    """Make up scores of every system; `gain` raises the right continuation after the voice."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, clip in enumerate(clips):
        plain = {"id": f"{number:04d}", "corpus": "acted", "seen_words": True, "num_tokens": [5] * 4}
        plain |= {"candidates": candidates, "named": [False] * 4}
        for system in counterfactuals.SYSTEMS:
            scores = rng.normal(0, 1, 4)
            scores[CLASSES.index(clip["emotion"])] += gain * (system == "voice")
            scores = scores[list(candidates)]  # equal continuations have equal scores
            rows.append({**plain, **clip, "system": system, "logprobs": scores.tolist()})
    return parquet.from_rows(rows, OWN_ANSWERS_SCHEMA)


def random_clips(seed: int, count: int = 60) -> list[Row]:
    """Speakers with different numbers of takes of three sentences, some emotions twice."""
    rng = np.random.default_rng(seed)
    return [
        {"speaker": str(rng.integers(4)), "text": f"t{rng.integers(3)}", "emotion": CLASSES[rng.integers(4)]}
        for _ in range(count)
    ]


def one_by_one(table: pa.Table, system: str) -> dict[str, float]:
    clips = less_mean(select_clips(table, system, CLASSES))[0]
    chosen, totals = clips.chosen(), Counter[str]()
    for i, j in combinations(range(len(clips.truth)), 2):
        same = clips.speakers[i] == clips.speakers[j] and clips.texts[i] == clips.texts[j]
        if same and clips.truth[i] != clips.truth[j]:
            totals["pairs"] += 1
            totals["changes"] += not np.array_equal(chosen[i], chosen[j])
            totals["toward"] += chosen[i, clips.truth[i]] * chosen[j, clips.truth[j]]
    return {"pairs": totals["pairs"]} | {name: totals[name] / totals["pairs"] for name in ("changes", "toward")}


@pytest.mark.parametrize("candidates", [[0, 1, 2, 3], [0, 1, 0, 2]])
@pytest.mark.parametrize("seed", range(3))
def test_shares_are_those_of_all_pairs_one_by_one(seed: int, candidates: list[int]) -> None:
    table = table_of(random_clips(seed), seed, gain=1.0, candidates=candidates)
    found = score_counterfactuals(table, CLASSES, 0.95)[KEY]
    assert list(found) == ["chance", *counterfactuals.SYSTEMS]
    for system in counterfactuals.SYSTEMS:
        expected = one_by_one(table, system)
        assert {name: found[system][name] for name in expected} == pytest.approx(expected, abs=1e-6)
        for name in ("changes", "toward"):
            assert found[system][f"{name}_low"] <= found[system][name] <= found[system][f"{name}_high"]
        assert found[system]["speakers"] == 4


def test_a_model_that_hears_every_emotion_is_right_in_all_pairs() -> None:
    clips = [{"speaker": s, "text": "t", "emotion": emotion} for s in "abcd" for emotion in CLASSES]
    found = score_counterfactuals(table_of(clips, gain=50), CLASSES, 0.95)[KEY]
    assert (found["voice"]["changes"], found["voice"]["toward"], found["voice"]["pairs"]) == (1, 1, 4 * 6)
    assert found["chance"] == {"changes": 0.75, "toward": 0.0625}


def test_a_guess_among_the_continuations_reaches_chance() -> None:
    clips = [{"speaker": str(s), "text": "t", "emotion": emotion} for s in range(2_000) for emotion in CLASSES[:3]]
    for candidates in ([0, 1, 2, 3], [0, 1, 0, 2]):
        table = table_of(clips, candidates=candidates)
        found = score_counterfactuals(table, CLASSES, 0.95)[KEY]
        for name, value in found["chance"].items():
            assert found["voice"][f"{name}_low"] - 0.005 < value < found["voice"][f"{name}_high"] + 0.005


def test_a_corpus_without_such_pairs_has_no_scores() -> None:
    clips = [{"speaker": s, "text": s, "emotion": emotion} for s in "ab" for emotion in ["sad", "sad"]]
    assert score_counterfactuals(table_of(clips), CLASSES, 0.95) == {}


def test_one_speaker_with_many_takes_is_counted_in_seconds() -> None:
    clips = [{"speaker": "a", "text": "t", "emotion": CLASSES[i % 4]} for i in range(5_000)]
    table = table_of(clips)
    started = time.perf_counter()
    assert score_counterfactuals(table, CLASSES, 0.95)[KEY]["voice"]["pairs"] == 6 * 1_250**2
    assert time.perf_counter() - started < 5


def test_a_system_that_is_absent_has_no_scores() -> None:
    table = table_of(random_clips(0))
    without = table.filter(pc.field("system") != "heard")
    found, rest = (score_counterfactuals(each, CLASSES, 0.95)[KEY] for each in (table, without))
    assert rest == {name: scores for name, scores in found.items() if name != "heard"} != found
