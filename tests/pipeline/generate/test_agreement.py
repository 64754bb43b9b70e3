import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from pipeline.generate import agreement, run, store
from pipeline.generate.agreement import Question
from pipeline.params import Alignment
from pipeline.stage import UserError
from tests.builders import read_continuations, run_generate, write_texts
from tests.doubles import (
    RecordingEngine,
    let_runs_start_none,
)

QUESTION = {"system": "S", "text": "Which of {options}? {transcript} / {continuation}"}


def ask(
    folder: Path,
    llm: Path,
    question: dict[str, str] | None = QUESTION,
    kind: Alignment = "emotion",
    min_agreement: float | None = 0.1,
) -> Path:
    run_generate(folder, llm, kind, agreement=question, min_agreement=min_agreement)
    return folder / "continuations.parquet"


def test_each_class_is_asked_for_and_a_name_that_is_always_liked_counts_for_nothing(
    tmp_path: Path, llm: Path, engine: RecordingEngine
) -> None:
    write_texts(tmp_path / "manifest.parquet", ["yes", "no", None], emotion="sad")
    rows = read_continuations(ask(tmp_path, llm))
    assert [row["agreement"] for row in rows] == [0.5, 0.5, None]
    opened = run.open_run("emotion", tmp_path / "params.yaml")
    asked = opened.prompter.tokenizer.decode(list(engine.scored[-1][0]))
    assert f"Which of happy or sad? yes / {rows[0]['continuation']}" in asked
    assert sorted(opened.prompter.decode(name) for _, name in engine.scored) == ["happy", "happy", "sad", "sad"]


def test_agreement_is_the_share_of_the_rows_own_emotion() -> None:
    asked = [[Question(bytes(16), "t", "c", name) for name in ("happy", "sad")] if n != 1 else [] for n in range(4)]
    scores = pa.table({"logprob": [-1.0, -3.0, -5.0, -5.0, -5.0, -5.0]})  # of rows 0, 2 and 3
    answer_store: Any = SimpleNamespace(read=lambda *_: scores)
    shares = agreement.read(asked, ["happy", None, "sad", "sad"], answer_store)
    # the names' means over both emotions are -3 and -4
    happy = [math.exp(logit) for logit in (-1 + 3, -5 + 3, -5 + 3)]
    sad = [math.exp(logit) for logit in (-3 + 4, -5 + 4, -5 + 4)]
    expected = [happy[0] / (happy[0] + sad[0]), None, sad[1] / (happy[1] + sad[1]), sad[2] / (happy[2] + sad[2])]
    assert shares == [None if share is None else pytest.approx(share) for share in expected]


def test_a_score_is_found_once(
    tmp_path: Path, llm: Path, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "manifest.parquet", ["yes", "no", "yes"])
    first = ask(tmp_path, llm).read_bytes()
    assert len(engine.scored) == 4
    write_texts(tmp_path / "manifest.parquet", ["yes", "no", "yes", "perhaps"])
    ask(tmp_path, llm)
    assert len(engine.scored) == 6
    let_runs_start_none(monkeypatch)
    write_texts(tmp_path / "manifest.parquet", ["yes", "no", "yes"])
    assert ask(tmp_path, llm).read_bytes() == first


def test_another_question_is_asked_without_another_answer(tmp_path: Path, llm: Path, engine: RecordingEngine) -> None:
    write_texts(tmp_path / "manifest.parquet", ["yes"])
    ask(tmp_path, llm)
    ask(tmp_path, llm, {**QUESTION, "system": "T"})
    assert (len(engine.asked), len(engine.scored)) == (1, 4)


def test_a_crash_keeps_the_scores_so_far(tmp_path: Path, llm: Path, engine: RecordingEngine) -> None:
    write_texts(tmp_path / "manifest.parquet", ["yes", "no"])
    engine.fails_at = 3
    with pytest.raises(UserError, match="the engine failed"):
        ask(tmp_path, llm)
    assert (len(engine.asked), len(engine.scored)) == (2, 3)
    engine.fails_at = None
    ask(tmp_path, llm)
    assert (len(engine.asked), len(engine.scored)) == (2, 4)


def test_a_question_that_is_too_long_for_the_model_is_not_asked(
    tmp_path: Path,
    llm: Path,
    engine: RecordingEngine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_texts(tmp_path / "manifest.parquet", ["no", "n" + "o" * 50])
    question = {"system": "S", "text": "{transcript}" * 4}
    assert [row["agreement"] for row in read_continuations(ask(tmp_path, llm, question))] == [0.5, None]
    assert "agreement: 2 scores to compute; 2 more prompts are too long for max_model_len" in capsys.readouterr().out
    assert len(engine.scored) == 2
    let_runs_start_none(monkeypatch)
    ask(tmp_path, llm, question)


def test_without_a_question_and_for_stage_1_nothing_is_scored(
    tmp_path: Path, llm: Path, engine: RecordingEngine
) -> None:
    write_texts(tmp_path / "manifest.parquet", ["yes"])
    assert read_continuations(ask(tmp_path, llm, None))[0]["agreement"] is None
    assert read_continuations(ask(tmp_path, llm, kind="semantic"))[0]["agreement"] is None
    assert not engine.scored
    assert len(list(store.open_all())) == 2


@pytest.mark.parametrize("kind", ["semantic", "emotion"])
def test_without_a_limit_on_agreement_nothing_is_scored(
    tmp_path: Path, llm: Path, engine: RecordingEngine, kind: Alignment
) -> None:
    write_texts(tmp_path / "manifest.parquet", ["yes"])
    assert read_continuations(ask(tmp_path, llm, kind=kind, min_agreement=None))[0]["agreement"] is None
    assert not engine.scored
    assert len(engine.asked) == 1
