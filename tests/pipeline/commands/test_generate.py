import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline.__main__ import app
from pipeline.generate import __main__ as generate
from pipeline.generate import choices
from pipeline.generate.engines.interface import Answer
from pipeline.stage import UserError
from pipeline.tables import continuations
from tests.builders import change_params, read_continuations, write_table
from tests.doubles import RecordingEngine


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def plan(*arguments: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run("generate", "semantic", "--dry-run", "--json", *arguments).stdout)
    return told


def taken() -> dict[str, str]:
    """Run the stage; return the continuation of each row."""
    generate.main("semantic", Path("manifests/semantic.parquet"), Path("c.parquet"), Path("manifests/choices.csv"))
    return {row["id"]: row["continuation"] for row in read_continuations(Path("c.parquet"))}


def test_the_plan_counts_what_the_store_has_and_what_is_left_to_do(numbers: RecordingEngine) -> None:
    first = plan()
    assert (first["rows"], first["prompts"], first["stored"], first["minutes"]) == (3, 3, 0, None)
    assert first["new_tokens"] == 36
    assert len(numbers.asked) == 0
    taken()
    assert (plan()["stored"], plan()["new_tokens"]) == (3, 0)
    assert plan("--force")["new_tokens"] == 36
    out = run("generate", "semantic", "--dry-run", "--force").stdout
    assert "3 distinct, 3 have an answer in the store" in out
    assert max(map(len, out.splitlines())) <= 80 or "store" in max(out.splitlines(), key=len)


def test_only_the_rows_asked_for_are_answered_and_the_stage_takes_them_over(numbers: RecordingEngine) -> None:
    result = run("generate", "semantic", "--where", "duration_s > 1", "--id", "b")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("generate: 1 answers written; the next dvc repro uses them\n")
    assert not Path("c.parquet").exists()
    assert len(numbers.asked) == 1
    taken()
    assert len(numbers.asked) == 3


def test_a_preview_shows_prompts_and_answers_and_writes_nothing(numbers: RecordingEngine, store: Path) -> None:
    out = run("generate", "semantic", "--preview", "2").stdout
    assert out.count("Go on: ") == 2
    assert len(numbers.asked) == 2
    assert not list(store.rglob("*.parquet"))
    assert not Path("manifests/choices.csv").exists()


def test_force_answers_anew_and_nothing_is_lost(numbers: RecordingEngine) -> None:
    before = taken()
    run("generate", "semantic", "--id", "a", "--force")
    after = taken()
    assert after["a"] != before["a"]
    assert {key: after[key] for key in "bc"} == {key: before[key] for key in "bc"}
    told = json.loads(run("history", "a", "--json").stdout)
    assert [(entry["attempt"], entry["is_used"]) for entry in told] == [(1, False), (2, True)]
    assert [entry["continuation"] for entry in told] == [before["a"], after["a"]]
    run("history", "a", "--use", "1")
    assert taken() == before
    assert len(numbers.asked) == 4


def test_each_attempt_is_drawn_with_a_seed_of_its_own_by_one_engine(numbers: RecordingEngine) -> None:
    change_params({"generate.temperature": 1.0, "generate.seed": 5})
    taken()
    run("generate", "semantic", "--id", "a", "--force")
    run("generate", "semantic", "--force")
    assert [request.seed for request in numbers.asked] == [5, 5, 5, 6, 7, 6, 6]  # all, then a, then all
    assert len(numbers.started_on) == 3
    told = {key: json.loads(run("history", key, "--json").stdout) for key in "ab"}
    assert {key: [entry["seed"] for entry in entries] for key, entries in told.items()} == {"a": [5, 6, 7], "b": [5, 6]}
    out = run("generate", "semantic", "--id", "a", "--force", "--preview", "1").stdout
    assert numbers.asked[-1].seed == 8
    assert "kids are talking" in out


def test_an_answer_that_comes_out_as_it_was_changes_nothing(numbers: RecordingEngine) -> None:
    numbers.answer = lambda *_: Answer((50,), continuations.STOP, -1.0)
    before = taken()
    out = run("generate", "semantic", "--force").stdout
    assert "3 are the same as before and change nothing (at temperature 0 the LLM always" in " ".join(out.split())
    assert not choices.FILE.exists()
    assert taken() == before
    assert len(json.loads(run("history", "a", "--json").stdout)) == 2


def test_what_was_answered_anew_before_a_failure_counts(numbers: RecordingEngine) -> None:
    before = taken()
    numbers.fails_at = 5
    assert isinstance(run("generate", "semantic", "--force").exception, UserError)
    changed = [key for key, answer in taken().items() if answer != before[key]]
    assert len(changed) == 2


def test_a_choice_that_the_store_lacks_is_told_before_anything_is_generated(
    numbers: RecordingEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run("generate", "semantic", "--id", "a", "--force")
    run("generate", "semantic", "--id", "a", "--force")
    monkeypatch.setenv("BLSP_STORE", str(tmp_path / "other"))
    count = len(numbers.asked)
    with pytest.raises(UserError, match=r"choices\.csv: 1 attempts chosen here .*other.*, for example \w+,\w+,2; set"):
        taken()
    assert len(numbers.asked) == count
    choices.FILE.write_text("recipe,key,generation\n")
    taken()
    assert len(numbers.asked) == count + 3


def test_json_is_one_object_whatever_is_done(numbers: RecordingEngine) -> None:
    told = json.loads(run("generate", "semantic", "--preview", "1", "--json").stdout)
    assert (told["prompts"], told["previews"][0]["finish_reason"]) == (3, continuations.STOP)
    told = json.loads(run("generate", "semantic", "--json").stdout)
    assert (told["written"], told["unchanged"]) == (3, 0)


def test_rows_that_filter_dropped_are_chosen_by_reason(numbers: RecordingEngine) -> None:
    taken()
    row = dict.fromkeys(continuations.DROPPED_SCHEMA.names) | {
        "id": "c", "reason": "refusal", "continuation": "No.", "score": 1.0
    }  # fmt: skip
    dropped = Path("manifests/continuations/semantic.dropped.parquet")
    write_table(dropped, [row], continuations.DROPPED_SCHEMA)
    assert plan("--reason", "refusal", "--force")["rows"] == 1
    told = json.loads(run("dropped", "semantic", "--reason", "refusal", "--json").stdout)
    assert (told["rows"], told["reasons"], told["answers"][0]["text"]) == (1, {"refusal": 1}, "yes")
    assert "refusal     1" in run("dropped", "semantic").stdout
    assert "said" in run("dropped", "semantic", "--reason", "refusal").stdout
    result = run("generate", "semantic", "--reason", "refused")
    assert isinstance(result.exception, UserError)
    assert "--reason: found refused, expected a reason of " in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "semantic", "--id", "z"), "no utterance z"),
        (("generate", "semantic", "--id", "c", "--where", "duration_s > 1"), "no utterance c that matches --where"),
        (("generate", "semantic", "--where", "duration_s > 99"), "--where duration_s > 99: true for no row"),
        (("history", "z"), "z: no such utterance in manifests/semantic.parquet or manifests/emotion.parquet"),
        (("history", "a", "--use", "7"), "--use: found 7, but the store has no answer to this row"),
    ],
)
def test_what_is_not_there_is_told(numbers: RecordingEngine, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert len(numbers.asked) == 0
