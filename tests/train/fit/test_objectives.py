"""The recall of the emotion head on the dev split."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.weights.source import ModelsParams
from tests.builders import emotion_fit_section, semantic_fit_section
from train.fit import run
from train.fit.objectives import recalled, unweighted_accuracy
from train.fit.params import EmotionFitParams, SemanticFitParams
from train.fit.run import RunFolders


def test_the_unweighted_accuracy_is_the_mean_recall_of_the_emotions_that_occur() -> None:
    logits = torch.eye(3)[[0, 0, 1, 1, 2]]
    emotion = torch.tensor([0, 0, 0, 1, -1])  # two of three and one of one; class 2 does not occur
    counts = recalled(logits, emotion)
    assert counts.tolist() == [[2, 1, 0], [3, 1, 0]]
    assert unweighted_accuracy(counts) == pytest.approx((2 / 3 + 1) / 2)
    halves = recalled(logits[:2], emotion[:2]) + recalled(logits[2:], emotion[2:])
    assert torch.equal(halves, counts)


def test_stage_2_reports_the_unweighted_accuracy_on_the_dev_split_and_stage_1_does_not(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = SemanticFitParams.model_validate(semantic_fit_section(max_steps=1))
    run.fit(first, tiny_models, ["sad", "happy"], folders, resume=False)
    assert "dev_ua" not in capsys.readouterr().out
    second = replace(folders, init=folders.output, output=tmp_path / "emotion")
    settings = EmotionFitParams.model_validate(emotion_fit_section(max_steps=1))
    run.fit(settings, tiny_models, ["sad", "happy"], second, resume=False)
    shown = [line for line in capsys.readouterr().out.splitlines() if "dev_ua" in line]
    assert [line.split("  dev_ua ")[0].split("  ")[0] for line in shown] == ["emotion 0/1", "emotion 1/1"]
    assert all(line.split("  dev_ua ")[1] in {"0", "0.5", "1"} for line in shown)
