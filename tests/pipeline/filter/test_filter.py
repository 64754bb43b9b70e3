import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pydantic import ValidationError

from pipeline.filter import __main__ as filter
from pipeline.filter.__main__ import FilterParams, first_broken_rule, make_rules
from pipeline.stage import UserError
from pipeline.tables import continuations, parquet
from pipeline.weights.source import ModelsParams
from tests.builders import PROMPT, utterance, write_table

LIMITS: dict[str, Any] = {
    "min_duration_s": 1.0, "max_duration_s": 30.0, "max_tokens": 100, "min_words": 1, "drop_truncated": False,
    "drop_refusals": True, "drop_model_talk": True, "drop_sentence_talk": True, "max_prompt_words": 5,
    "max_non_text": 0.5, "max_other_language": 0.9, "max_repetition": 0.5, "max_echo": None, "min_agreement": None,
}  # fmt: skip
USABLE = {
    "duration_s": 2.0, "text": "kids are talking", "language": "en", "continuation": "Well, let us hear what they say.",
    "finish_reason": continuations.STOP, "echo": 0.0, "num_tokens": 100, "agreement": 0.3,
    "prompt": "You are a helpful assistant.\nContinue the following sentence in a coherent style: ",
}  # fmt: skip


def reason_of(row: dict[str, Any], **limits: Any) -> tuple[str | None, float | None]:
    verdict = first_broken_rule(USABLE | row, make_rules(FilterParams.model_validate(LIMITS | limits)))
    return verdict["reason"], verdict["score"]


@pytest.mark.parametrize(
    ("row", "reason", "score"),
    [
        ({}, None, None),
        ({"duration_s": 1.0}, None, None),
        ({"duration_s": 0.99}, "clip too short", 0.99),
        ({"duration_s": 30.1}, "clip too long", 30.1),
        ({"finish_reason": continuations.LENGTH}, None, None),
        ({"finish_reason": continuations.PROMPT_TOO_LONG, "continuation": ""}, "prompt too long", None),
        ({"finish_reason": continuations.NO_TRANSCRIPT, "continuation": ""}, "no transcript", None),
        ({"finish_reason": continuations.NO_EMOTION, "continuation": ""}, "no emotion", None),
        ({"continuation": ""}, "empty", 0),
        ({"continuation": "<think>They greet me.</think> Hello!"}, "thought", 1),
        ({"continuation": "They greet me.</think> Hello!"}, "thought", 1),
        ({"continuation": "I'm not sure what you want", "num_tokens": 1000}, "refusal", 1),
        ({"continuation": "As an AI language model, I have no feelings."}, "model talk", 1),
        ({"continuation": "The sentence is a bit unclear."}, "sentence talk", 1),
        ({"continuation": "Sure! Continue the following sentence in a coherent way."}, "prompt leak", 7),
        ({"continuation": "== {} => [] ++ //"}, "no text", pytest.approx(12 / 17)),
        ({"continuation": "?!"}, "no text", 1),
        ({"continuation": "我们去公园散步吧,今天天气很好"}, "other language", pytest.approx(1, abs=0.1)),
        ({"continuation": "go on and on and on and on and on and on"}, "repetition", pytest.approx(7 / 10)),
        ({"num_tokens": 101}, "too many tokens", 101),
        ({"echo": 1.0}, None, None),
    ],
)
def test_each_rule_drops_with_its_reason_and_score(row: dict[str, Any], reason: str | None, score: Any) -> None:
    assert reason_of(row) == (reason, score)


@pytest.mark.parametrize(
    ("row", "limits", "reason"),
    [
        ({"continuation": "I'm not sure what you want"}, {"drop_refusals": False}, None),
        ({"continuation": "As an AI model, I do not."}, {"drop_model_talk": False}, None),
        ({"continuation": "This sentence is grammatically right."}, {"drop_sentence_talk": False}, None),
        ({"continuation": "Oui, je suis tout à fait d'accord avec toi."}, {"max_other_language": None}, None),
        ({"finish_reason": continuations.LENGTH}, {"drop_truncated": True}, "truncated"),
        ({"continuation": "Well."}, {"min_words": 2}, "too few words"),
        ({"echo": 0.9}, {"max_echo": 0.8}, "echo"),
        ({}, {"min_agreement": 0.3}, None),
        ({}, {"min_agreement": 0.4}, "other emotion"),
        ({"agreement": None}, {"min_agreement": 0.4}, None),
    ],
)
def test_limits_are_the_parameters(row: dict[str, Any], limits: dict[str, Any], reason: str | None) -> None:
    assert reason_of(row, **limits)[0] == reason


def test_limits_are_checked() -> None:
    with pytest.raises(ValidationError, match=r"min_duration_s below max_duration_s = 1\.0"):
        FilterParams.model_validate({**LIMITS, "max_duration_s": 1.0})
    with pytest.raises(ValidationError, match="less than or equal to 30"):
        FilterParams.model_validate({**LIMITS, "max_duration_s": 45.0})


