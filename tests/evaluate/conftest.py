"""Fixtures of the tests of evaluation."""

from pathlib import Path

import pytest
import torch

from pipeline.weights.source import ModelsParams
from tests.builders import model_config
from train import saved_model
from train.model.plora import lora_config


@pytest.fixture
def model_path(tmp_path: Path, tiny_models: ModelsParams) -> Path:
    config = model_config(tiny_models, plora=True)
    model = saved_model.build(config, torch.float32)
    model.add_plora(lora_config(2, 2, 0.0, "all-linear"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    saved_model.save(model, config, tmp_path / "models" / "emotion")
    return tmp_path / "models" / "emotion"
