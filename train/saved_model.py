"""A trained model on disk: the trained weights, and the sources of the frozen ones.

    config.json          sources of encoder and LLM, emotion classes, pad_to_30s, seed, which weights were trained
    adapter.safetensors  adapter and emotion head
    encoder.safetensors  the encoder, if stage 2 trained it
    plora/               P-LoRA in peft's own format

The frozen LLM is never copied. It is fetched again by name, revision and checksum.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file
from safetensors.torch import save as as_safetensors
from torch import nn
from transformers import AutoModelForCausalLM, WhisperModel

from pipeline.stage import UserError
from pipeline.tables import parquet
from pipeline.weights.source import ModelsParams, fetch, loading
from train.model import SpeechLLM
from train.model.encoder import SpeechEncoder
from train.model.plora import ADAPTER_NAME

CONFIG_FILE = "config.json"
PEFT_PREFIX = "base_model.model."  # of the tensor names in peft's files


class ModelConfig(BaseModel):
    """The content of config.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: ModelsParams
    emotions: list[str]
    pad_to_30s: bool
    seed: int
    """Seed of the initial weights of adapter and emotion head."""
    encoder_trained: bool
    plora: bool


def build(config: ModelConfig, dtype: torch.dtype) -> SpeechLLM:
    """Build the model as it was before training, from base weights and the seed.

    The LLM's weights have the type `dtype`; all other weights are float32. The adapter's output starts with the mean
    norm of the LLM's token embeddings, so that speech embeddings have the scale of the LLM's usual inputs.
    """
    encoder_folder, llm_folder = fetch(config.models.encoder), fetch(config.models.llm)
    with loading(encoder_folder):
        whisper = WhisperModel.from_pretrained(encoder_folder, dtype=torch.float32)
    with loading(llm_folder):
        llm = AutoModelForCausalLM.from_pretrained(llm_folder, dtype=dtype)
    torch.manual_seed(config.seed)
    model = SpeechLLM(SpeechEncoder(whisper.encoder, config.pad_to_30s), llm, len(config.emotions))
    model.adapter.start_at_norm(float(model.token_embeddings.weight.float().norm(dim=-1).mean()))
    return model.eval()


def save(model: SpeechLLM, config: ModelConfig, folder: Path) -> None:
    """Write the trained weights of `model` and then its config into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(_prefixed(model, "adapter", "head"), folder / "adapter.safetensors")
    if config.encoder_trained:
        _write(_prefixed(model, "encoder"), folder / "encoder.safetensors")
    if config.plora:
        assert model.plora is not None
        (folder / "plora").mkdir(exist_ok=True)
        _write(plora_state(model), folder / "plora" / SAFETENSORS_WEIGHTS_NAME)
        plora = copy.copy(model.plora)
        if isinstance(plora.target_modules, set):
            plora.target_modules = sorted(plora.target_modules)  # the order of a set differs from run to run
        plora.save_pretrained(str(folder / "plora"))
    (folder / CONFIG_FILE).write_text(json.dumps(config.model_dump(), indent=1) + "\n")


def load_config(folder: Path) -> ModelConfig:
    """Read config.json; raises UserError if there is no model."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{folder}: no trained model there ({CONFIG_FILE} is missing); run python -m train.fit first")
    return ModelConfig.model_validate_json(file.read_text())


def load(folder: Path, dtype: torch.dtype = torch.float32) -> SpeechLLM:
    """Load a trained model and the base weights that its config names, in evaluation mode."""
    config = load_config(folder)
    model = build(config, dtype)
    if config.plora:
        lora = PeftConfig.from_pretrained(str(folder / "plora"))
        assert isinstance(lora, LoraConfig)
        model.add_plora(lora)
        load_plora(model, load_file(folder / "plora" / SAFETENSORS_WEIGHTS_NAME))
    state = load_file(folder / "adapter.safetensors")
    if config.encoder_trained:
        state |= load_file(folder / "encoder.safetensors")
    unknown = model.load_state_dict(state, strict=False).unexpected_keys
    if unknown:
        raise UserError(f"{folder}: found the tensor {unknown[0]}, expected only tensors that the model has")
    return model.eval()


def plora_state(model: SpeechLLM) -> dict[str, torch.Tensor]:
    """Return P-LoRA's tensors under the names that peft uses in its files."""
    state: dict[str, Any] = get_peft_model_state_dict(model.llm, adapter_name=ADAPTER_NAME)
    return {PEFT_PREFIX + name: tensor.contiguous() for name, tensor in state.items()}


def load_plora(model: SpeechLLM, state: dict[str, torch.Tensor]) -> None:
    """Load P-LoRA's tensors into the model; raises UserError if their names differ from those in the model."""
    named = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in state.items()}
    expected = get_peft_model_state_dict(model.llm, adapter_name=ADAPTER_NAME).keys()
    if named.keys() != expected:
        name = min(named.keys() ^ expected)
        place = "file" if name in named else "model"
        raise UserError(f"plora: the tensor {name} is only in the {place}; expected the same tensors in both")
    set_peft_model_state_dict(model.llm, named, ADAPTER_NAME)


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a file with Python's own functions: safetensors does not report a full disk as an OSError."""
    with parquet.whole(path) as partial:
        partial.write_bytes(as_safetensors(tensors))


def _prefixed(model: nn.Module, *prefixes: str) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    return {name: tensor.contiguous() for name, tensor in state.items() if name.split(".")[0] in prefixes}
