"""The numbers of the judge, against direct computations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from scipy import stats

from evaluate.judge_tables import (
    EXAM_MARKS,
    EXAM_PAIRS,
    MARKS,
    MARKS_SCHEMA,
    PAIRS,
    PAIRS_SCHEMA,
    read_marks,
    read_pairs,
)
from evaluate.judgements import JUDGE, Clips, describe, score_judgements, share_of, span_of
from pipeline.stage import UserError
from tests.builders import write_table


def clips(speakers: Sequence[str], values: npt.ArrayLike) -> Clips:
    ids = np.array([f"c/{i:02}" for i in range(len(speakers))], object)
    return Clips(ids, list(speakers), np.array(values, float)[:, None])


def test_span_and_share_have_the_jackknife_interval_over_speakers() -> None:
    generator = np.random.default_rng(3)
    speakers = [f"s{i % 6}" for i in range(40)]
    random = generator.integers(1, 5, 40).astype(float)
    true, mine = random + generator.integers(2, 6, 40), random + generator.integers(0, 4, 40)
    share = share_of(clips(speakers, mine), clips(speakers, random), clips(speakers, true))

    def direct(kept: Any) -> float:
        return float((mine[kept].mean() - random[kept].mean()) / (true[kept].mean() - random[kept].mean()))

    of = np.array(speakers)
    value = direct(of != "")
    without = np.array([direct(of != speaker) for speaker in sorted(set(speakers))])
    error = np.sqrt(5 / 6 * ((without - value) ** 2).sum())
    sizes = np.unique(of, return_counts=True)[1]
    half = stats.t.ppf(0.975, sizes.sum() ** 2 / (sizes**2).sum() - 1) * error
    found = share.interval(0.95)
    assert (share.value, found.low, found.high) == pytest.approx((value, value - half, value + half))
    span = span_of(clips(speakers, random), clips(speakers, true))
    assert span is not None
    assert span.value == pytest.approx((true - random).mean())


def test_with_one_clip_of_each_speaker_the_span_has_the_interval_of_the_paired_t_test() -> None:
    random, true = np.array([1.0, 4, 2, 6, 3]), np.array([5.0, 6, 7, 7, 9])
    span = span_of(clips("abcde", random), clips("abcde", true))
    assert span is not None
    expected = stats.ttest_rel(true, random).confidence_interval(0.95)
    assert (span.interval(0.95).low, span.interval(0.95).high) == pytest.approx((expected.low, expected.high))


def test_the_share_is_of_the_clips_that_all_three_have() -> None:
    random, true = clips("abcd", [1, 1, 1, 1]), clips("abcd", [3, 5, 7, 9])
    mine = clips("abcd", [2, 3, 1, 1]).where(np.array([True, True, False, False]))
    assert share_of(mine, random, true).value == pytest.approx(1.5 / 3)
    assert span_of(random, clips("", [])) is None


def exam_rows(marks: dict[str, int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    about = {"corpus": "exam", "emotion": "sad", "text": "t", "answer": "a", "repeat": 1, "judge": "j", "reply": ""}
    keys = [f"exam/{i:02}" for i in range(1, 41)]
    marked = [
        {**about, "id": key, "speaker": key, "system": system, "quality": 5, "empathy": mark}
        for key in keys for system, mark in marks.items()
    ]  # fmt: skip
    pairs = [
        {**about, "id": key, "speaker": key, "system": "warm", "other": "cold", "other_answer": "b",
         "is_first": first, "choice": "A" if first else "B"}
        for key in keys for first in (True, False)
    ]  # fmt: skip
    return marked, pairs


def fill(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> list[dict[str, Any]]:
    return [{**dict.fromkeys(schema.names), **row} for row in rows]


def write_judged(
    folder: Path, marks: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]], passes: bool = True
) -> Path:
    exam_marks, exam_pairs = exam_rows({"warm": 9, "cold": 2} if passes else {"warm": 5, "cold": 5})
    for name, rows in ((EXAM_MARKS, exam_marks), (MARKS, marks)):
        write_table(folder / name, fill(rows, MARKS_SCHEMA), MARKS_SCHEMA)
    for name, rows in ((EXAM_PAIRS, exam_pairs), (PAIRS, pairs)):
        write_table(folder / name, fill(rows, PAIRS_SCHEMA), PAIRS_SCHEMA)
    return folder


def mark(system: str, number: int, empathy: int | None, repeat: int = 1, corpus: str = "acted") -> dict[str, Any]:
    quality = None if empathy is None else 10 - empathy
    return {
        "id": f"{corpus}/{number}", "corpus": corpus, "speaker": f"s{number % 3}", "system": system, "repeat": repeat,
        "quality": quality, "empathy": empathy,
    }  # fmt: skip


def choice(number: int, is_first: bool, chosen: str | None, repeat: int = 1) -> dict[str, Any]:
    row = {
        name: value for name, value in mark("voice", number, 0, repeat).items() if name not in ("quality", "empathy")
    }
    return {**row, "other": "random_label", "is_first": is_first, "choice": chosen}


def marked_systems(random: Sequence[int], true: Sequence[int], voice: Sequence[int | None]) -> list[dict[str, Any]]:
    systems = {"random_label": random, "true_label": true, "voice": voice}
    return [mark(system, i, value) for system, values in systems.items() for i, value in enumerate(values)]


def test_marks_are_means_over_repeats_then_clips_and_unreadable_ones_are_counted(tmp_path: Path) -> None:
    rows = marked_systems([1, 2, 1, 2, 1, 2], [8, 9, 8, 9, 8, 9], [5, 5, 5, 5, 5, None])
    rows += [mark("voice", 0, 9, repeat=2), mark("voice", 1, None, repeat=2)]
    pairs = [
        choice(0, True, "A"), choice(0, False, "B"),  # both orders: won
        choice(1, True, "A"), choice(1, False, "A"),  # the first one twice: a tie
        choice(2, True, "B"), choice(2, False, "A"),  # lost
        choice(3, True, "A"), choice(3, False, "tie"),  # a tie
        choice(4, True, "A"), choice(4, False, None),  # unreadable: counts nowhere
        choice(5, True, "A"), choice(5, False, "B"), choice(5, True, "A", 2), choice(5, False, "A", 2),  # half won
    ]  # fmt: skip
    voice = score_judgements(write_judged(tmp_path, rows, pairs), 0.95)[f"{JUDGE}acted"]["voice"]
    assert voice["empathy"] == pytest.approx((7 + 4 * 5) / 5)
    assert voice["quality"] == pytest.approx((3 + 4 * 5) / 5)
    assert voice["n"] == 5
    assert voice["parse_failures"] == 3
    assert (voice["win"], voice["tie"], voice["loss"]) == pytest.approx((1.5 / 5, 2.5 / 5, 1 / 5), abs=1e-6)
    assert voice["net"] == pytest.approx(0.1)
    assert voice["net_low"] < 0.1 < voice["net_high"] <= 1
    assert voice["empathy_high"] <= 10


def test_there_is_no_share_if_the_interval_of_the_span_holds_0(tmp_path: Path) -> None:
    unsure = marked_systems([1, 9, 1, 9, 1, 9], [9, 2, 9, 2, 9, 9], [5] * 6)
    metrics = score_judgements(write_judged(tmp_path, unsure, []), 0.95)
    acted = metrics[f"{JUDGE}acted"]
    assert acted["span"]["empathy_low"] < 0 < acted["span"]["empathy_high"]
    assert "share" not in acted["voice"]
    assert "no shares, because the interval of the span holds 0" in describe(metrics)
    sure = marked_systems([1, 2, 1, 2, 1, 2], [9, 8, 9, 8, 9, 8], [5] * 6)
    metrics = score_judgements(write_judged(tmp_path, sure, []), 0.95)
    assert metrics[f"{JUDGE}acted"]["voice"]["share"] == pytest.approx(3.5 / 7)
    assert "no shares" not in describe(metrics)


def test_figures_of_a_judge_that_failed_are_withheld_even_if_its_marks_are_there(tmp_path: Path) -> None:
    rows = marked_systems([1] * 6, [9] * 6, [5] * 6)
    assert list(score_judgements(write_judged(tmp_path, rows, [], passes=False), 0.95)) == [f"{JUDGE}exam"]


def test_a_system_without_readable_marks_has_only_its_counts(tmp_path: Path) -> None:
    rows = marked_systems([1] * 6, [9] * 6, [None] * 6)
    voice = score_judgements(write_judged(tmp_path, rows, []), 0.95)[f"{JUDGE}acted"]["voice"]
    assert voice == {"n": 0, "speakers": 0, "parse_failures": 6}


def test_a_corpus_cannot_have_the_name_of_the_exam(tmp_path: Path) -> None:
    rows = [mark(system, 1, 5, corpus="exam") for system in ("random_label", "true_label")]
    with pytest.raises(UserError, match="found a corpus exam, expected another name"):
        score_judgements(write_judged(tmp_path, rows, []), 0.95)


def test_damaged_tables_are_one_line(tmp_path: Path) -> None:
    good = mark("voice", 1, 5)
    for changes, message in (
        ({"empathy": 11}, "acted/1: empathy: found 11, expected 0 to 10, or no mark at all"),
        ({"quality": None}, "acted/1: quality: found None, expected 0 to 10"),
    ):
        write_table(tmp_path / MARKS, fill([{**good, **changes}], MARKS_SCHEMA), MARKS_SCHEMA)
        with pytest.raises(UserError, match=message):
            read_marks(tmp_path / MARKS)
    write_table(tmp_path / MARKS, fill([good, good], MARKS_SCHEMA), MARKS_SCHEMA)
    with pytest.raises(UserError, match="acted/1: found system voice, repeat 1 2 times, expected it once"):
        read_marks(tmp_path / MARKS)
    write_table(tmp_path / PAIRS, fill([choice(1, True, "C")], PAIRS_SCHEMA), PAIRS_SCHEMA)
    with pytest.raises(UserError, match="choice: found C, expected one of A, B, tie"):
        read_pairs(tmp_path / PAIRS)
