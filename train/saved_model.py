"""A trained model on disk: what was trained, and the names of what was not.

    config.json          weights of encoder and LLM, emotion classes, pad_to_30s, whether there is P-LoRA
    adapter.safetensors  adapter and emotion head
    encoder.safetensors  the encoder, where stage 2 trained it
    plora/               P-LoRA in peft's own format

The frozen LLM is never copied: it is fetched again by name, revision and checksum.
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
PEFT_PREFIX = "base_model.model."  # of a tensor's name in an adapter file


class ModelConfig(BaseModel):
    """What config.json says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: ModelsParams
    emotions: list[str]
    pad_to_30s: bool
    seed: int
    """From which the adapter and the head started."""
    encoder_trained: bool
    plora: bool


def build(config: ModelConfig, dtype: torch.dtype) -> SpeechLLM:
    """Assemble the model as it was before any training, from base weights and the seed.

    The LLM is held in `dtype`, all that may be trained in float32. The adapter's output starts at the
    mean norm of the LLM's token embeddings, which is what the LLM is used to.
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
    """Write the trained parts of `model` and its config into `folder`, the config last."""
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
            plora.target_modules = sorted(plora.target_modules)  # else its order differs from run to run
        plora.save_pretrained(str(folder / "plora"))
    (folder / CONFIG_FILE).write_text(json.dumps(config.model_dump(), indent=1) + "\n")


def load_config(folder: Path) -> ModelConfig:
    """Read config.json; raises UserError when there is no model."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{folder}: no trained model there ({CONFIG_FILE} is missing); run python -m train.fit first")
    return ModelConfig.model_validate_json(file.read_text())


def load(folder: Path, dtype: torch.dtype = torch.float32) -> SpeechLLM:
    """Load a trained model with the base weights that its config names, ready to answer."""
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
        raise UserError(f"{folder}: adapter.safetensors holds {unknown[0]}, which the model does not have")
    return model.eval()


def plora_state(model: SpeechLLM) -> dict[str, torch.Tensor]:
    """Return P-LoRA's tensors under the names that peft gives them in a file."""
    state: dict[str, Any] = get_peft_model_state_dict(model.llm, adapter_name=ADAPTER_NAME)
    return {PEFT_PREFIX + name: tensor.contiguous() for name, tensor in state.items()}


def load_plora(model: SpeechLLM, state: dict[str, torch.Tensor]) -> None:
    """Set P-LoRA's tensors; the names must be those of the model's layers."""
    named = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in state.items()}
    expected = get_peft_model_state_dict(model.llm, adapter_name=ADAPTER_NAME).keys()
    if named.keys() != expected:
        raise UserError(f"plora: found {min(named.keys() ^ expected)}, expected the tensors of the LLM's own layers")
    set_peft_model_state_dict(model.llm, named, ADAPTER_NAME)


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a file by Python's own means: safetensors' tells no full disk as such."""
    with parquet.whole(path) as partial:
        partial.write_bytes(as_safetensors(tensors))


def _prefixed(model: nn.Module, *prefixes: str) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    return {name: tensor.contiguous() for name, tensor in state.items() if name.split(".")[0] in prefixes}
