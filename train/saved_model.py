"""A trained model on disk: the trained weights, and the sources of the frozen ones.

    config.json          sources of encoder and LLM, emotion classes, pad_to_30s, seed, which weights were trained
    adapter.safetensors  adapter and emotion head
    encoder.safetensors  the encoder, if stage 2 trained it
    plora/               P-LoRA in peft's own format

train/fit adds losses.jsonl and run.json, which tell of the training. The frozen LLM is never copied. It is fetched
again by name, revision and checksum.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as as_safetensors
from torch import nn

from pipeline.stage import UserError
from pipeline.tables import parquet
from pipeline.weights.encoder import load_encoder
from pipeline.weights.llm import load_llm
from pipeline.weights.source import fetch
from train.model import SpeechLLM
from train.model.emotion_head import HeadShape
from train.model.encoder import SpeechEncoder
from train.model.plora import ADAPTER_NAME
from train.model_config import CONFIG_FILE, ModelConfig, load_config
from train.own_forward import check_own_forward

ENCODER_FILE = "encoder.safetensors"
PEFT_PREFIX = "base_model.model."  # of the tensor names in peft's files


def build(config: ModelConfig, dtype: torch.dtype) -> SpeechLLM:
    """Build the model as it was before training, from base weights and the seed.

    The LLM's weights have the type `dtype`; all other weights are float32. The adapter's output starts with the mean
    norm of the LLM's token embeddings, so that speech embeddings have the scale of the LLM's usual inputs. Raises
    UserError if a model lacks a weight, or if training would compute other logits than the LLM itself.
    """
    encoder_folder, llm_folder = fetch(config.models.encoder), fetch(config.models.llm)
    whisper = load_encoder(encoder_folder)
    llm = load_llm(llm_folder, dtype)
    torch.manual_seed(config.seed)
    head = HeadShape(pooling=config.head_pooling, layers=config.head_layers)
    model = SpeechLLM(SpeechEncoder(whisper, config.pad_to_30s), llm, len(config.emotions), head)
    model.adapter.start_at_norm(token_norm(model))
    model.eval()
    check_own_forward(model)
    return model


@torch.no_grad()
def token_norm(model: SpeechLLM) -> float:
    """Return the mean norm of the token embeddings as the LLM uses them: Gemma multiplies its table by sqrt(width)."""
    table = model.token_embeddings
    embeddings = table(torch.arange(table.num_embeddings, device=table.weight.device))
    return float(embeddings.float().norm(dim=-1).mean())


def save(model: SpeechLLM, config: ModelConfig, folder: Path) -> None:
    """Write the trained weights of `model` and then its config into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(_prefixed(model, "adapter", "head"), folder / "adapter.safetensors")
    if config.encoder_trained:
        _write(_prefixed(model, "encoder"), folder / ENCODER_FILE)
    if config.plora:
        assert model.plora is not None
        (folder / "plora").mkdir(exist_ok=True)
        _write(plora_state(model), folder / "plora" / SAFETENSORS_WEIGHTS_NAME)
        plora = copy.copy(model.plora)
        if isinstance(plora.target_modules, set):
            plora.target_modules = sorted(plora.target_modules)  # the order of a set differs from run to run
        plora.save_pretrained(str(folder / "plora"))
    (folder / CONFIG_FILE).write_text(json.dumps(config.model_dump(), indent=1) + "\n")


def load(folder: Path, dtype: torch.dtype = torch.float32, *, with_plora: bool = True) -> SpeechLLM:
    """Load a trained model and the base weights that its config names, in evaluation mode."""
    model = build(load_config(folder), dtype)
    load_trained(model, folder, with_plora=with_plora)
    return model


def load_trained(model: SpeechLLM, folder: Path, *, with_plora: bool = True) -> None:
    """Load the trained weights into the model that `build` has made from the folder's config."""
    config = load_config(folder)
    if config.plora and with_plora:
        lora = PeftConfig.from_pretrained(str(folder / "plora"))
        assert isinstance(lora, LoraConfig)
        model.add_plora(lora, everywhere=config.plora_positions == "all")
        load_plora(model, read_plora(folder))
    _load(model, folder / "adapter.safetensors", "adapter", "head")
    if config.encoder_trained:
        _load(model, folder / ENCODER_FILE, "encoder")
    model.eval()


def plora_state(model: SpeechLLM) -> dict[str, torch.Tensor]:
    """Return P-LoRA's tensors under the names that peft uses in its files."""
    state: dict[str, Any] = get_peft_model_state_dict(model.llm, adapter_name=ADAPTER_NAME)
    return {PEFT_PREFIX + name: tensor.contiguous() for name, tensor in state.items()}


def read_plora(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of P-LoRA in a model folder."""
    return _read(folder / "plora" / SAFETENSORS_WEIGHTS_NAME)


def plora_size(folder: Path) -> tuple[int, int]:
    """Return rank and alpha of P-LoRA in a model folder."""
    config = PeftConfig.from_pretrained(str(folder / "plora"))
    assert isinstance(config, LoraConfig)
    return config.r, config.lora_alpha


def load_plora(model: SpeechLLM, state: dict[str, torch.Tensor]) -> None:
    """Load P-LoRA's tensors into the model; raises UserError if their names differ from those in the model."""
    named = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in state.items()}
    expected: dict[str, Any] = get_peft_model_state_dict(model.llm, adapter_name=ADAPTER_NAME)
    if named.keys() != expected.keys():
        name = min(named.keys() ^ expected.keys())
        place = "file" if name in named else "model"
        raise UserError(f"plora: the tensor {name} is only in the {place}; expected the same tensors in both")
    _check_shapes("plora", named, expected)
    set_peft_model_state_dict(model.llm, named, ADAPTER_NAME)


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a file with Python's own functions: safetensors does not report a full disk as an OSError."""
    with parquet.whole(path) as partial:
        partial.write_bytes(as_safetensors(tensors))


def _load(model: SpeechLLM, file: Path, *prefixes: str) -> None:
    """Load the tensors with these prefixes; raises UserError if the file has others, or other shapes."""
    state, expected = _read(file), _prefixed(model, *prefixes)
    if lacking := sorted(expected.keys() - state.keys()):
        raise UserError(f"{file}: lacks the tensor {lacking[0]}; expected all tensors of a trained model")
    if unknown := sorted(state.keys() - expected.keys()):
        raise UserError(f"{file}: found the tensor {unknown[0]}, expected only tensors that the model has")
    _check_shapes(str(file), state, expected)
    model.load_state_dict(state, strict=False)


def _read(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"{file}: found {error}, expected the tensors of a trained model") from None


def _check_shapes(place: str, found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in found.items():
        if (shape := list(expected[name].shape)) != list(tensor.shape):
            raise UserError(f"{place}: tensor {name}: found the shape {list(tensor.shape)}, expected {shape}")


def _prefixed(model: nn.Module, *prefixes: str) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    return {name: tensor.contiguous() for name, tensor in state.items() if name.split(".")[0] in prefixes}
