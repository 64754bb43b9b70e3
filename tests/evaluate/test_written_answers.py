"""Scores of written answers on planted texts."""

from typing import Any

import numpy as np
import pytest

from evaluate.predictions import OWN_WRITTEN_SCHEMA
from evaluate.written_answers import score_written
from pipeline.tables import parquet
from tests.builders import CLASSES

KEY = "written_acted"


def row(number: int, answer: str, system: str = "voice", **changes: Any) -> dict[str, Any]:
    return {
        "id": f"acted/{number:03}", "corpus": "acted", "speaker": f"acted/{number % 4}", "text": "yes",
        "emotion": CLASSES[number // 4 % 4], "system": system, "answer": answer,
        "continuations": [f"on {emotion}" for emotion in "abcd"], **changes,
    }  # fmt: skip


def scores(*rows: dict[str, Any]) -> dict[str, dict[str, float]]:
    return score_written(parquet.from_rows(rows, OWN_WRITTEN_SCHEMA), CLASSES, 0.95)[KEY]


def test_an_answer_is_the_right_continuation_another_one_or_none() -> None:
    answers = ["on a", "on a", "on b", "on d", "on b", "on b", "else", "on A"]
    found = scores(*(row(number, answer) for number, answer in enumerate(answers)))["voice"]
    # clips 0 to 3 have the first emotion, clips 4 to 7 the second
    assert (found["written_is_right"], found["written_is_other"]) == (0.5, 0.25)
    # of the emotions a and b of these clips, five answers have one
    assert found["written_is_chance"] == pytest.approx(5 / 8 / 2)
    assert (found["n"], found["speakers"]) == (8, 4)
    assert found["written_is_right_low"] < 0.5 < found["written_is_right_high"]


def test_a_continuation_for_several_emotions_counts_in_parts() -> None:
    same = ["on a", "on a", "on a", "on d"]
    found = scores(*(row(number, "on a", continuations=same) for number in range(16)))["voice"]
    assert found["written_is_right"] == pytest.approx(3 / 4 / 3, abs=1e-6)
    assert found["written_is_other"] == pytest.approx(3 / 4 * 2 / 3 + 1 / 4, abs=1e-6)
    assert found["written_is_chance"] == 0.25


def test_chance_is_that_of_permuted_emotions() -> None:
    rng = np.random.default_rng(0)
    rows = [row(number, f"on {'abcdx'[rng.integers(5)]}") for number in range(160)]
    right = []
    for _ in range(300):
        order = rng.permutation(160)
        shuffled = [{**one, "emotion": rows[other]["emotion"]} for one, other in zip(rows, order, strict=True)]
        right.append(scores(*shuffled)["voice"]["written_is_right"])
    assert np.mean(right) == pytest.approx(scores(*rows)["voice"]["written_is_chance"], abs=0.01)


def test_the_first_word_for_an_emotion_counts() -> None:
    named = [f"how {CLASSES[1]}, not {CLASSES[0]}", "well"]
    rows = [row(number, named[number % 2], emotion=CLASSES[1 + number // 4]) for number in range(8)]
    found = scores(*rows)["voice"]
    assert (found["written_names_right"], found["written_names_other"]) == (0.25, 0.25)
    assert found["written_names_chance"] == 0.25


def test_systems_and_corpora_are_scored_by_themselves() -> None:
    rows = [row(number, "on a", system) for number in range(8) for system in ("voice", "told_head")]
    rows += [row(number, "else", corpus="other") for number in range(8)]
    found = score_written(parquet.from_rows(rows, OWN_WRITTEN_SCHEMA), CLASSES, 0.95)
    assert list(found) == ["written_acted", "written_other"]
    assert list(found["written_acted"]) == ["voice", "told_head"]
    assert found["written_acted"]["told_head"]["written_is_right"] == 0.5
    assert (
        found["written_other"]["voice"]["written_is_right"] == found["written_other"]["voice"]["written_is_chance"] == 0
    )
