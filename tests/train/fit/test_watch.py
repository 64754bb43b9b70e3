"""A loss that does not move is told once; training can stop early, and can save its best model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams
from tests.builders import semantic_fit_section
from train.fit import checkpoint, run, stage_model
from train.fit.identity import differences, identify
from train.fit.params import SemanticFitParams, StallParams
from train.fit.run import RunFolders
from train.fit.trainer import Trainer
from train.fit.watch import Best, Stall, best_evaluation

EMOTIONS = ["sad", "happy"]


def semantic(**changes: Any) -> SemanticFitParams:
    return SemanticFitParams.model_validate(semantic_fit_section(**changes))


def told(losses: list[float], first: int = 1, window: int = 2) -> dict[int, str]:
    """Return the lines about these losses, by step."""
    stall = Stall(StallParams(window=window, least_change=0.01))
    lines = {step: stall.add(step, loss) for step, loss in enumerate(losses, first)}
    return {step: line for step, line in lines.items() if line is not None}


def test_a_loss_that_does_not_move_is_told_once_until_it_has_moved() -> None:
    lines = told([4.0, 2.0, 3.01, 3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0])
    assert list(lines) == [4, 10]
    assert lines[4] == (
        "the loss does not move: its mean was 3 in steps 1-2 and 3.005 in steps 3-4, expected a change of at least "
        "1.00%"
    )


def test_a_loss_that_falls_or_rises_is_not_told() -> None:
    assert told([1.0, 1.0, 0.9, 0.9, 1.1, 1.1]) == {}


def test_after_a_resume_the_first_window_is_a_complete_one() -> None:
    assert list(told([1.0] * 6, first=2)) == [6]


def test_the_best_evaluation_is_the_first_one_with_the_lowest_weighted_loss() -> None:
    records = [
        {"step": 0, "dev_ce": 3.0, "dev_emotion": 1.0},
        {"step": 1, "loss": 0.1, "ce": 0.1, "emotion": 0.0},
        {"step": 3, "dev_ce": 2.0, "dev_emotion": 2.0},
        {"step": 6, "dev_ce": 2.0, "dev_emotion": 2.0},
    ]
    assert best_evaluation(records, {"ce": 1.0, "emotion": 0.5}) == Best(3, 3.0, 1)
    assert best_evaluation(records, {"ce": 1.0, "emotion": 2.0}) == Best(0, 5.0, 2)
    assert best_evaluation(records[1:2], {"ce": 1.0, "emotion": 2.0}) is None


@pytest.fixture
def dev_losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The dev losses of the evaluations of a run, in this order."""
    left: list[float] = []
    monkeypatch.setattr(Trainer, "evaluate", lambda *_: {"dev_kl": left.pop(0)})
    return left


def test_training_stops_after_evaluations_without_a_better_dev_loss(
    tiny_models: ModelsParams, folders: RunFolders, dev_losses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    dev_losses += [3.0, 2.0, 2.5, 2.0, 1.0]
    settings = semantic(evaluate_every=1, stop_after=2, stall=StallParams(window=1, least_change=0.999))
    run.fit(settings, tiny_models, EMOTIONS, folders, resume=False)
    shown = capsys.readouterr().out
    assert "fit: semantic: stopped early after step 3 of 6: 2 evaluations without a better dev loss\n" in shown
    assert "fit: semantic: the loss does not move: its mean was " in shown
    assert "fit: semantic: 3 steps on 12 rows" in shown
    assert dev_losses == [1.0]


def test_the_best_model_is_saved_also_by_a_run_that_was_interrupted(
    tiny_models: ModelsParams, folders: RunFolders, dev_losses: list[float], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The run that ends at the best step is the reference; a constant rate makes its steps those of the long run."""
    settings = semantic(evaluate_every=1, keep="best", schedule="constant", save_every=1)
    dev_losses += [3.0, 2.0, 1.0]
    best = replace(folders, output=tmp_path / "best")
    run.fit(settings.model_copy(update={"max_steps": 2}), tiny_models, EMOTIONS, best, resume=False)
    dev_losses += [3.0, 2.0, 1.0, 1.5, 1.5, 1.5, 1.5]
    save = checkpoint.save

    def save_and_die(folder: Path, state: checkpoint.Checkpoint, keep: int) -> None:
        save(folder, state, keep)
        if state.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run.fit(settings, tiny_models, EMOTIONS, folders, resume=True)
    dev_losses[:] = [1.5, 1.5, 1.5]
    run.fit(settings, tiny_models, EMOTIONS, folders, resume=True)
    shown = capsys.readouterr().out
    assert "continues after step 3 of 6" in shown
    assert "fit: semantic: the saved model is that of step 2, with the best dev loss 1\n" in shown
    ours, expected = (load_file(each.output / "adapter.safetensors") for each in (folders, best))
    assert all(ours[name].equal(tensor) for name, tensor in expected.items())
    assert len((folders.output / "losses.jsonl").read_text().splitlines()) == 13
    assert json.loads((folders.output / "losses.jsonl").read_text().splitlines()[-1])["step"] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop_after": 3}, r"^fit\.\*\.stop_after: found 3, expected null, because no dev row of .+ has a contin"),
        ({"keep": "best"}, r"^fit\.\*\.keep: found best, expected last, because no dev row of .+ has a continuation"),
    ],
)
def test_without_a_dev_split_no_parameter_may_need_it(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    without = tmp_path / "without"
    with packed.Writer(without, packed.load_shell(folders.data), shard_bytes=1) as writer:
        for split in ("train", "test"):
            writer.write(split, list(packed.load(folders.data, split)))
        writer.write("dev", [])
    with pytest.raises(UserError, match=message):
        run.fit(semantic(**changes), tiny_models, EMOTIONS, replace(folders, data=without), resume=False)


def test_the_interval_of_evaluations_has_an_effect_only_if_they_decide(
    tiny_models: ModelsParams, folders: RunFolders
) -> None:
    _, config = stage_model.build_model(semantic(), tiny_models, EMOTIONS, None)

    def difference(**changes: Any) -> str:
        often, rarely = (
            identify(
                semantic(evaluate_every=n, **changes),
                config,
                folders.data,
                None,
                torch.float32,
                is_main_process=True,
            )
            for n in (1, 2)
        )
        return differences(often, rarely)

    assert difference() == ""
    assert difference(stop_after=1) == difference(keep="best") == "fit.semantic.evaluate_every 1, now 2"
