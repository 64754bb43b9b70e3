"""A model folder is read whole: no weight of it is random."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams
from tests import builders
from train import saved_model
from train.model.plora import lora_config


@pytest.fixture
def folder(tmp_path: Path, tiny_models: ModelsParams) -> Path:
    """A trained model with every file that there may be."""
    config = builders.model_config(tiny_models, encoder_trained=True, plora=True)
    model = saved_model.build(config, torch.float32)
    model.add_plora(lora_config(2, 2, 0.0, "all-linear"))
    saved_model.save(model, config, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("adapter.safetensors", "adapter.norm.weight"),
        ("adapter.safetensors", "head.classify.weight"),
        ("adapter.safetensors", "head.mean"),
        ("encoder.safetensors", "encoder.whisper.conv1.weight"),
        ("plora/adapter_model.safetensors", "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"),
    ],
)
def test_a_missing_or_misshapen_tensor_is_named(folder: Path, file: str, name: str) -> None:
    whole = load_file(folder / file)
    saved_model.load(folder)
    save_file({key: tensor for key, tensor in whole.items() if key != name}, folder / file)
    short = name.removeprefix("base_model.model.")
    with pytest.raises(UserError, match=short.replace(".", r"\.")):
        saved_model.load(folder)
    save_file(whole | {name: whole[name][:1].clone()}, folder / file)
    with pytest.raises(UserError, match=rf"tensor {short}: found the shape \[1".replace(".", r"\.")):
        saved_model.load(folder)


@pytest.mark.parametrize("file", ["adapter.safetensors", "encoder.safetensors", "plora/adapter_model.safetensors"])
def test_a_missing_or_damaged_file_is_one_line(folder: Path, file: str) -> None:
    (folder / file).write_bytes((folder / file).read_bytes()[:20])
    with pytest.raises(UserError, match=r"found .+, expected the tensors of a trained model"):
        saved_model.load(folder)
    (folder / file).unlink()
    with pytest.raises(UserError, match=r"found .+, expected the tensors of a trained model"):
        saved_model.load(folder)
