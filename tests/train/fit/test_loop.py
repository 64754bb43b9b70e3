"""A number that is not finite stops training with the ids of the batch; the checkpoint from before stays."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams
from tests.builders import emotion_fit_section, semantic_fit_section
from train import saved_model
from train.fit import checkpoint, run, stage_model
from train.fit.data import open_data
from train.fit.params import EmotionFitParams, SemanticFitParams, WarmStartParams
from train.fit.run import RunFolders
from train.fit.step_result import StepResult, check_finite, send
from train.fit.trainer import Trainer
from train.model import Batch
from train.model.emotion_head import EmotionHead

EMOTIONS = ["sad", "happy"]


def semantic(**changes: Any) -> SemanticFitParams:
    return SemanticFitParams.model_validate(semantic_fit_section(**changes))


@pytest.fixture
def trainer(tiny_models: ModelsParams) -> Trainer:
    model, _ = stage_model.build_model(semantic(), tiny_models, EMOTIONS, None)
    schedule = run.make_schedule(semantic(), num_steps=6)
    optimizer = run.make_optimizer(model, semantic())
    return Trainer(model, run.make_objective(semantic(), model), optimizer, schedule, Accelerator(cpu=True))


def batches(folders: RunFolders, tiny_models: ModelsParams, rows: list[list[int]]) -> list[Batch]:
    _, config = stage_model.build_model(semantic(), tiny_models, EMOTIONS, None)
    return list(open_data(folders.data, semantic(), config, with_teacher=True).batches(rows))


def spoilt(batch: Batch) -> Batch:
    """Return the batch with a clip that is not a number."""
    assert isinstance(batch.features, torch.Tensor)
    features = batch.features.clone()
    features[1, 0, 0] = torch.nan
    return replace(batch, features=features)


def test_a_rate_far_too_high_stops_with_the_ids_and_keeps_the_checkpoint_before(
    tiny_models: ModelsParams, folders: RunFolders
) -> None:
    settings = semantic(learning_rate=1e30, save_every=1, epochs=4.0, evaluate_every=100)
    message = r"fit: step \d+: found (kl|norm of the gradient) (nan|inf), expected a finite number; clips .+: corpus/"
    with pytest.raises(UserError, match=message):
        run.fit(settings, tiny_models, EMOTIONS, folders, resume=False)
    assert not folders.output.exists()
    (folder,) = folders.checkpoints.iterdir()
    state, _ = checkpoint.load(folder)
    assert state is not None
    assert all(tensor.isfinite().all() for tensor in state.model.values())


def test_the_loss_of_a_batch_names_the_batch_and_no_other(
    tiny_models: ModelsParams, folders: RunFolders, trainer: Trainer
) -> None:
    whole, other = batches(folders, tiny_models, [[0, 3], [7, 5]])
    assert other.ids == ("corpus/train-7", "corpus/train-5")
    before = {name: p.detach().clone() for name, p in trainer.trained.items()}
    with pytest.raises(UserError, match=r"step 5: found kl nan, .+ batch: corpus/train-7, corpus/train-5$"):
        trainer.step(4, [whole, spoilt(other)]).read()
    assert all(torch.equal(p, before[name]) for name, p in trainer.trained.items())


def test_a_gradient_that_is_not_finite_names_all_batches_of_the_step(
    tiny_models: ModelsParams, folders: RunFolders, trainer: Trainer
) -> None:
    next(iter(trainer.trained.values())).register_hook(lambda gradient: gradient * torch.inf)
    message = r"step 1: found norm of the gradient (nan|inf), .+ batch: corpus/train-0, corpus/train-3, corpus/train-7$"
    with pytest.raises(UserError, match=message):
        trainer.step(0, batches(folders, tiny_models, [[0, 3], [7]])).read()


def test_the_dev_split_is_checked_as_well(tiny_models: ModelsParams, folders: RunFolders, trainer: Trainer) -> None:
    (batch,) = batches(folders, tiny_models, [[0, 3]])
    with pytest.raises(UserError, match=r"fit: dev split: found kl nan, .+ batch: corpus/train-0, corpus/train-3"):
        trainer.evaluate(iter([spoilt(batch)]))


def test_weights_that_the_last_step_has_ruined_are_not_saved(trainer: Trainer) -> None:
    trainer.check_weights()
    name, weight = next(iter(trainer.trained.items()))
    with torch.no_grad():
        weight.view(-1)[0] = torch.inf
    with pytest.raises(UserError, match=rf"fit: weight {name}: found infinite values or no numbers after the last"):
        trainer.check_weights()


def test_the_warm_start_stops_with_the_ids(tiny_models: ModelsParams, folders: RunFolders) -> None:
    settings = semantic(warm_start=WarmStartParams(epochs=20, learning_rate=1e30))
    message = r"fit: warm start: step \d+: found (ctc|norm of the gradient) (nan|inf), .+ batch: corpus/train-\d"
    with pytest.raises(UserError, match=message):
        run.fit(settings, tiny_models, EMOTIONS, folders, resume=False)


def test_a_batch_without_ids_says_so() -> None:
    with pytest.raises(UserError, match="clips of the batch: unknown"):
        check_finite("here", {"loss": torch.tensor(torch.nan)}, [])


def test_the_deviation_of_one_clip_is_1(recwarn: pytest.WarningsRecorder) -> None:
    head = EmotionHead(4, 2)
    head.standardise(torch.randn(1, 4))
    assert head.deviation.tolist() == [1.0] * 4
    assert head(torch.randn(2, 4)).isfinite().all()


def test_the_deviation_of_a_dimension_in_which_clips_do_not_differ_is_1() -> None:
    head = EmotionHead(3, 2)
    pooled = torch.tensor([[1.0, 5.0, 7.0], [3.0, 5.0, 7.0 + 1e-6]])
    head.standardise(pooled)
    assert head.deviation.tolist() == [pytest.approx(2**0.5), 1.0, 1.0]


def test_one_training_row_gives_a_finite_model(tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path) -> None:
    one = tmp_path / "one"
    with packed.Writer(one, packed.load_shell(folders.data), shard_bytes=1) as writer:
        writer.write("train", [next(iter(packed.load(folders.data, "train")))])
        writer.write("dev", [])
        writer.write("test", list(packed.load(folders.data, "test")))
    folders = replace(folders, data=one)
    run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=False)
    second = replace(folders, init=folders.output, output=folders.output.with_name("emotion"))
    settings = EmotionFitParams.model_validate(emotion_fit_section())
    run.fit(settings, tiny_models, EMOTIONS, second, resume=False)
    assert all(tensor.isfinite().all() for tensor in saved_model.load(second.output).state_dict().values())
    lines = (second.output / "losses.jsonl").read_text().splitlines()
    assert all("NaN" not in json.dumps(json.loads(line)) for line in lines)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_is_not_finite_leaves_weights_and_moments_as_they_were(
    tiny_models: ModelsParams, folders: RunFolders, fused: bool
) -> None:
    model, _ = stage_model.build_model(semantic(), tiny_models, EMOTIONS, None)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=fused)
    schedule = run.make_schedule(semantic(), num_steps=6)
    trainer = Trainer(model, run.make_objective(semantic(), model), optimizer, schedule, Accelerator(cpu=True))
    (batch,) = batches(folders, tiny_models, [[0, 3]])
    trainer.step(0, [batch]).read()
    before = trainer.checkpoint(1, [], 0.0)
    result = trainer.step(1, [spoilt(batch)])  # nobody has read the numbers yet
    after = trainer.checkpoint(1, [], 0.0)
    assert before.model.keys() == after.model.keys()
    assert all(torch.equal(tensor, after.model[name]) for name, tensor in before.model.items())
    assert len(before.optimizer["state"]) > 3
    for i, state in before.optimizer["state"].items():
        assert all(torch.equal(value, after.optimizer["state"][i][name]) for name, value in state.items())
    with pytest.raises(UserError, match="step 2: found kl nan"):
        result.read()


def test_a_number_of_another_process_that_is_not_finite_stops_this_one(trainer: Trainer) -> None:
    numbers = torch.tensor([1.0, torch.nan, 0.0, 0.5], dtype=torch.float64)
    result = send("fit: step 3", ("kl",), [("corpus/a",)], numbers)
    with pytest.raises(UserError, match=r"^fit: step 3: found kl nan in another process, expected a finite number$"):
        result.read()


def test_the_numbers_of_a_step_are_read_after_the_next_one_but_before_a_checkpoint(
    tiny_models: ModelsParams, folders: RunFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    step, read, save = Trainer.step, StepResult.read, Trainer.checkpoint

    def run_step(trainer: Trainer, number: int, *args: Any) -> StepResult:
        told.append(f"step {number + 1}")
        return step(trainer, number, *args)

    def read_result(result: StepResult) -> tuple[dict[str, float], bool]:
        told.append(f"read {result.where.split()[-1]}")
        return read(result)

    def take_copy(trainer: Trainer, number: int, records: list[dict[str, float]], *best: Any) -> checkpoint.Checkpoint:
        told.append(f"checkpoint {number}")
        return save(trainer, number, records, *best)

    monkeypatch.setattr(Trainer, "step", run_step)
    monkeypatch.setattr(StepResult, "read", read_result)
    monkeypatch.setattr(Trainer, "checkpoint", take_copy)
    run.fit(semantic(log_every=100, evaluate_every=100, save_every=3), tiny_models, EMOTIONS, folders, resume=False)
    assert told == [
        "checkpoint 0", "step 1", "step 2", "read 1", "step 3", "read 2", "read 3", "checkpoint 3",
        "step 4", "step 5", "read 4", "step 6", "read 5", "read 6", "checkpoint 6",
    ]  # fmt: skip
