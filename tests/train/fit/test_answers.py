"""At each evaluation the model answers some dev clips; this changes neither the training nor a resumed one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.tables import packed
from pipeline.weights.source import ModelsParams
from tests.builders import batch_section, semantic_fit_section
from train.fit import checkpoint, run
from train.fit.answers import LINE_WIDTH
from train.fit.params import SemanticFitParams
from train.fit.run import RunFolders

EMOTIONS = ["sad", "happy"]


def fit(models: ModelsParams, folders: RunFolders, **changes: Any) -> None:
    settings = SemanticFitParams.model_validate(semantic_fit_section(**changes))
    run.fit(settings, models, EMOTIONS, folders, resume=True)


def written(folders: RunFolders) -> list[dict[str, Any]]:
    (file,) = folders.logs.glob("*/answers.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_each_evaluation_writes_the_answers_to_the_same_clips_and_tells_them(
    tiny_models: ModelsParams, folders: RunFolders, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tiny_models, folders, answers=2)
    found = written(folders)
    assert [(each["step"], each["id"]) for each in found] == [
        (step, f"corpus/dev-{i}") for step in (0, 3, 6) for i in (0, 1)
    ]  # fmt: skip
    assert {each["transcript"] for each in found} == {"text 0", "text 1"}
    assert all(isinstance(each["answer"], str) for each in found)
    told = [line for line in capsys.readouterr().out.splitlines() if "corpus/dev-" in line]
    assert len(told) == 6
    assert told[2].startswith("fit: semantic: step 3, corpus/dev-0:")
    assert all(len(line) <= LINE_WIDTH for line in told)


@pytest.mark.parametrize(
    "changes",
    [
        {"log_mel_on": "device"},
        {"encoder_states": "cached"},
        {"log_mel_on": "device", "batches": batch_section(layout="packed", round_up=True), "checkpoint_layers": True},
    ],
)
def test_answers_do_not_depend_on_how_a_step_is_computed(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, changes: dict[str, Any]
) -> None:
    answers = []
    for name, own in (("plain", {}), ("changed", changes)):
        here = replace(folders, output=tmp_path / name, logs=tmp_path / f"{name}-logs")
        fit(tiny_models, here, answers=2, max_steps=1, **own)
        answers.append([each["answer"] for each in written(here) if each["step"] == 0])
    assert answers[1] == answers[0]


@pytest.mark.parametrize("killed", [False, True])
def test_answers_change_no_weight_and_no_loss_also_of_a_run_that_was_killed(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    silent = replace(folders, output=tmp_path / "silent", logs=tmp_path / "silent-logs")
    fit(tiny_models, silent, augment="with-speed")
    if killed:
        save = checkpoint.save

        def save_and_die(folder: Path, state: checkpoint.Checkpoint, keep: int) -> None:
            save(folder, state, keep)
            if state.step == 4:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save", save_and_die)
            with pytest.raises(KeyboardInterrupt):
                fit(tiny_models, folders, augment="with-speed", answers=2)
    fit(tiny_models, folders, augment="with-speed", answers=2)
    for name in ("adapter.safetensors", "losses.jsonl"):
        assert (folders.output / name).read_bytes() == (silent.output / name).read_bytes()
    assert [each["step"] for each in written(folders)] == [0, 0, 3, 3, 6, 6]


def test_without_a_dev_split_there_are_none(tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path) -> None:
    with packed.Writer(tmp_path / "packed", packed.load_shell(folders.data), shard_bytes=1) as writer:
        writer.write("train", list(packed.load(folders.data, "train")))
        writer.write("dev", [])
        writer.write("test", list(packed.load(folders.data, "test")))
    fit(tiny_models, replace(folders, data=tmp_path / "packed"), answers=2)
    assert not list(folders.logs.glob("*/answers.jsonl"))
    assert torch.is_grad_enabled()
