"""Reading prediction tables: what is checked before any number is made of them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from evaluate.predictions import (
    BASELINES,
    CONDITIONS,
    DIVERGENCE_SCHEMA,
    OWN_ANSWERS_SCHEMA,
    OWN_BASELINES,
    OWN_SYSTEMS,
    OWN_WRITTEN_SCHEMA,
    PROBE,
    PROMPTS_SCHEMA,
    RECOGNITION_SCHEMA,
    SYSTEMS,
    TRANSCRIPTS_SCHEMA,
    read_divergence,
    read_examples,
    read_own_answers,
    read_own_written,
    read_prompts,
    read_recognition,
    read_transcripts,
    read_written,
)
from pipeline.stage import UserError
from tests.builders import write_table

CLASSES = ["neutral", "sad"]


def divergence_rows() -> list[dict[str, Any]]:
    row = {"corpus": "libri", "speaker": "libri/1", "kl": 1.5, "num_tokens": 8, "num_agree": 3}
    return [{"id": id_, "condition": condition, **row} for id_ in ("libri/a", "libri/b") for condition in CONDITIONS]


def recognition_rows() -> list[dict[str, Any]]:
    row = {"corpus": "acted", "speaker": "acted/1", "emotion": "sad", "answer": None, "predicted": "neutral"}
    return [
        {"id": id_, "system": system.name, "scores": [0.5, 0.5], **row}
        for id_ in ("acted/a", "acted/b")
        for system in SYSTEMS
    ]


def own_answers_rows() -> list[dict[str, Any]]:
    row = {"corpus": "acted", "speaker": "acted/1", "emotion": "sad", "text": "yes", "seen_words": True}
    row |= {"logprobs": [-1.5, -2.5], "num_tokens": [3, 4], "candidates": [0, 1], "named": [False, True]}
    return [{"id": id_, "system": system, **row} for id_ in ("acted/a", "acted/b") for system in OWN_SYSTEMS]


def written(rows: list[dict[str, Any]], schema: pa.Schema, folder: Path) -> Path:
    return write_table(folder / "table.parquet", rows, schema)


def test_whole_tables_are_read(tmp_path: Path) -> None:
    assert read_divergence(written(divergence_rows(), DIVERGENCE_SCHEMA, tmp_path)).num_rows == 6
    assert read_recognition(written(recognition_rows(), RECOGNITION_SCHEMA, tmp_path), CLASSES).num_rows == 16


def test_a_missing_and_an_empty_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.parquet: no such file"):
        read_examples(tmp_path / "none.parquet")
    with pytest.raises(UserError, match="no rows; expected at least one"):
        read_divergence(written([], DIVERGENCE_SCHEMA, tmp_path))


def test_an_id_that_lacks_a_condition_is_named(tmp_path: Path) -> None:
    rows = [row for row in divergence_rows() if (row["id"], row["condition"]) != ("libri/b", "after")]
    with pytest.raises(UserError, match="libri/b: found no condition after, expected every condition for every id"):
        read_divergence(written(rows, DIVERGENCE_SCHEMA, tmp_path))


def test_an_id_may_lack_all_systems_with_a_wrong_clip_but_not_one_of_them(tmp_path: Path) -> None:
    assert read_divergence(written(divergence_rows()[:-1], DIVERGENCE_SCHEMA, tmp_path)).num_rows == 5
    rows = recognition_rows()
    lacking = [row for row in rows if row["id"] == "acted/a" or not row["system"].startswith("shuffled")]
    assert read_recognition(written(lacking, RECOGNITION_SCHEMA, tmp_path), CLASSES).num_rows == 13
    with pytest.raises(UserError, match="acted/b: found no system shuffled_prompted"):
        read_recognition(written(rows[:-1], RECOGNITION_SCHEMA, tmp_path), CLASSES)


def test_a_baseline_may_be_absent_but_not_for_some_ids(tmp_path: Path) -> None:
    rows = recognition_rows()
    rows += [{**row, "system": BASELINES[0].name} for row in rows if row["system"] == "head"]
    assert read_recognition(written(rows, RECOGNITION_SCHEMA, tmp_path), CLASSES).num_rows == 18
    with pytest.raises(UserError, match="acted/b: found no system silence_logprob, expected every system for every id"):
        read_recognition(written(rows[:-1], RECOGNITION_SCHEMA, tmp_path), CLASSES)
    probed = [{**row, "system": PROBE.name} for row in rows[:1]] + rows[-1:]
    with pytest.raises(UserError, match="system: found silence_logprob, expected one of probe"):
        read_recognition(written(probed, RECOGNITION_SCHEMA, tmp_path), CLASSES, [PROBE])
    rows = own_answers_rows()
    rows += [{**row, "system": OWN_BASELINES[0]} for row in rows if row["system"] == "voice"]
    assert read_own_answers(written(rows, OWN_ANSWERS_SCHEMA, tmp_path), CLASSES).num_rows == 16
    with pytest.raises(UserError, match="acted/b: found no system heard"):
        read_own_answers(written(rows[:-1], OWN_ANSWERS_SCHEMA, tmp_path), CLASSES)


def test_written_answers_are_read_with_and_without_continuations(tmp_path: Path) -> None:
    row = {"id": "acted/a", "corpus": "acted", "speaker": "acted/1", "emotion": "sad", "text": "yes", "system": "voice"}
    rows: list[dict[str, Any]] = [row | {"answer": "oh", "continuations": ["oh", "no"]}]
    file = written(rows, OWN_WRITTEN_SCHEMA, tmp_path)
    assert read_own_written(file, CLASSES).to_pylist() == rows
    assert read_written(file).to_pylist() == [row | {"answer": "oh"}]
    for name, value, message in (
        ("continuations", ["oh"], r"continuations: found \['oh'\], expected 2 values"),
        ("emotion", "calm", "emotion: found calm, expected one of neutral, sad"),
        ("answer", None, "answer: found no value, expected a text"),
    ):
        with pytest.raises(UserError, match=f"acted/a: {message}"):
            read_own_written(written([rows[0] | {name: value}], OWN_WRITTEN_SCHEMA, tmp_path), CLASSES)


def test_an_id_that_comes_twice_is_named(tmp_path: Path) -> None:
    rows = recognition_rows()
    with pytest.raises(UserError, match="acted/a: system head found twice, expected once"):
        read_recognition(written([*rows, rows[0]], RECOGNITION_SCHEMA, tmp_path), CLASSES)


def test_an_unknown_system_is_named_with_those_expected(tmp_path: Path) -> None:
    rows = recognition_rows()
    rows[0]["system"] = "oracle"
    with pytest.raises(UserError, match="acted/a: system: found oracle, expected one of head, logprob"):
        read_recognition(written(rows, RECOGNITION_SCHEMA, tmp_path), CLASSES)


@pytest.mark.parametrize(("kl", "num_tokens"), [(float("nan"), 8), (float("inf"), 8), (None, 8), (1.0, 0)])
def test_a_kl_without_a_number_or_a_token_is_named(kl: float | None, num_tokens: int, tmp_path: Path) -> None:
    rows = divergence_rows()
    rows[1] |= {"kl": kl, "num_tokens": num_tokens}
    with pytest.raises(UserError, match=r"libri/a \(after\): found kl .* tokens, expected a finite number"):
        read_divergence(written(rows, DIVERGENCE_SCHEMA, tmp_path))


@pytest.mark.parametrize(("errors", "words"), [(-1, 2), (1, None), (None, 2), (1, -2)])
def test_counts_of_words_that_cannot_be_are_named(errors: int | None, words: int | None, tmp_path: Path) -> None:
    row: dict[str, Any] = {"id": "libri/a", "corpus": "libri", "speaker": "s", "kind": "semantic"}
    row |= {"language": None, "text": "t"}
    rows = [row | {"heard": "t", "errors": 0, "words": 1}, row | {"heard": "", "errors": None, "words": None}]
    assert read_transcripts(written(rows, TRANSCRIPTS_SCHEMA, tmp_path)).num_rows == 2
    rows[1] |= {"id": "libri/b", "errors": errors, "words": words}
    with pytest.raises(UserError, match=f"libri/b: found {errors} errors in {words} words, expected two counts"):
        read_transcripts(written(rows, TRANSCRIPTS_SCHEMA, tmp_path))


@pytest.mark.parametrize("num_agree", [-1, 9, None])
def test_more_tokens_that_agree_than_there_are_is_named(num_agree: int | None, tmp_path: Path) -> None:
    rows = divergence_rows()
    rows[1]["num_agree"] = num_agree
    with pytest.raises(UserError, match=rf"libri/a \(after\): found num_agree {num_agree}, expected 0 to 8"):
        read_divergence(written(rows, DIVERGENCE_SCHEMA, tmp_path))


@pytest.mark.parametrize(("column", "label"), [("emotion", "calm"), ("emotion", None), ("predicted", "calm")])
def test_a_label_outside_the_classes_is_named(column: str, label: str | None, tmp_path: Path) -> None:
    rows = recognition_rows()
    rows[8][column] = label
    with pytest.raises(UserError, match=f"acted/b: {column}: found {label}, expected one of neutral, sad"):
        read_recognition(written(rows, RECOGNITION_SCHEMA, tmp_path), CLASSES)


def test_own_answers_are_read_and_may_be_none_or_lack_a_wrong_clip(tmp_path: Path) -> None:
    rows = own_answers_rows()
    assert read_own_answers(written(rows, OWN_ANSWERS_SCHEMA, tmp_path), CLASSES).num_rows == 14
    rows = [row for row in rows if (row["id"], row["system"]) != ("acted/b", "shuffled")]
    assert read_own_answers(written(rows, OWN_ANSWERS_SCHEMA, tmp_path), CLASSES).num_rows == 13
    assert read_own_answers(written([], OWN_ANSWERS_SCHEMA, tmp_path), CLASSES).num_rows == 0


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("system", "oracle", "system: found oracle, expected one of voice, shuffled"),
        ("emotion", "calm", "emotion: found calm, expected one of neutral, sad"),
        ("logprobs", [-1.0], r"logprobs: found \[-1.0\], expected 2 values"),
        ("logprobs", [-1.0, float("nan")], r"logprobs: found \[-1.0, nan\], expected finite numbers"),
        ("logprobs", [None, -1.0], r"logprobs: found \[None, -1.0\], expected finite numbers"),
        ("num_tokens", [], r"num_tokens: found \[\], expected 2 values"),
        ("candidates", None, "candidates: found None, expected 2 values"),
        ("named", [True] * 3, r"named: found \[True, True, True\], expected 2 values"),
    ],
)
def test_wrong_own_answers_are_named(column: str, value: Any, message: str, tmp_path: Path) -> None:
    rows = own_answers_rows()
    rows[8][column] = value
    with pytest.raises(UserError, match=f"acted/b: {message}"):
        read_own_answers(written(rows, OWN_ANSWERS_SCHEMA, tmp_path), CLASSES)


@pytest.mark.parametrize("scores", [[float("nan"), 0.5], [0.5, float("-inf")], [0.5, None]])
def test_a_score_that_is_no_number_is_named(scores: list[float | None], tmp_path: Path) -> None:
    rows = recognition_rows()
    rows[8]["scores"] = scores
    with pytest.raises(UserError, match=r"acted/b: scores: found \[.+\], expected finite numbers"):
        read_recognition(written(rows, RECOGNITION_SCHEMA, tmp_path), CLASSES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "train"}, "a/0: split: found train, expected one of test, dev"),
        ({"emotion": "bored"}, "a/0: emotion: found bored, expected one of"),
        ({"scores": [0.0]}, r"a/0: scores: found \[0.0\], expected 2 values"),
        ({"scores": [0.0, float("nan")]}, "a/0: scores: found .+, expected finite numbers"),
        ({"id": "a/1"}, "a/1: prompt 0-0 found twice, expected once"),
        ({"id": "a/2"}, "a/0: found no prompt 0-0, expected every prompt for every id"),
    ],
)
def test_wrong_scores_under_prompts_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = [
        {"id": f"a/{i}", "corpus": "a", "speaker": "a/s", "emotion": CLASSES[0], "split": "dev", "prompt": prompt}
        | {"scores": [0.0] * 2}
        for i in range(2)
        for prompt in ("0-0", "0-1")
    ]
    assert read_prompts(written(rows, PROMPTS_SCHEMA, tmp_path), CLASSES).num_rows == 4
    rows[0] |= change
    with pytest.raises(UserError, match=message):
        read_prompts(written(rows, PROMPTS_SCHEMA, tmp_path), CLASSES)
