"""Told continuations: each transcript of dev and test is continued once for each emotion of the run."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.generate import __main__ as generate
from pipeline.stage import UserError
from pipeline.tables import continuations, parquet
from pipeline.tables.continuations import TOLD_SCHEMA
from tests.builders import run_generate, utterance, write_generate_params, write_table
from tests.doubles import RecordingEngine

ROWS: list[tuple[str, str | None, str | None]] = [
    ("train", "only in train", "sad"),
    ("train", "yes", "sad"),
    ("dev", "no", "happy"),
    ("test", "yes", "happy"),
    ("test", "yes", "sad"),
    ("test", "", "sad"),
    ("test", None, "happy"),
    ("test", "never", None),
    ("dev", "never", "angry"),
]


def write_manifest(folder: Path, rows: list[tuple[str, str | None, str | None]]) -> Path:
    made = [utterance(f"c/{i}", split=s, text=text, emotion=emotion) for i, (s, text, emotion) in enumerate(rows)]
    return write_table(folder / "manifest.parquet", made)


def tell(folder: Path, llm: Path, kind: Any = "emotion") -> list[dict[str, Any]]:
    params_file = write_generate_params(folder / "params.yaml", llm, min_agreement=0.5)
    output = folder / "told.parquet"
    generate.main(kind, folder / "manifest.parquet", output, folder / "choices.csv", params_file, told=True)
    rows: list[dict[str, Any]] = parquet.read(output, TOLD_SCHEMA, allow_empty=True).to_pylist()
    return rows


def test_each_transcript_of_dev_and_test_is_continued_once_for_each_emotion(
    tmp_path: Path, llm: Path, engine: RecordingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path, ROWS)
    rows = tell(tmp_path, llm)
    expected = [("no", "sad"), ("no", "happy"), ("yes", "sad"), ("yes", "happy")]
    assert [(row["text"], row["emotion"]) for row in rows] == expected
    assert [(request.transcript, request.emotion) for request in engine.asked] == expected
    assert {row["finish_reason"] for row in rows} == {continuations.STOP}
    assert len({row["key"] for row in rows}) == 4
    assert engine.scored == []  # nothing needs the agreement
    assert capsys.readouterr().out.splitlines()[0] == (
        "generate emotion: 2 distinct transcripts of 7 dev and test rows, each with 2 emotions; "
        "left out 2 rows without a transcript, 2 without an emotion"
    )


def test_continuations_that_training_has_are_not_generated_again(
    tmp_path: Path, llm: Path, engine: RecordingEngine
) -> None:
    write_manifest(tmp_path, [("test", "yes", "sad"), ("train", "no", "sad")])
    (stored, _) = run_generate(tmp_path, llm, "emotion")
    assert len(engine.asked) == 2
    (sad, happy) = tell(tmp_path, llm)
    assert [(request.transcript, request.emotion) for request in engine.asked[2:]] == [("yes", "happy")]
    assert sad["key"] == stored["key"] != happy["key"]
    assert sad["token_ids"] == stored["token_ids"]


def test_a_run_without_transcripts_has_no_told_continuations(
    tmp_path: Path, llm: Path, engine: RecordingEngine
) -> None:
    write_manifest(tmp_path, [("train", "yes", "sad"), ("test", None, "sad")])
    assert tell(tmp_path, llm) == []
    assert engine.started_on == []


def test_the_prompt_of_stage_1_names_no_emotion(tmp_path: Path, llm: Path, engine: RecordingEngine) -> None:
    write_manifest(tmp_path, ROWS)
    with pytest.raises(UserError, match="--told: found --kind semantic, expected emotion, whose prompt names"):
        tell(tmp_path, llm, "semantic")
    assert engine.asked == []


def test_an_answer_ends_with_its_end_token_only_if_the_llm_ended_it() -> None:
    answer = {"token_ids": [5, 6], "finish_reason": continuations.STOP, "end_id": None}
    assert continuations.response_ids(answer, 9) == [5, 6, 9]
    assert continuations.response_ids(answer | {"end_id": 8}, 9) == [5, 6, 8]
    assert continuations.response_ids(answer | {"finish_reason": continuations.LENGTH}, 9) == [5, 6]
