"""Both stages learn the same, wherever the log-mel is computed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.weights.source import ModelsParams
from tests.builders import batch_section, emotion_fit_section, semantic_fit_section
from train.fit import run
from train.fit.params import EmotionFitParams, SemanticFitParams
from train.fit.run import RunFolders

EMOTIONS = ["sad", "happy"]
CASES = [("packed", False), ("padded", False), ("padded", True)]


@pytest.mark.parametrize(("layout", "pad_to_30s"), CASES)
def test_both_stages_have_the_same_losses(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, layout: str, pad_to_30s: bool
) -> None:
    losses = {}
    shared = {"batches": batch_section(layout=layout, max_frames=10_000), "max_steps": 3}
    for place in ("loader", "device"):
        first = replace(folders, output=tmp_path / place / "semantic")
        second = replace(first, init=first.output, output=tmp_path / place / "emotion")
        section = {**shared, "log_mel_on": place}
        warm_start = {"epochs": 1, "learning_rate": 1e-3}
        settings = semantic_fit_section(**section, warm_start=warm_start, pad_to_30s=pad_to_30s)
        run.fit(SemanticFitParams.model_validate(settings), tiny_models, EMOTIONS, first, resume=False)
        settings = emotion_fit_section(**section)
        run.fit(EmotionFitParams.model_validate(settings), tiny_models, EMOTIONS, second, resume=False)
        losses[place] = [
            json.loads(line)
            for folders_of_stage in (first, second)
            for line in (folders_of_stage.output / "losses.jsonl").read_text().splitlines()
        ]
    assert len(losses["loader"]) > 6
    for ours, loader in zip(losses["device"], losses["loader"], strict=True):
        assert ours == pytest.approx(loader, rel=1e-5)
