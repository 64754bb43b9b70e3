"""Training on several processes is training on one with as many batches in a step."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.weights.source import ModelsParams
from tests.builders import batch_section, semantic_fit_section

BATCHES = batch_section(max_frames=60, per_step=4)  # a row is a batch
FIT = {"batches": BATCHES, "evaluate_every": 2, "save_every": 2, "augment": "with-speed"}


def fit(folder: Path, models: ModelsParams, data: Path, num_processes: int, **changes: Any) -> Path:
    folder.mkdir()
    sections = {
        "models": models.model_dump(),
        "emotions": ["sad", "happy"],
        "fit": {"semantic": semantic_fit_section(**FIT, **changes)},
        "processes": num_processes,
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(sections))
    command = [sys.executable, "-m", "train.fit", "--kind", "semantic", "--data", str(data), "--output", "model"]
    env = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    subprocess.run(command, cwd=folder, env=os.environ | env, check=True)
    return folder / "model"


def dev_losses(model: Path) -> list[float]:
    records = [yaml.safe_load(line) for line in (model / "losses.jsonl").read_text().splitlines()]
    return [record["dev_kl"] for record in records if "dev_kl" in record]


@pytest.mark.slow
def test_three_processes_learn_what_one_does(tmp_path: Path, tiny_models: ModelsParams, packed_folder: Path) -> None:
    three = fit(tmp_path / "three", tiny_models, packed_folder, 3)  # a step has two spare batches
    one = fit(tmp_path / "one", tiny_models, packed_folder, 1)
    assert dev_losses(three) == pytest.approx(dev_losses(one), rel=1e-3)
    assert len(dev_losses(one)) == 4
    ours, expected = (load_file(model / "adapter.safetensors") for model in (three, one))
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=1e-3)
