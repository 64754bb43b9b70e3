from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline import continuations, filter, manifest, tables
from pipeline.filter import FilterParams, find_reason, is_echo, is_refusal
from pipeline.stage import UserError
from pipeline.weights import ModelsParams

LIMITS = {"min_duration_s": 1.0, "max_duration_s": 30.0, "max_tokens": 100, "drop_refusals": True, "drop_echoes": False}
SETTINGS = FilterParams.model_validate(LIMITS)
USABLE = {"duration_s": 2.0, "continuation": "Well.", "finish_reason": continuations.STOP, "echo": False}


@pytest.mark.parametrize(
    "continuation",
    [
        "I'm sorry, but I cannot continue the sentence.",
        "I'M SORRY, BUT I'm not sure.",
        "Oh. I’m sorry, but I can't.",  # noqa: RUF001
        "As an AI language model, I have no feelings.",
        "I'm not sure what you mean.",
    ],
)
def test_refusals_are_known_by_their_words(continuation: str) -> None:
    assert is_refusal(continuation)


@pytest.mark.parametrize("continuation", ["I'm sorry to hear that.", "i'm NOT sure what you saw", "I am a model."])
def test_what_only_resembles_a_refusal_is_none(continuation: str) -> None:
    assert not is_refusal(continuation)


@pytest.mark.parametrize(
    ("continuation", "transcript"),
    [
        ("The kids are talking by the door.", "kids are talking by the door"),
        ("kids are talking", "kids are talking by the door"),
        ('"Don’t go," he said.', "don't go"),  # noqa: RUF001
    ],
)
def test_an_answer_that_holds_the_transcript_or_is_part_of_it_is_an_echo(continuation: str, transcript: str) -> None:
    assert is_echo(continuation, transcript)


@pytest.mark.parametrize(
    ("continuation", "transcript"),
    [
        ("They are waiting for the bus.", "kids are talking by the door"),
        ("There it is.", "he"),  # a part of a word is no repetition
        ("...", "kids are talking"),
        ("Well.", ""),
    ],
)
def test_an_answer_of_its_own_is_no_echo(continuation: str, transcript: str) -> None:
    assert not is_echo(continuation, transcript)


@pytest.mark.parametrize(
    ("row", "num_tokens", "reason"),
    [
        ({}, 100, None),
        ({"duration_s": 0.99}, 10, "too short"),
        ({"duration_s": 30.1}, 10, "too long"),
        ({"duration_s": 1.0}, 10, None),
        ({"finish_reason": continuations.LENGTH}, 10, None),
        ({"finish_reason": continuations.PROMPT_TOO_LONG, "continuation": ""}, 1000, "prompt too long"),
        ({"finish_reason": continuations.NO_TRANSCRIPT, "continuation": ""}, 10, "no transcript"),
        ({"continuation": ""}, 10, "empty"),
        ({"continuation": "I'm not sure what you want"}, 1000, "refusal"),
        ({"duration_s": 0.5, "continuation": ""}, 1000, "too short"),
        ({}, 101, "too many tokens"),
        ({"echo": True}, 10, None),
    ],
)
def test_the_first_reason_that_applies_is_given(row: dict[str, Any], num_tokens: int, reason: str | None) -> None:
    assert find_reason(USABLE | row, num_tokens, SETTINGS) == reason


def test_refusals_and_echoes_go_only_where_the_parameters_say_so() -> None:
    echoing = FilterParams.model_validate({**LIMITS, "drop_refusals": False, "drop_echoes": True})
    assert find_reason(USABLE | {"echo": True}, 10, echoing) == "echo"
    assert find_reason(USABLE | {"continuation": "I'm not sure what you want"}, 10, echoing) is None


def test_limits_are_checked() -> None:
    with pytest.raises(ValidationError, match=r"min_duration_s below max_duration_s = 1\.0"):
        FilterParams.model_validate({**LIMITS, "max_duration_s": 1.0})
    with pytest.raises(ValidationError, match="less than or equal to 30"):
        FilterParams.model_validate({**LIMITS, "max_duration_s": 45.0})


def run_filter(tmp_path: Path, models: ModelsParams, answers: list[tuple[str, str]], num_answers: int = 9) -> None:
    """Filter the answers to utterances of these texts, given as (text, answer)."""
    empty = dict.fromkeys(manifest.SCHEMA.names)
    utterances = [
        {**empty, "id": f"corpus/{i}", "text": text, "emotion": "sad", "duration_s": 2.0}
        for i, (text, _) in enumerate(answers)
    ]
    rows = [
        {
            "id": f"corpus/{i}",
            "continuation": answer,
            "token_ids": [5] * len(answer),
            "finish_reason": continuations.STOP,
            "engine": "echo 1",
        }
        for i, (_, answer) in enumerate(answers[:num_answers])
    ]
    tables.write(tables.from_rows(utterances, manifest.SCHEMA), tmp_path / "manifest.parquet")
    tables.write(tables.from_rows(rows[::-1], continuations.SCHEMA), tmp_path / "answers.parquet")
    prompt = {"system": "S", "text": "Go on, {emotion}: ", "speech": "Go on: "}
    sections = {"models": models.model_dump(), "prompts": {"emotion": prompt}, "filter": {"emotion": LIMITS}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(sections))
    names = ("manifest.parquet", "answers.parquet", "kept.parquet", "dropped.parquet", "params.yaml")
    filter.main("emotion", *(tmp_path / name for name in names))


def test_kept_and_dropped_rows_together_are_the_manifest(
    tmp_path: Path, tiny_models: ModelsParams, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [
        ("yes", "Oh yes!"), ("no", ""), ("so", "I'm not sure what you mean"), ("well", "x" * 90), ("hm", "Why?"),
        ("eh", "I'm not sure what you mean"),
    ]  # fmt: skip
    run_filter(tmp_path, tiny_models, answers)
    kept = tables.read(tmp_path / "kept.parquet", continuations.KEPT_SCHEMA).to_pylist()
    dropped = tables.read(tmp_path / "dropped.parquet", continuations.DROPPED_SCHEMA).to_pylist()
    assert [(row["id"], row["echo"]) for row in kept] == [("corpus/0", True), ("corpus/4", False)]
    reasons = {row["id"]: row["reason"] for row in dropped}
    expected = {"corpus/1": "empty", "corpus/2": "refusal", "corpus/3": "too many tokens", "corpus/5": "refusal"}
    assert reasons == expected
    line = "filter emotion: kept 2 of 6 rows (2 refusals, 1 empty, 1 too many tokens); 1 echo among the kept\n"
    assert capsys.readouterr().out == line


def test_no_usable_row_is_a_mistake(tmp_path: Path, tiny_models: ModelsParams) -> None:
    with pytest.raises(UserError, match=r"answers\.parquet: no usable row of 1 \(1 empty\); expected at least one"):
        run_filter(tmp_path, tiny_models, [("yes", "")])
    assert not (tmp_path / "kept.parquet").exists()


def test_an_utterance_without_a_continuation_is_named(tmp_path: Path, tiny_models: ModelsParams) -> None:
    with pytest.raises(UserError, match="corpus/1: found no continuation, expected one; run generate on this manifest"):
        run_filter(tmp_path, tiny_models, [("yes", "Oh."), ("no", "Oh.")], num_answers=1)
