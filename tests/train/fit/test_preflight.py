"""A step that cannot fit into memory stops before it runs; after 20 steps, a line says when the training will end."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams
from tests.builders import emotion_fit_section, semantic_fit_section
from train.fit import preflight, run
from train.fit.params import EmotionFitParams, SemanticFitParams
from train.fit.preflight import Forecast
from train.fit.run import RunFolders
from train.step_facts import StepFacts, run_step

EMOTIONS = ["sad", "happy"]


def semantic(**changes: Any) -> SemanticFitParams:
    return SemanticFitParams.model_validate(semantic_fit_section(**changes))


def fit(models: ModelsParams, folders: RunFolders, **changes: Any) -> None:
    run.fit(semantic(**changes), models, EMOTIONS, folders, resume=False)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[StepFacts]:
    """Return a list to which each step that is counted adds its facts."""
    facts: list[StepFacts] = []

    def count(*args: Any) -> StepFacts:
        facts.append(run_step(*args))
        return facts[-1]

    monkeypatch.setattr(preflight, "run_step", count)
    return facts


def test_what_cannot_fit_stops_with_what_to_change(
    tiny_models: ModelsParams, folders: RunFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = counted(monkeypatch)
    monkeypatch.setattr(preflight, "free_memory", lambda _: int((facts[0].peak - facts[0].weights) / 1.2))
    message = (
        r"fit\.semantic\.batches: found a largest batch of 4 clips, \d+ encoder frames and \d+ LLM positions that "
        r"needs 0\.0 GiB besides the weights, expected at most 0\.0 GiB, the free memory of the machine; lower "
        r"max_frames and max_positions in fit\.\*\.batches, or set fit\.\*\.checkpoint_layers: true$"
    )
    with pytest.raises(UserError, match=message):
        fit(tiny_models, folders)
    assert not folders.checkpoints.exists()
    monkeypatch.setattr(preflight, "free_memory", lambda _: 1_000)
    with pytest.raises(UserError, match=r"; take a smaller LLM in models\.llm, or divide it .+\.shard_llm: true$"):
        fit(tiny_models, folders)


def test_a_doubt_stops_nothing(
    tiny_models: ModelsParams, folders: RunFolders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = counted(monkeypatch)
    monkeypatch.setattr(preflight, "free_memory", lambda _: None)
    fit(tiny_models, folders)
    needed = facts[0].peak - facts[0].weights
    monkeypatch.setattr(preflight, "free_memory", lambda _: int(needed / 1.09))
    fit(tiny_models, folders)
    monkeypatch.setattr(preflight, "run_step", lambda *_: torch.ones(2) @ torch.ones(3))
    fit(tiny_models, folders)
    assert "fit: the memory of a step is unknown: RuntimeError (" in capsys.readouterr().out


def test_the_check_changes_no_draw(
    tiny_models: ModelsParams, folders: RunFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm_start = {"epochs": 1, "learning_rate": 1e-3}  # its head is drawn after the check
    fit(tiny_models, folders, warm_start=warm_start)
    checked = (folders.output / "adapter.safetensors").read_bytes()
    monkeypatch.setattr(run, "check_memory", lambda *_: None)
    fit(tiny_models, folders, warm_start=warm_start)
    assert (folders.output / "adapter.safetensors").read_bytes() == checked


def test_stage_2_is_counted_with_its_own_weights(
    tiny_models: ModelsParams, folders: RunFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tiny_models, folders)
    facts = counted(monkeypatch)
    second = RunFolders(
        data=folders.data, init=folders.output, output=folders.output.with_name("emotion"),
        checkpoints=folders.checkpoints, logs=folders.logs,
    )  # fmt: skip
    run.fit(EmotionFitParams(**emotion_fit_section()), tiny_models, EMOTIONS, second, resume=False)
    record = json.loads((second.output / "run.json").read_text())
    assert facts[0].trained_weights == sum(record["trained"]["parameters"].values())


def test_the_forecast_comes_once_after_20_steps(
    tiny_models: ModelsParams, folders: RunFolders, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tiny_models, folders, epochs=8.0, log_every=10)
    told = [line for line in capsys.readouterr().out.splitlines() if "after 20 steps" in line]
    assert len(told) == 1
    line = r"fit: semantic: after 20 steps: at most [\d.]+ GiB of memory, [\d.e-]+ s a step, \d+ s left, until "
    assert re.match(line + r"\d{4}-\d\d-\d\d \d\d:\d\d \w+", told[0])


def test_evaluations_are_part_of_the_time_left_but_not_of_the_speed() -> None:
    forecast = Forecast(device=torch.device("cpu"), first_step=100, num_steps=1120, evaluate_every=100)
    line = forecast.describe(120, seconds=20 * 2.0 + 60.0, evaluations=[60.0])
    assert line is not None
    assert "2 s a step, 43 min left" in line  # 1,000 steps of 2 s, and 10 evaluations of 60 s
    assert forecast.describe(119, 40.0, []) is None
    ended = Forecast(device=torch.device("cpu"), first_step=0, num_steps=20, evaluate_every=100)
    assert ended.describe(20, 40.0, []) is None


def test_a_machine_that_tells_no_memory_has_none_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    free = preflight.free_memory(torch.device("cpu"))
    assert free is not None
    assert free > 2**20
    monkeypatch.setattr(preflight, "Path", lambda _: Path("/nowhere"))
    assert preflight.free_memory(torch.device("cpu")) is None
