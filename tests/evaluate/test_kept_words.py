"""The scores of kept words are those of their definitions, and their intervals are over speakers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from evaluate.kept_words import score_semantics, score_transcripts
from evaluate.predictions import SEMANTICS_SCHEMA, TRANSCRIPTS_SCHEMA
from pipeline.tables import parquet


def transcripts(rows: list[tuple[str, str, int | None, int | None]]) -> pa.Table:
    """Make up transcripts from ids, speakers, errors and words."""
    about: dict[str, Any] = {"corpus": "libri", "kind": "semantic", "language": "en", "text": "t", "heard": "h"}
    names = ("id", "speaker", "errors", "words")
    return parquet.from_rows([about | dict(zip(names, row, strict=True)) for row in rows], TRANSCRIPTS_SCHEMA)


def measured(
    task: str, system: str, values: Sequence[float], weights: Sequence[int] | None = None, **changes: Any
) -> Any:
    """Make up rows of the stage semantics; two of a speaker stand side by side."""
    weights = weights or [1] * len(values)
    return [
        {"id": f"libri/{i}", "corpus": "libri", "speaker": f"s{i // 2}", "model": "emotion", "task": task}
        | {"system": system, "prompt": None, "answer": "a", "value": float(value), "weight": float(weight)}
        | changes
        for i, (value, weight) in enumerate(zip(values, weights, strict=True))
    ]


def score(rows: list[dict[str, Any]]) -> Any:
    return score_semantics(parquet.from_rows(rows, SEMANTICS_SCHEMA), 0.95)


def half_width(without_one: list[float], value: float, sizes: list[int]) -> float:
    n, effective = len(sizes), sum(sizes) ** 2 / sum(size**2 for size in sizes)
    error = np.sqrt((n - 1) / n * sum((each - value) ** 2 for each in without_one))
    return float(stats.t.ppf(0.975, max(effective - 1, 1)) * error)


def test_the_word_error_rate_is_errors_over_words_with_its_interval_over_speakers() -> None:
    rows = [("a", "x", 1, 10), ("b", "x", 0, 5), ("c", "y", 2, 10), ("d", "z", 1, 15)]
    found = score_transcripts(transcripts([*rows]), 0.95)["transcripts_libri"]["whisper"]
    assert found["wer"] == pytest.approx(4 / 40)
    assert (found["n"], found["speakers"], found["words"]) == (4, 3, 40)
    half = half_width([3 / 25, 2 / 30, 3 / 25], 4 / 40, [15, 10, 15])
    assert found["wer_low"] == pytest.approx(max(0, 4 / 40 - half), abs=1e-6)
    assert found["wer_high"] == pytest.approx(4 / 40 + half, abs=1e-6)


def test_clips_without_words_are_left_out_and_a_clip_of_both_kinds_counts_once() -> None:
    rows = [("a", "x", 1, 10), ("b", "y", None, None), ("c", "y", 3, 0), ("d", "y", 1, 10), ("a", "x", 1, 10)]
    found = score_transcripts(transcripts(rows), 0.95)["transcripts_libri"]["whisper"]
    assert (found["wer"], found["n"]) == (0.1, 2)
    assert score_transcripts(transcripts(rows[1:3]), 0.95) == {}


def test_a_model_that_repeats_has_an_error_rate_that_may_exceed_one_and_a_difference_from_the_text() -> None:
    words = [10, 20, 10, 30]
    rows = measured("repeat", "voice", [20, 30, 5, 40], words) + measured("repeat", "transcript", [1, 2, 1, 3], words)
    rows += measured("repeat", "shuffled", [30, 40], words[:2]) + measured("repeat", "whisper", [1, 1, 0, 1], words)
    found = score(rows)["repeat_emotion_libri"]
    assert {name: of["wer"] for name, of in found.items()} == pytest.approx(
        {"voice": 95 / 70, "transcript": 0.1, "shuffled": 70 / 30, "whisper": 3 / 70, "difference": 95 / 70 - 0.1},
        abs=1e-6,
    )
    half = half_width([45 / 40 - 4 / 40, 50 / 30 - 3 / 30], 95 / 70 - 0.1, [30, 40])
    assert found["difference"]["wer_high"] == pytest.approx(95 / 70 - 0.1 + half, abs=1e-5)
    assert found["difference"]["wer_low"] < 0
    assert (found["voice"]["words"], found["voice"]["speakers"]) == (70, 2)


def test_the_difference_of_answers_is_over_the_clips_that_have_a_wrong_clip() -> None:
    rows = measured("answers", "voice", [0.5, 0.7, 0.9, 0.1]) + measured("answers", "shuffled", [0.1, 0.1])
    found = score(rows)["answers_emotion_libri"]
    assert found["voice"]["f1"] == pytest.approx(0.55)
    assert found["difference"]["f1"] == pytest.approx(0.6 - 0.1)
    assert found["voice"]["f1_high"] <= 1
    assert "transcript" not in found
    assert "difference" not in score(measured("answers", "voice", [0.5, 0.7]))["answers_emotion_libri"]


def test_instructions_have_a_paired_exact_test() -> None:
    voice, text = [0, 0, 0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 0, 1, 1]
    rows = measured("instructions", "voice", voice, corpus="instructions")
    found = score(rows + measured("instructions", "transcript", text, corpus="instructions"))
    assert list(found) == ["instructions_emotion"]
    difference = found["instructions_emotion"]["difference"]
    assert difference["share"] == pytest.approx(3 / 8 - 7 / 8)
    assert difference["p"] == pytest.approx(2 * (1 + 6) / 2**6)  # at most one of six
    assert -1 <= difference["share_low"] < difference["share"] < difference["share_high"]
    few = score(measured("instructions", "voice", [1, 0, 0, 0]) + measured("instructions", "transcript", [0] * 4))
    assert few["instructions_emotion_libri"]["difference"]["share_high"] == 1  # not 3.4
    same = score(rows + measured("instructions", "transcript", voice, corpus="instructions"))
    assert same["instructions_emotion"]["difference"] == {"share": 0, "share_low": 0, "share_high": 0, "p": 1}


def test_text_alone_is_equal_only_if_no_logit_differs() -> None:
    rows = measured("text_alone", "transcript", [0, 0])
    assert score(rows) == {"text_alone_emotion": {"transcript": {"equal": 1, "largest_difference": 0, "n": 2}}}
    other = score(rows + measured("text_alone", "transcript", [0, 1e-9], corpus="b"))
    assert other["text_alone_emotion"]["transcript"] == {"equal": 0, "largest_difference": 0, "n": 4}


def test_models_and_corpora_are_tests_of_their_own() -> None:
    rows = measured("repeat", "voice", [1, 2])
    rows += measured("repeat", "voice", [2, 4], model="semantic") + measured("repeat", "voice", [3, 6], corpus="b")
    found = score(rows)
    assert list(found) == ["repeat_emotion_b", "repeat_emotion_libri", "repeat_semantic_libri"]
    assert [of["voice"]["wer"] for of in found.values()] == [4.5, 1.5, 3.0]
