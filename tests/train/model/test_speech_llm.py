"""What is frozen has no dropout in a training step, and what is trained has its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from torch import nn

from pipeline.weights.source import ModelsParams
from tests import builders
from train import saved_model
from train.losses import response_kl
from train.model import SpeechLLM
from train.model.inputs import sequences
from train.model.plora import lora_config

LLMS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "Granite": (t.GraniteConfig, {"attention_dropout": 0.1}),
    "Phi": (t.PhiConfig, {"attention_dropout": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1, "num_key_value_heads": 4}),
}


def build(tiny_models: ModelsParams, folder: Path, name: str) -> SpeechLLM:
    config, dropout = LLMS[name]
    small = {
        "vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    t.AutoModelForCausalLM.from_config(config(**(small | dropout))).save_pretrained(folder / "llm")
    whisper = t.WhisperModel.from_pretrained(tiny_models.encoder.source)
    for part in ("dropout", "attention_dropout", "activation_dropout"):
        setattr(whisper.config, part, 0.1)
    whisper.save_pretrained(folder / "encoder")
    t.WhisperFeatureExtractor().save_pretrained(folder / "encoder")
    models = ModelsParams.model_validate({name: builders.weights(folder / name) for name in ("encoder", "llm")})
    return saved_model.build(builders.model_config(models), torch.float32)


@pytest.mark.parametrize("name", LLMS)
def test_the_teacher_agrees_with_itself_in_a_training_step(
    tmp_path: Path, tiny_models: ModelsParams, name: str
) -> None:
    model = build(tiny_models, tmp_path, name)
    text = sequences([5, 6], [[20, 21, 22], [30, 31]], [7], [[40, 41, 0], [50, 0]])
    model.train()
    with torch.no_grad():
        first, second = (model.response_states(text, None) for _ in range(2))
        assert response_kl(first, second, model.output_head, 1.0).abs().max() == 0
        model.eval()
        assert torch.equal(model.response_states(text, None), first)


def test_a_frozen_encoder_has_no_dropout_and_a_trained_one_has(tmp_path: Path, tiny_models: ModelsParams) -> None:
    model = build(tiny_models, tmp_path, "Granite")
    features, frames = torch.randn(1, 80, 100), torch.tensor([100])
    model.train()
    with torch.no_grad():
        first, second = (model.encode_speech(features, frames).embeddings for _ in range(2))
    assert torch.equal(first, second)
    model.encoder.train_weights()
    model.train()
    with torch.no_grad():
        first, second = (model.encode_speech(features, frames).embeddings for _ in range(2))
    assert not torch.equal(first, second)


def test_plora_keeps_its_own_dropout_in_a_training_step_only(tmp_path: Path, tiny_models: ModelsParams) -> None:
    model = build(tiny_models, tmp_path, "Granite")
    model.add_plora(lora_config(4, 4, 0.5, "all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        speech = model.encode_speech(torch.randn(1, 80, 100), torch.tensor([100]))
        asked = sequences([5, 6], [[None] * speech.embeddings.shape[1]], [7], [[40, 41]])
        model.train()
        assert not torch.equal(*(model.response_states(asked, speech) for _ in range(2)))
        model.eval()
        assert torch.equal(*(model.response_states(asked, speech) for _ in range(2)))
