"""Checkpoints are complete or absent; a damaged one is named, and the one before it is used."""

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from pipeline.weights.source import ModelsParams
from tests.builders import semantic_fit_section
from train.fit import checkpoint, run, stage_model
from train.fit.checkpoint import Checkpoint, Writer
from train.fit.data import open_data
from train.fit.params import SemanticFitParams
from train.fit.run import RunFolders
from train.fit.trainer import Trainer

EMOTIONS = ["sad", "happy"]
FILES = ["model.safetensors", "optimizer.pt", "state.json"]


def semantic(**changes: Any) -> SemanticFitParams:
    return SemanticFitParams.model_validate(semantic_fit_section(**changes))


def state(step: int) -> Checkpoint:
    """Make up a checkpoint."""
    moments = {0: {"step": torch.tensor(float(step)), "exp_avg": torch.full((2, 3), float(step))}}
    groups = [{"lr": 0.1, "params": [0]}]
    model = {"weight": torch.full((2, 3), float(step))}
    return Checkpoint(step, model, {"state": moments, "param_groups": groups}, [{"step": step, "loss": 0.5}], 1.5, None)


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def loaded(folder: Path) -> Checkpoint:
    found, damaged = checkpoint.load(folder)
    assert found is not None
    assert damaged == []
    return found


def test_a_checkpoint_loads_as_it_was_saved(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(3), keep=1)
    found = loaded(tmp_path)
    assert (found.step, found.records) == (3, [{"step": 3, "loss": 0.5}])
    assert torch.equal(found.model["weight"], torch.full((2, 3), 3.0))
    assert torch.equal(found.optimizer["state"][0]["exp_avg"], torch.full((2, 3), 3.0))
    assert found.optimizer["param_groups"] == [{"lr": 0.1, "params": [0]}]
    assert steps(tmp_path / "step-00000003") == FILES


def test_the_last_ones_are_kept_and_the_last_of_them_is_read(tmp_path: Path) -> None:
    for step in (2, 4, 10):
        checkpoint.save(tmp_path, state(step), keep=2)
    assert steps(tmp_path) == ["step-00000004", "step-00000010"]
    assert loaded(tmp_path).step == 10


def test_a_run_that_starts_anew_removes_the_checkpoints_of_later_steps(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(4), keep=2)
    checkpoint.save(tmp_path, state(0), keep=2)
    assert steps(tmp_path) == ["step-00000000"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["truncated", "changed", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, name: str, how: str) -> None:
    for step in (2, 4):
        checkpoint.save(tmp_path, state(step), keep=2)
    file = tmp_path / "step-00000004" / name
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] if how == "truncated" else b"x" + content[1:])
    found, damaged = checkpoint.load(tmp_path)
    assert found is not None
    assert found.step == 2
    assert damaged == [f"{file.parent}: not used, because {name} is damaged or missing"]
    checkpoint.save(tmp_path, state(3), keep=1)
    assert steps(tmp_path) == ["step-00000003"]


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=False)
    whole = (folders.output / "adapter.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "check_weights", lambda _: pytest.exit("the run ends before the model is saved"))
        with pytest.raises(pytest.exit.Exception):
            run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=False)
    (folder,) = folders.checkpoints.iterdir()
    file = folder / "step-00000006" / "model.safetensors"
    os.truncate(file, 100)
    run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=True)
    told = capsys.readouterr().out
    assert f"fit: semantic: {file.parent}: not used, because model.safetensors is damaged or missing\n" in told
    assert "fit: semantic: continues after step 4 of 6" in told
    assert (folders.output / "adapter.safetensors").read_bytes() == whole


def test_a_checkpoint_of_an_earlier_version_is_named_and_training_starts_anew(
    tiny_models: ModelsParams, folders: RunFolders, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = folders.checkpoints / "semantic-0123456789ab"
    earlier.mkdir(parents=True)
    (earlier / "state.pt").write_bytes(b"")
    run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=True)
    told = capsys.readouterr().out
    assert f"{earlier}: not continued, because state.pt is a checkpoint of an earlier version\n" in told
    assert "continues after" not in told


def test_an_interrupted_write_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, state(2), keep=1)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space") as error:
        checkpoint.save(tmp_path, state(4), keep=1)
    assert str(error.value.filename).endswith("step-00000004.partial/optimizer.pt")
    assert steps(tmp_path) == ["step-00000002"]
    assert loaded(tmp_path).step == 2


def test_an_error_of_the_thread_is_raised_by_the_next_save_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", fail)
    with pytest.raises(OSError, match="No space"), Writer(tmp_path, keep=1) as writer:
        writer.save(state(1))
    writer = Writer(tmp_path, keep=1)
    writer.save(state(1))
    with pytest.raises(OSError, match="No space"):
        writer.save(state(2))


def test_training_goes_on_while_a_checkpoint_is_written_and_waits_for_it_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, save = threading.Event(), checkpoint.save

    def save_later(*args: Any) -> None:
        assert may_write.wait(10)
        save(*args)

    monkeypatch.setattr(checkpoint, "save", save_later)
    with Writer(tmp_path, keep=1) as writer:
        writer.save(state(1))
        assert steps(tmp_path) == []
        may_write.set()
    assert steps(tmp_path) == ["step-00000001"]


def test_steps_after_a_checkpoint_do_not_change_it(tiny_models: ModelsParams, folders: RunFolders) -> None:
    model, config = stage_model.build_model(semantic(), tiny_models, EMOTIONS, None)
    data = open_data(folders.data, semantic(), config, with_teacher=True)
    trainer = Trainer(
        model, run.make_objective(semantic(), model), run.make_optimizer(model, semantic()),
        run.make_schedule(semantic(), num_steps=6), Accelerator(cpu=True),
    )  # fmt: skip
    (batch,) = data.batches([[0, 3]])
    trainer.step(0, [batch])
    records = [{"step": 1.0}]
    kept = trainer.checkpoint(1, records, 0.0)
    before = json.dumps([tensor.tolist() for tensor in kept.model.values()])
    moments = json.dumps([tensor.tolist() for each in kept.optimizer["state"].values() for tensor in each.values()])
    trainer.step(1, [batch])
    records.append({"step": 2.0})
    assert json.dumps([tensor.tolist() for tensor in kept.model.values()]) == before
    assert moments == json.dumps(
        [tensor.tolist() for each in kept.optimizer["state"].values() for tensor in each.values()]
    )
    assert kept.records == [{"step": 1.0}]