def run_filter(
    tmp_path: Path,
    models: ModelsParams,
    answers: list[tuple[str, str]],
    num_answers: int = 9,
    schema: pa.Schema = continuations.SCHEMA,
) -> None:
    """Filter the answers to utterances of these texts, given as (text, answer)."""
    utterances = [
        utterance(f"corpus/{i}", corpus="corpus", text=text, emotion="sad", duration_s=2.0)
        for i, (text, _) in enumerate(answers)
    ]
    rows = [
        {
            "id": f"corpus/{i}",
            "continuation": answer,
            "num_prompt_tokens": 20,
            "token_ids": [5] * len(answer),
            "finish_reason": continuations.STOP,
            "engine": "echo 1",
            "top_ids": [[i]],
            "top_logprobs": [[-1.0]],
        }
        for i, (_, answer) in enumerate(answers[:num_answers])
    ]
    write_table(tmp_path / "manifest.parquet", utterances)
    write_table(tmp_path / "answers.parquet", rows[::-1], schema)
    prompt = {**PROMPT, "text": "Go on, {emotion}: "}
    sections = {"models": models.model_dump(), "prompts": {"emotion": prompt}, "filter": {"emotion": LIMITS}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(sections))
    names = ("manifest.parquet", "answers.parquet", "kept.parquet", "dropped.parquet", "counts.json", "params.yaml")
    filter.main("emotion", *(tmp_path / name for name in names))


def test_kept_and_dropped_rows_together_are_the_manifest(
    tmp_path: Path, tiny_models: ModelsParams, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [
        ("yes", "Oh yes!"), ("no", ""), ("so", "I'm not sure what you mean"), ("well", "x" * 90), ("hm", "Why?"),
        ("eh", "I'm not sure what you mean"),
    ]  # fmt: skip
    run_filter(tmp_path, tiny_models, answers)
    kept = parquet.read(tmp_path / "kept.parquet", continuations.KEPT_SCHEMA).to_pylist()
    dropped = parquet.read(tmp_path / "dropped.parquet", continuations.DROPPED_SCHEMA).to_pylist()
    assert [(row["id"], row["echo"]) for row in kept] == [("corpus/0", 0.5), ("corpus/4", 0.0)]
    reasons = {row["id"]: (row["reason"], row["score"]) for row in dropped}
    assert reasons == {
        "corpus/1": ("empty", 0.0),
        "corpus/2": ("refusal", 1.0),
        "corpus/3": ("too many tokens", reasons["corpus/3"][1]),
        "corpus/5": ("refusal", 1.0),
    }
    line = "filter emotion: kept 2 of 6 rows (2 refusal, 1 empty, 1 too many tokens)\n"
    assert capsys.readouterr().out == line
    assert json.loads((tmp_path / "counts.json").read_text()) == {
        "rows": {"corpus": {"sad": {"before": 6, "after": 2}}},
        "dropped": {"empty": 1, "refusal": 2, "too many tokens": 1},
    }


def test_no_usable_row_is_a_mistake(tmp_path: Path, tiny_models: ModelsParams) -> None:
    with pytest.raises(UserError, match=r"answers\.parquet: no usable row of 1 \(1 empty\); expected at least one"):
        run_filter(tmp_path, tiny_models, [("yes", "")])
    assert not (tmp_path / "kept.parquet").exists()


def test_a_limit_of_agreement_needs_agreement(
    tmp_path: Path, tiny_models: ModelsParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "min_agreement", 0.2)
    with pytest.raises(UserError, match=r"filter.emotion.min_agreement: .*answers.parquet has no agreement scores"):
        run_filter(tmp_path, tiny_models, [("yes", "Oh.")])


def test_an_utterance_without_a_continuation_is_named(tmp_path: Path, tiny_models: ModelsParams) -> None:
    with pytest.raises(UserError, match="corpus/1: found no continuation, expected one; run generate on this manifest"):
        run_filter(tmp_path, tiny_models, [("yes", "Oh."), ("no", "Oh.")], num_answers=1)


def test_kept_rows_keep_their_teacher_signals(tmp_path: Path, tiny_models: ModelsParams) -> None:
    answers = [("yes", "Oh yes!"), ("no", ""), ("so", "Why?")]
    run_filter(tmp_path, tiny_models, answers)
    assert parquet.columns(tmp_path / "kept.parquet") == continuations.KEPT_SCHEMA.names
    schema = pa.schema([*continuations.SCHEMA, *continuations.SIGNALS_SCHEMA])
    run_filter(tmp_path, tiny_models, answers, schema=schema)
    kept = parquet.read(tmp_path / "kept.parquet", schema).to_pylist()
    assert [(row["id"], row["top_ids"]) for row in kept] == [("corpus/0", [[0]]), ("corpus/2", [[2]])]
    assert parquet.columns(tmp_path / "dropped.parquet") == continuations.DROPPED_SCHEMA.names
