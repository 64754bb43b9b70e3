"""Tiny models of several LLM families, and clips whose emotion only the test knows."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from pipeline.audio import mono_16k
from pipeline.audio.speech_tokens import num_mel_frames, num_speech_tokens
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams
from tests.backbones import BACKBONES, SMALL
from tests.builders import model_config
from tests.conftest import character_tokenizer
from train import saved_model
from train.model import Speech, SpeechLLM
from train.model.checkpointed_layers import decoder_layers
from train.model.plora import lora_config
from train.model_config import ModelConfig

EMOTIONS = ["sad", "happy"]
STEP = 800  # samples: lengths of clips differ by multiples of it


def tiny_config(folder: Path, tiny_models: ModelsParams, family: str, **changes: Any) -> ModelConfig:
    """Write a random LLM of a family, and return the config of a model with P-LoRA."""
    torch.manual_seed(0)
    settings = SMALL | BACKBONES[family].more | {"initializer_range": 0.1} | changes
    transformers.AutoModelForCausalLM.from_config(BACKBONES[family].config(**settings)).save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    llm = tiny_models.llm.model_copy(update={"source": str(folder)})
    return model_config(tiny_models.model_copy(update={"llm": llm}), plora=True)


def build(config: ModelConfig) -> SpeechLLM:
    """Build the model with trained P-LoRA."""
    model = saved_model.build(config, torch.float32)
    model.add_plora(lora_config(2, 4, 0.0, "all-linear"))
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def emotion_of(num_frames: Tensor) -> Tensor:
    """Return the emotion of clips by their length: 0 or 1 in turn, so that no linear probe finds it in the sound."""
    return num_frames * mono_16k.SAMPLE_RATE_HZ // 100 // STEP % 2


def plant(model: SpeechLLM, removed_after: int | None) -> SpeechLLM:
    """Let each clip's emotion decide the adapter's output, and remove everything after a layer of the LLM."""
    encode, direction = model.encode_speech, torch.linspace(-1, 1, model.token_embeddings.embedding_dim)

    def encode_emotion(features: Any, num_frames: Tensor, clips: Any = None) -> Speech:
        speech = encode(features, num_frames, clips)
        sign = (2 * emotion_of(num_frames) - 1)[: len(speech.embeddings), None, None]
        embeddings = 0.01 * speech.embeddings / speech.embeddings.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        return Speech(embeddings=embeddings + sign * direction, valid=speech.valid, clips=speech.clips)

    model.encode_speech = encode_emotion  # type: ignore[method-assign]
    if removed_after is not None:
        layer = decoder_layers(model.llm)[removed_after - 1]
        layer.register_forward_hook(lambda _layer, _inputs, output: torch.zeros_like(output))
    return model


def write_clips(folder: Path, speakers: dict[str, int], *, corpus: str = "corpus", each: int = 10) -> Path:
    """Write clips of noise; `speakers` is the number of speakers of each split.

    Every second clip of test has words of the training, in another spelling.
    """
    generator = np.random.default_rng(0)

    def row(split: str, speaker: int, i: int) -> dict[str, Any]:
        emotion = (i // 2 + speaker) % 2
        num_samples = STEP * (2 * int(generator.integers(5, 12)) + emotion)
        samples = (0.1 * generator.standard_normal(num_samples)).astype(np.float32)
        return {
            "id": f"{corpus}/{split}-{speaker}-{i}",
            "corpus": corpus,
            "speaker": f"{corpus}/{split}-{speaker}",
            "emotion": EMOTIONS[emotion],
            "text": f"dogs are {i % 3}" if split != "test" else ("Dogs are 1!", "cats are 5")[i % 2],
            "audio": {"bytes": mono_16k.encode_flac(samples), "path": None},
            "num_samples": len(samples),
            "num_speech_tokens": num_speech_tokens(num_mel_frames(len(samples))),
            "num_text_tokens": 0,
            "num_response_tokens": 0,
            "text_ids": [],
            "response_ids": [],
        }

    shell = packed.PromptShell(before_speech=[5, 6], before_text=None, after=[7])
    with packed.Writer(folder, shell, shard_bytes=1 << 20) as writer:
        for split in ("train", "dev", "test"):
            writer.write(split, (row(split, s, i) for s in range(speakers.get(split, 0)) for i in range(each)))
    return folder
